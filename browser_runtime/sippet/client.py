"""The client: endpoints are added to it, requests are made of it."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

from . import _media, _requests, _tool_loop
from ._contexts import SavedContexts
from ._endpoint import Endpoint
from ._endpoints import Endpoints
from ._engines import open_engine
from ._fields import MOST, build, check, check_text, option, show
from ._room import Room
from .capabilities import refuse_unsupported
from .endpoints import DESCRIPTORS, Descriptor, EndpointRef, LocalModel
from .engines._shapes import text_of, understood
from .engines.base import CallKind, Engine, EngineInfo, StreamKind
from .engines.wasm import EngineChoice
from .errors import ClientClosed, InvalidOption, SippError, UnsupportedOperation
from .events import ClientEvent, Status, tell
from .messages import Messages, check_messages
from .options import EmbedOptions, TextOptions
from .platform.base import ExecutionMode, WasmThreading
from .results import EmbedResult, RerankResult, TextResult, TokenBatch, ToolsResult
from .runs import EmbedRun, RerankRun, Run, TextRun
from .tools import Tool, Toolbox

if TYPE_CHECKING:
    from .models.store import ModelStore

ClientState = Literal["ready", "loading", "closed"]
S = TypeVar("S", bound=Run[Any])


@dataclass(frozen=True, kw_only=True)
class ClientOptions:
    """Options of the browser, given to :class:`SippClient`."""

    execution_mode: ExecutionMode = option(
        "Where the engine runs: in a worker, or in the caller's thread.", default="auto"
    )
    wasm_threading: WasmThreading = option("The engine's build: with threads, or without.", default="auto")
    engine: EngineChoice = option("Which engine: our own, or wllama's build; auto takes the faster.", default="auto")
    module_url: str | None = option("Another engine module; needs wasm_url too.")
    wasm_url: str | None = option("Another engine's WASM file; needs module_url too.")
    worker_url: str | None = option("Another engine worker script.")
    trusted_origins: Sequence[str] = option("More origins that engine files may come from.", factory=tuple)
    browser_cache: bool = option(
        "Install a model that is given by its address, so that it is fetched once; `models.remove` frees it.",
        default=False,
    )

    def __post_init__(self) -> None:
        check(self)
        if (self.module_url is None) != (self.wasm_url is None):
            missing = "wasm_url" if self.wasm_url is None else "module_url"
            raise InvalidOption(missing, f"{missing} is missing: module_url and wasm_url go together.")


class SippClient:
    """Language models behind one API.

    Example::

        async with SippClient() as client:
            await client.add("chat", LocalModel("tiny-chat-f16"))
            result = await client.chat([{"role": "user", "content": "Hello"}])
            print(result.text)
    """

    def __init__(self, **options: Any) -> None:
        """
        Args:
            options: the fields of :class:`ClientOptions`.
        """
        self.options = build(ClientOptions, options, "SippClient()")
        self._endpoints = Endpoints(self._open, self._on_state)
        self._listeners: list[Callable[[ClientEvent], Any]] = []
        self._closing: asyncio.Task[None] | None = None
        self._models: ModelStore | None = None
        self._opened = AsyncExitStack()

    @property
    def state(self) -> ClientState:
        """``ready``, ``loading`` while an endpoint is added, ``closed``."""
        return "closed" if self._closing else self._endpoints.state

    @property
    def endpoints(self) -> list[EndpointRef]:
        """The endpoints, in the order in which they were added."""
        return self._endpoints.refs

    @property
    def models(self) -> ModelStore:
        """The models that are installed here: ``add``, ``list``, ``get``, ``remove``, ``verify``, ``estimate``."""
        if self._models is None:
            from .models.store import ModelStore  # not before it is needed: it would make every start slower

            self._models = self._opened.push_async_exit(ModelStore())
        return self._models

    @property
    def _contexts(self) -> SavedContexts:
        from .platform.storage import default_storage

        return SavedContexts(default_storage())

    def subscribe(self, callback: Callable[[ClientEvent], Any]) -> Callable[[], None]:
        """Call ``callback`` with every event. Returns what ends the subscription.

        Example::

            end = client.subscribe(lambda event: print(event.type, event.endpoint))
            end()
        """
        if not callable(callback):
            raise InvalidOption("callback", f"subscribe() takes a function, not {show(callback)}.")
        self._listeners.append(callback)

        def unsubscribe() -> None:
            with suppress(ValueError):
                self._listeners.remove(callback)

        return unsubscribe

    async def add(self, id: str, descriptor: Descriptor) -> EndpointRef:
        """Make an endpoint ready. One that has the id already is replaced when its runs have ended.

        Example::

            ref = await client.add("chat", LocalModel("tiny-chat-f16", runtime={"context": {"n_ctx": 256}}))
            print(ref.id, ref.info.n_ctx)

        Cancelling it stops the download or the load.

        Raises:
            ModelError, PlatformError, RemoteError: it can't be made ready; an endpoint of that id stays as it was.
            ClientClosed: the client was closed meanwhile.
        """
        self._check_open()
        if not check_text("id", id):
            raise InvalidOption("id", "An endpoint's id is a text that is not empty.")
        if not isinstance(descriptor, Descriptor):
            names = ", ".join(cls.__name__ for cls in DESCRIPTORS.values())
            raise InvalidOption("descriptor", f"add() takes one of {names}, not {type(descriptor).__name__}.")
        try:
            endpoint = await self._endpoints.add(id, descriptor)
        except asyncio.CancelledError:
            if self._closing:
                raise ClientClosed("The client was closed while the endpoint was added.") from None
            raise
        except SippError as error:
            self._report(id, descriptor, Status("error", str(error)))
            raise
        _report(descriptor, Status("ready", "Ready."))
        for reason in endpoint.info.degraded:
            self._emit("degraded", id, reason=reason)
        self._emit("ready", id)
        return endpoint.ref

    async def remove(self, id: str | EndpointRef) -> None:
        """Take an endpoint away and free its memory. Its runs are cancelled.

        Example::

            await client.add("spare", LocalModel("tiny-chat-f16"))
            await client.remove("spare")
        """
        if id is None:
            raise InvalidOption("id", "remove() needs an endpoint's id.")
        await self._endpoints.remove(self._find(id))

    def query(self, prompt: str, *, endpoint: str | EndpointRef | None = None, **options: Any) -> TextRun:
        """Continue a raw prompt; no chat template is applied.

        Example::

            result = await client.query("One, two, three,", max_tokens=8, stop=["."])
            print(result.text, result.finish_reason)

        Args:
            prompt: the text to continue; with ``media``, ``<__media__>`` stands for each image.
            endpoint: which one; may be left out where there is only one.
            options: the fields of :class:`TextOptions`.

        Raises:
            UsageError: an option is wrong, or this endpoint can't honour it.
        """
        return self._text("completion", {"prompt": check_text("prompt", prompt)}, endpoint, "query()", options)

    def chat(self, messages: Messages, *, endpoint: str | EndpointRef | None = None, **options: Any) -> TextRun:
        """Answer a conversation, through the model's own chat template.

        Example::

            run = client.chat([{"role": "user", "content": "Tell me a story."}], emit_tokens=True, max_tokens=40)
            async for batch in run.tokens:
                print(batch.text, end="")
            result = await run
            print(result.usage.completion_tokens, result.timings.tokens_per_second)

        Args:
            messages: mappings or :class:`ChatMessage` objects with ``role`` and ``content``. A content may be a list of
                OpenAI's parts, and of ``{"type": "image", "image": bytes, path, URL or Blob}``.
            endpoint: which one; may be left out where there is only one.
            options: the fields of :class:`TextOptions`.

        Raises:
            UsageError: an option is wrong, or this endpoint can't honour it.
            UnsupportedOperation: the model has no chat template.
        """
        return self._text("chat", {"messages": check_messages(messages)}, endpoint, "chat()", options)

    def embed(
        self, input: str | Sequence[str], *, endpoint: str | EndpointRef | None = None, **options: Any
    ) -> EmbedRun:
        """Turn texts into vectors.

        Example::

            result = await client.embed(["a red circle", "a blue square"])
            print(result.dimensions, sum(a * b for a, b in zip(*result.embeddings)))

        A text model can embed too, where it was added with ``runtime={"context": {"embeddings": True, "pooling":
        "mean"}}``; a model that was made for embedding needs no such thing.

        Args:
            input: a text, or several.
            endpoint: which one; may be left out where there is only one.
            options: the fields of :class:`EmbedOptions`.

        Returns:
            A run whose result has one vector for each text: :class:`EmbedResult`.

        Raises:
            UnsupportedOperation: the model was not loaded for embedding.
        """
        texts = _requests.texts_of("input", input)
        parsed = build(EmbedOptions, options, "embed()")
        target = self._find(endpoint, lambda info: info.embeds is not False)
        info = target.info
        refuse_unsupported(parsed, info.engine or info.backend, info.backend, "embed()")
        if info.embeds is False:
            raise UnsupportedOperation(
                "This model was loaded for text, so it can't embed.",
                hint='Add it with runtime={"context": {"embeddings": True, "pooling": "mean"}}, or add an embedding '
                "model.",
            )
        body = _requests.embed_body(texts, parsed, target.ref.kind)

        async def work() -> EmbedResult:
            async with target.working() as (engine, _):
                self._emit("request_started", target.ref.id)
                reply = await engine.call("embedding", body)
            return _requests.embed_result(reply, len(texts), parsed, info, target.ref.id)

        return self._start(target, Run(work, endpoint=target.ref.id))

    def rerank(
        self,
        query: str,
        documents: Sequence[str],
        *,
        top_n: int | None = None,
        endpoint: str | EndpointRef | None = None,
    ) -> RerankRun:
        """Order documents by how well they answer a query.

        Example::

            result = await client.rerank("capital of France", ["Rome is in Italy.", "Paris is in France."])
            print(result.ranking[0].document)

        Args:
            query: what is looked for.
            documents: the texts to order.
            top_n: only this many of the best.
            endpoint: which one; may be left out where there is only one.

        Raises:
            UnsupportedOperation: the model is no reranker.
        """
        check_text("query", query)
        texts = _requests.texts_of("documents", documents)
        if top_n is not None and (isinstance(top_n, bool) or not isinstance(top_n, int) or top_n < 1):
            raise InvalidOption("top_n", f"top_n must be a whole number from 1, not {show(top_n)}.")
        target = self._find(endpoint, lambda info: info.engine == "remote" or info.pooling == "rank")
        if target.ref.kind == "local" and target.info.pooling != "rank":
            raise UnsupportedOperation("This model is no reranker.", hint="Add a reranking model.")

        async def work() -> RerankResult:
            async with target.working() as (engine, _):
                self._emit("request_started", target.ref.id)
                reply = await engine.call("rerank", {"query": query, "documents": texts})
            return _requests.rerank_result(reply, texts, top_n, target.ref.id)

        return self._start(target, Run(work, endpoint=target.ref.id))

    async def tokenize(
        self,
        text: str,
        *,
        add_special: bool = True,
        parse_special: bool = True,
        endpoint: str | EndpointRef | None = None,
    ) -> list[int]:
        """The tokens of a text.

        Example::

            tokens = await client.tokenize("Hello there")
            print(len(tokens))

        Args:
            text: any text.
            add_special: add the tokens that the model expects at the start or end.
            parse_special: read texts like ``<|im_end|>`` as the tokens that they stand for.
            endpoint: which one; may be left out where there is only one.

        Raises:
            UnsupportedOperation: the engine has no such operation.
        """
        for name, flag in (("add_special", add_special), ("parse_special", parse_special)):
            if not isinstance(flag, bool):
                raise InvalidOption(name, f"{name} must be True or False, not {type(flag).__name__}.")
        body = {"content": check_text("text", text), "add_special": add_special, "parse_special": parse_special}
        reply = await self._call("tokenize", body, endpoint)
        with understood():
            return [int(token) for token in reply["tokens"]]

    async def detokenize(self, tokens: Sequence[int], *, endpoint: str | EndpointRef | None = None) -> str:
        """The text of tokens.

        Example::

            print(await client.detokenize(await client.tokenize("Hello there")))

        Raises:
            UnsupportedOperation: the engine has no such operation.
        """
        if not isinstance(tokens, Sequence) or isinstance(tokens, (str, bytes)) or not all(map(_is_token, tokens)):
            raise InvalidOption("tokens", "tokens must be a list of whole numbers from 0.")
        known = self._find(endpoint).info.n_vocab
        if known is not None and max(tokens, default=0) >= known:
            raise InvalidOption("tokens", f"tokens has {max(tokens)}, and the model knows {known} tokens.")
        reply = await self._call("detokenize", {"tokens": list(tokens)}, endpoint)
        with understood():
            return text_of(reply["content"])

    async def apply_template(self, messages: Messages, *, endpoint: str | EndpointRef | None = None) -> str:
        """The prompt that the model's chat template makes of a conversation.

        Example::

            print(await client.apply_template([{"role": "user", "content": "Hello"}]))

        Raises:
            UnsupportedOperation: the engine has no such operation.
        """
        plain, target = check_messages(messages), self._find(endpoint)
        if _media.has_images(plain):
            _media.refuse_images(target.info.has_vision)
            plain = await _media.with_images(plain, (), fetch=target.ref.kind == "local")
        reply = await self._call("template", {"messages": plain}, target.ref)
        with understood():
            return text_of(reply["prompt"])

    async def save_context(self, key: str, *, endpoint: str | EndpointRef | None = None) -> int:
        """Keep a conversation on this device: after a reload, the next request with this ``context_key`` to the same
        model computes only what is new.

        Example::

            await client.chat([{"role": "user", "content": "My name is Tom."}], context_key="tom", max_tokens=20)
            print(await client.save_context("tom"))

        What is kept is the model's cache, not the messages: the program keeps those. It holds what was said, in a form
        that this model can read; :meth:`forget_context` deletes it.

        Args:
            key: the conversation's ``context_key``.
            endpoint: which one; may be left out where there is only one.

        Returns:
            bytes that it takes.

        Raises:
            InvalidOption: no conversation of that key is in memory.
            UnsupportedOperation: this endpoint can't.
            StorageError: there is no room.
        """
        target = self._find(endpoint)
        if check_text("key", key) not in target.scheduler.keys:
            raise _not_in_memory(key)

        async def work() -> int:
            async with target.working(key) as (engine, slot):
                self._emit("request_started", target.ref.id)
                if not slot.own:  # another request took it over while this one waited, or its own one failed
                    raise _not_in_memory(key)
                return await self._contexts.save(engine, slot.index, key)

        return await self._start(target, Run(work, endpoint=target.ref.id))

    async def forget_context(self, key: str, *, endpoint: str | EndpointRef | None = None) -> None:
        """Delete what :meth:`save_context` kept of a conversation, if anything.

        Example::

            await client.forget_context("tom")

        Args:
            key: the conversation's ``context_key``.
            endpoint: forget it with this endpoint's model only; where it isn't given, with every model, also such as
                are not loaded.
        """
        check_text("key", key)
        self._check_open()
        if endpoint is None:
            await self._contexts.forget_everywhere(key)
        else:
            async with self._find(endpoint).used() as engine:
                await self._contexts.forget(engine, key)

    async def run_tools(
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
        """Answer a conversation, calling Python functions whenever the model asks for it.

        Example::

            def time_in(city: str) -> str:
                return "noon"

            question = [{"role": "user", "content": "What time is it in Rome?"}]
            result = await client.run_tools(question, [time_in], max_steps=2, max_tokens=40)
            print(result.text, len(result.steps))

        Args:
            messages: as for :meth:`chat`.
            tools: functions with type hints and a docstring, plain ones or coroutine functions.
            max_steps: most answers of the model, the last one included.
            endpoint: which one; may be left out where there is only one.
            on_tokens: called with each batch of text as it comes.
            on_step: called with each message that is added to the conversation.
            options: the fields of :class:`TextOptions`. ``tool_choice`` other than ``auto`` holds for the first step.
        """
        if isinstance(max_steps, bool) or not isinstance(max_steps, int) or max_steps < 1:
            raise InvalidOption("max_steps", f"max_steps must be a whole number from 1, not {show(max_steps)}.")
        for name, callback in (("on_tokens", on_tokens), ("on_step", on_step)):
            if callback is not None and not callable(callback):
                raise InvalidOption(name, f"{name} must be a function, not {show(callback)}.")
        for name in ("tools", "emit_tokens"):
            if name in options:
                raise InvalidOption(name, f"run_tools() sets {name} itself.")

        tool_choice = options.pop("tool_choice", None)

        def answer(conversation: Messages, **step: Any) -> TextRun:
            return self.chat(conversation, endpoint=endpoint, **options, **step)

        return await _tool_loop.run(
            answer, check_messages(messages), Toolbox(tools), max_steps, tool_choice, on_tokens, on_step
        )

    async def close(self) -> None:
        """Cancel what runs and free everything. Safe to call twice.

        Example::

            await client.close()
        """
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        await self._endpoints.close("the client was closed")
        await self._opened.aclose()
        self._emit("closed", None)
        self._listeners.clear()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _open(self, id: str, descriptor: Descriptor, room: Room) -> Engine:
        def progress(status: Status) -> None:
            self._report(id, descriptor, status)

        return await open_engine(descriptor, self.options, progress, lambda: self.models, room)

    def _report(self, id: str, descriptor: Descriptor, status: Status) -> None:
        _report(descriptor, status)
        self._emit("progress", id, status=status)

    def _text(
        self,
        kind: StreamKind,
        body: dict[str, Any],
        endpoint: str | EndpointRef | None,
        where: str,
        options: Mapping[str, Any],
    ) -> TextRun:
        target = self._find(endpoint, lambda info: info.embeds is not True)
        parsed = build(TextOptions, options, where)
        request = _requests.TextRequest(kind, body, parsed, target, where)

        async def chunks() -> AsyncGenerator[dict[str, Any], None]:
            await request.prepare()
            key = parsed.context_key
            async with target.working(key) as (engine, slot):
                if key is not None and not slot.own and await self._contexts.restore(engine, slot.index, key):
                    slot = dataclasses.replace(slot, own=True)
                run._computing()
                self._emit("request_started", target.ref.id)
                stream = request.stream(engine, slot)
                try:
                    async for chunk in stream:
                        target.scheduler.computed(slot)
                        yield chunk
                except InvalidOption as error:
                    raise request.blamed(error) from error.__cause__
                finally:
                    await stream.aclose()

        run = TextRun(chunks, endpoint=target.ref.id, emit_tokens=parsed.emit_tokens, parse=request.parse)
        return self._start(target, run)

    async def _call(
        self, kind: CallKind, body: Mapping[str, Any], endpoint: str | EndpointRef | None
    ) -> dict[str, Any]:
        target = self._find(endpoint)

        async def work() -> dict[str, Any]:
            async with target.used() as engine:  # no slot: it computes nothing
                self._emit("request_started", target.ref.id)
                return await engine.call(kind, body)

        run: Run[dict[str, Any]] = self._start(target, Run(work, endpoint=target.ref.id))
        return await run

    def _start(self, target: Endpoint, run: S) -> S:
        target.add_run(run)
        run.add_done_callback(lambda run: self._ended(target, run))
        return run

    def _ended(self, target: Endpoint, run: Run[Any]) -> None:
        if run.error is not None:
            self._emit("request_failed", target.ref.id, error=run.error)
            return
        data: dict[str, Any] = {}
        if isinstance(run, TextRun):
            result: TextResult = run._outcome
            data = {"finish_reason": result.finish_reason, "usage": result.usage, "timings": result.timings}
            if target.runtime.observability.runtime_metrics:
                data["metrics"] = run._metrics()
        self._emit("request_completed", target.ref.id, **data)

    def _find(
        self, endpoint: str | EndpointRef | None, serves: Callable[[EngineInfo], bool] = lambda info: True
    ) -> Endpoint:
        self._check_open()
        return self._endpoints.find(endpoint, serves)

    def _check_open(self) -> None:
        if self._closing:
            raise ClientClosed("The client is closed.")

    def _on_state(self, id: str, state: str) -> None:
        self._emit("state", id, state="closed" if self._closing else state)

    def _emit(self, type: Any, endpoint: str | None, **data: Any) -> None:
        event = ClientEvent(type, endpoint, data)
        for listener in list(self._listeners):
            tell(listener, event)


def _report(descriptor: Descriptor, status: Status) -> None:
    if isinstance(descriptor, LocalModel) and descriptor.on_progress:
        tell(descriptor.on_progress, status)


def _is_token(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST


def _not_in_memory(key: str) -> InvalidOption:
    return InvalidOption("key", f"No conversation {key!r} is in memory.", hint="Save it after a run that had it.")
