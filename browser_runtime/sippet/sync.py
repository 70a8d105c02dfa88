"""The client for programs that don't await: the same names, and each call waits.

::

    from sippet.sync import SippClient

    with SippClient() as client:
        client.add("chat", LocalModel("model.gguf"))
        run = client.chat([{"role": "user", "content": "Hello"}], emit_tokens=True)
        for batch in run.tokens:
            print(batch.text, end="")
        print(run.response.usage)

In CPython the work is done in a thread of the client's own; callbacks are called there. In Pyodide it needs stack
switching (JSPI), elsewhere the constructor raises :class:`UnsupportedEnvironment`.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from . import client, platform, runs
from .client import ClientOptions, ClientState
from .endpoints import Descriptor, EndpointRef
from .events import ClientEvent, OnProgress
from .messages import Messages
from .results import EmbedResult, RerankResult, TextResult, TokenBatch, ToolsResult
from .tools import Tool

if TYPE_CHECKING:
    from .models.installed import InstalledModel
    from .models.plan import MemoryLimit
    from .models.registry import RegistryEntry
    from .models.reports import Estimate, StorageReport
    from .models.store import ModelStore
    from .models.verification import Verification

T = TypeVar("T")


class Run(Generic[T]):
    """One request. It starts at once; :attr:`response` waits for its result."""

    def __init__(self, waiter: platform.Waiter, run: runs.Run[T]) -> None:
        """
        Args:
            waiter: waits.
            run: what it waits for.
        """
        self._waiter = waiter
        self._run = run
        self.endpoint = run.endpoint

    @property
    def response(self) -> T:
        """The result; waits for it."""
        return self._waiter.run(_outcome(self._run))

    @property
    def done(self) -> bool:
        """Whether the run has ended, one way or another."""
        return self._run.done

    @property
    def error(self) -> BaseException | None:
        """What made the run fail, once it has ended; ``None`` while it runs and where it ended well."""
        return self._run.error

    def add_done_callback(self, callback: Callable[[Self], Any]) -> None:
        """Call ``callback`` with the run when it has ended."""
        self._waiter.run(_calling(lambda: self._run.add_done_callback(lambda _: callback(self))))

    def cancel(self, reason: str = "cancelled") -> None:
        """Stop the request; nothing happens where it has ended.

        A :class:`TextRun` then ends with the text so far and ``finish_reason="cancelled"``; any other run raises
        :class:`Cancelled`. May be called from any thread but the client's own.
        """
        self._waiter.run(_calling(lambda: self._run.cancel(reason)))


class TextRun(Run[TextResult]):
    """One generation; :attr:`response` waits for its :class:`TextResult`."""

    def __init__(self, waiter: platform.Waiter, run: runs.TextRun) -> None:
        """
        Args:
            waiter: waits.
            run: what it waits for.
        """
        super().__init__(waiter, run)
        self._text = run

    @property
    def tokens(self) -> Iterator[TokenBatch]:
        """The text as it comes; each step waits for more."""
        return self._batches(self._text.tokens)

    def _batches(self, tokens: Any) -> Iterator[TokenBatch]:
        while (batch := self._waiter.run(_next(tokens))) is not None:
            yield batch


class Models:
    """The installed models; each call waits. See :class:`sippet.models.store.ModelStore`."""

    def __init__(self, waiter: platform.Waiter, store: ModelStore) -> None:
        """
        Args:
            waiter: waits.
            store: what it waits for.
        """
        self._waiter = waiter
        self._store = store

    def add(self, source: Any, **options: Any) -> InstalledModel:
        """Install a model."""
        return self._waiter.run(self._store.add(source, **options))

    def list(self) -> Sequence[InstalledModel]:
        """The installed models, the latest used first."""
        return self._waiter.run(self._store.list())

    def get(self, id: str) -> InstalledModel:
        """The installed model with this id."""
        return self._waiter.run(self._store.get(id))

    def remove(self, id: str) -> int:
        """Remove a model. Returns the bytes that were freed."""
        return self._waiter.run(self._store.remove(id))

    def verify(self, id: str, *, repair: bool = True, on_progress: OnProgress | None = None) -> Verification:
        """Hold every chunk of a model against its hash."""
        return self._waiter.run(self._store.verify(id, repair=repair, on_progress=on_progress))

    def estimate(self, source: Any, **options: Any) -> Estimate:
        """What a model would take."""
        return self._waiter.run(self._store.estimate(source, **options))

    def registry(self) -> Mapping[str, RegistryEntry]:
        """The models that can be added by name, the default one first."""
        return self._waiter.run(self._store.registry())

    def storage(self) -> StorageReport:
        """What there is, and what models take."""
        return self._waiter.run(self._store.storage())

    def remove_unfinished(self) -> int:
        """Remove what installations that were not finished have left. Returns the bytes that were freed."""
        return self._waiter.run(self._store.remove_unfinished())

    def memory_limit(self) -> MemoryLimit:
        """The memory that a model may take here."""
        return self._waiter.run(self._store.memory_limit())

    def persist(self) -> bool:
        """Ask that storage is kept when space runs low. Returns whether it is."""
        return self._waiter.run(self._store.persist())


class SippClient:
    """Language models behind one API; each call waits. See :class:`sippet.client.SippClient`."""

    def __init__(self, **options: Any) -> None:
        """
        Args:
            options: the fields of :class:`ClientOptions`.

        Raises:
            UnsupportedEnvironment: this place can't wait.
        """
        self._client = client.SippClient(**options)
        self._waiter = platform.current().waiter()
        self._end = weakref.finalize(self, _end, self._waiter, self._client)

    @property
    def options(self) -> ClientOptions:
        """What the client was made with."""
        return self._client.options

    @property
    def state(self) -> ClientState:
        """``ready``, ``loading`` while an endpoint is added, ``closed``."""
        return self._client.state

    @property
    def endpoints(self) -> list[EndpointRef]:
        """The endpoints, in the order in which they were added."""
        return self._client.endpoints

    @property
    def models(self) -> Models:
        """The models that are installed here; each call waits."""
        return Models(self._waiter, self._client.models)

    def subscribe(self, callback: Callable[[ClientEvent], Any]) -> Callable[[], None]:
        """Call ``callback`` with every event, in the client's thread. Returns what ends the subscription."""
        return self._client.subscribe(callback)

    def add(self, id: str, descriptor: Descriptor) -> EndpointRef:
        """Make an endpoint ready, and wait until it is.

        Raises:
            ModelError, PlatformError, RemoteError: it can't be made ready; an endpoint of that id stays as it was.
        """
        return self._waiter.run(self._client.add(id, descriptor))

    def remove(self, id: str | EndpointRef) -> None:
        """Take an endpoint away and free its memory. Its runs are cancelled."""
        self._waiter.run(self._client.remove(id))

    def query(self, prompt: str, *, endpoint: str | EndpointRef | None = None, **options: Any) -> TextRun:
        """Continue a raw prompt; no chat template is applied.

        Args:
            prompt: the text to continue.
            endpoint: which one; may be left out where there is only one.
            options: the fields of :class:`TextOptions`.
        """
        return self._text(lambda: self._client.query(prompt, endpoint=endpoint, **options))

    def chat(self, messages: Messages, *, endpoint: str | EndpointRef | None = None, **options: Any) -> TextRun:
        """Answer a conversation, through the model's own chat template.

        Args:
            messages: mappings or :class:`ChatMessage` objects with ``role`` and ``content``.
            endpoint: which one; may be left out where there is only one.
            options: the fields of :class:`TextOptions`.

        Raises:
            UnsupportedOperation: the model has no chat template.
        """
        return self._text(lambda: self._client.chat(messages, endpoint=endpoint, **options))

    def embed(
        self, input: str | Sequence[str], *, endpoint: str | EndpointRef | None = None, **options: Any
    ) -> Run[EmbedResult]:
        """Turn texts into vectors. See :meth:`sippet.client.SippClient.embed`."""
        return Run(self._waiter, self._start(lambda: self._client.embed(input, endpoint=endpoint, **options)))

    def rerank(
        self,
        query: str,
        documents: Sequence[str],
        *,
        top_n: int | None = None,
        endpoint: str | EndpointRef | None = None,
    ) -> Run[RerankResult]:
        """Order documents by how well they answer a query. See :meth:`sippet.client.SippClient.rerank`."""
        start = self._start(lambda: self._client.rerank(query, documents, top_n=top_n, endpoint=endpoint))
        return Run(self._waiter, start)

    def tokenize(
        self,
        text: str,
        *,
        add_special: bool = True,
        parse_special: bool = True,
        endpoint: str | EndpointRef | None = None,
    ) -> list[int]:
        """The tokens of a text. See :meth:`sippet.client.SippClient.tokenize`."""
        return self._waiter.run(
            self._client.tokenize(text, add_special=add_special, parse_special=parse_special, endpoint=endpoint)
        )

    def detokenize(self, tokens: Sequence[int], *, endpoint: str | EndpointRef | None = None) -> str:
        """The text of tokens."""
        return self._waiter.run(self._client.detokenize(tokens, endpoint=endpoint))

    def apply_template(self, messages: Messages, *, endpoint: str | EndpointRef | None = None) -> str:
        """The prompt that the model's chat template makes of a conversation."""
        return self._waiter.run(self._client.apply_template(messages, endpoint=endpoint))

    def save_context(self, key: str, *, endpoint: str | EndpointRef | None = None) -> int:
        """Keep a conversation on this device. See :meth:`sippet.client.SippClient.save_context`."""
        return self._waiter.run(self._client.save_context(key, endpoint=endpoint))

    def forget_context(self, key: str, *, endpoint: str | EndpointRef | None = None) -> None:
        """Delete a saved conversation. See :meth:`sippet.client.SippClient.forget_context`."""
        self._waiter.run(self._client.forget_context(key, endpoint=endpoint))

    def run_tools(
        self,
        messages: Messages,
        tools: Sequence[Callable[..., Any] | Tool],
        *,
        max_steps: int = 8,
        endpoint: str | EndpointRef | None = None,
        on_tokens: Callable[[TokenBatch], Any] | None = None,
        on_step: Callable[[Mapping[str, Any]], Any] | None = None,
        **options: Any,
    ) -> ToolsResult:
        """Answer a conversation, calling functions, in the client's thread, whenever the model asks for it.

        See :meth:`sippet.client.SippClient.run_tools`.
        """
        return self._waiter.run(
            self._client.run_tools(
                messages,
                tools,
                max_steps=max_steps,
                endpoint=endpoint,
                on_tokens=on_tokens,
                on_step=on_step,
                **options,
            )
        )

    def close(self) -> None:
        """Cancel what runs and free everything. Safe to call twice."""
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _text(self, start: Callable[[], runs.TextRun]) -> TextRun:
        return TextRun(self._waiter, self._start(start))

    def _start(self, start: Callable[[], T]) -> T:
        return self._waiter.run(_calling(start))


def _end(waiter: platform.Waiter, ended: client.SippClient) -> None:
    """Close a client, at the latest when the program ends."""
    try:
        waiter.run(ended.close())
    finally:
        waiter.close()


async def _calling(function: Callable[[], T]) -> T:
    """A call that must happen where the loop runs."""
    return function()


async def _outcome(run: runs.Run[T]) -> T:
    return await run


async def _next(tokens: Any) -> TokenBatch | None:
    return await anext(tokens, None)


__all__ = ["Models", "Run", "SippClient", "TextRun"]
