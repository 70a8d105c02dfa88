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
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self, TypeVar

from . import client, platform, runs
from .client import ClientOptions, ClientState
from .endpoints import Descriptor, EndpointRef
from .events import ClientEvent
from .messages import Messages
from .results import TextResult, TokenBatch

T = TypeVar("T")


class TextRun:
    """One generation. It starts at once; :attr:`response` waits for its :class:`TextResult`."""

    def __init__(self, waiter: platform.Waiter, run: runs.TextRun) -> None:
        """
        Args:
            waiter: waits.
            run: what it waits for.
        """
        self._waiter = waiter
        self._run = run
        self.endpoint = run.endpoint

    @property
    def response(self) -> TextResult:
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

    @property
    def tokens(self) -> Iterator[TokenBatch]:
        """The text as it comes; each step waits for more."""
        return self._batches(self._run.tokens)

    def add_done_callback(self, callback: Callable[[TextRun], Any]) -> None:
        """Call ``callback`` with the run when it has ended."""
        self._waiter.run(_calling(lambda: self._run.add_done_callback(lambda _: callback(self))))

    def cancel(self, reason: str = "cancelled") -> None:
        """Stop the engine. The run then ends with what it has so far and ``finish_reason="cancelled"``.

        May be called from any thread but the client's own.
        """
        self._waiter.run(_calling(lambda: self._run.cancel(reason)))

    def _batches(self, tokens: Any) -> Iterator[TokenBatch]:
        while (batch := self._waiter.run(_next(tokens))) is not None:
            yield batch


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

    def subscribe(self, callback: Callable[[ClientEvent], Any]) -> Callable[[], None]:
        """Call ``callback`` with every event, in the client's thread. Returns what ends the subscription."""
        return self._client.subscribe(callback)

    def add(self, id: str, descriptor: Descriptor) -> EndpointRef:
        """Make an endpoint ready, and wait until it is.

        Raises:
            ModelError, PlatformError, RemoteError: it can't be made ready; an endpoint of that id stays as it was.
        """
        return self._waiter.run(self._client.add(id, descriptor))

    def remove(self, id: str) -> None:
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
        return TextRun(self._waiter, self._waiter.run(_calling(start)))


def _end(waiter: platform.Waiter, ended: client.SippClient) -> None:
    """Close a client, at the latest when the program ends."""
    try:
        waiter.run(ended.close())
    finally:
        waiter.close()


async def _calling(function: Callable[[], T]) -> T:
    """A call that must happen where the loop runs."""
    return function()


async def _outcome(run: runs.TextRun) -> TextResult:
    return await run


async def _next(tokens: Any) -> TokenBatch | None:
    return await anext(tokens, None)


__all__ = ["SippClient", "TextRun"]
