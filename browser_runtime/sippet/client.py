"""The client: endpoints are added to it, requests are made of it."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

from ._engines import open_engine
from ._fields import build, check, option
from ._scheduler import Scheduler
from .endpoints import DESCRIPTORS, Descriptor, EndpointRef, LocalModel
from .engines.base import Engine, StreamKind
from .errors import AmbiguousEndpoint, ClientClosed, EndpointNotFound, InvalidOption, SippError, UnsupportedOperation
from .events import ClientEvent, Status
from .messages import Messages, check_messages
from .options import TextOptions, refuse_unsupported, to_body
from .platform.base import ExecutionMode, WasmThreading
from .runs import TextRun

ClientState = Literal["ready", "loading", "closed"]


@dataclass(frozen=True, kw_only=True)
class ClientOptions:
    """Options of the browser, given to :class:`SippClient`."""

    execution_mode: ExecutionMode = option(
        "Where the engine runs: in a worker, or in the caller's thread.", default="auto"
    )
    wasm_threading: WasmThreading = option("The engine's build: with threads, or without.", default="auto")
    module_url: str | None = option("Another engine module; needs wasm_url too.")
    wasm_url: str | None = option("Another engine's WASM file; needs module_url too.")
    worker_url: str | None = option("Another engine worker script.")
    trusted_origins: Sequence[str] = option("More origins that engine files may come from.", factory=tuple)

    def __post_init__(self) -> None:
        check(self)
        if (self.module_url is None) != (self.wasm_url is None):
            missing = "wasm_url" if self.wasm_url is None else "module_url"
            raise InvalidOption(missing, f"{missing} is missing: module_url and wasm_url go together.")


@dataclass
class _Endpoint:
    ref: EndpointRef
    engine: Engine
    scheduler: Scheduler
    runs: set[TextRun] = dataclasses.field(default_factory=set)

    async def drain(self) -> None:
        """Wait for the runs under way."""
        while self.runs:
            await asyncio.wait([asyncio.ensure_future(_settled(run)) for run in self.runs])


class SippClient:
    """Language models behind one API.

    ::

        async with SippClient() as client:
            await client.add("chat", LocalModel("/models/smollm2/model.gguf"))
            result = await client.chat([{"role": "user", "content": "Hello"}])
            print(result.text)
    """

    def __init__(self, **options: Any) -> None:
        """
        Args:
            options: the fields of :class:`ClientOptions`.
        """
        self.options = build(ClientOptions, options, "SippClient()")
        self._endpoints: dict[str, _Endpoint] = {}
        self._listeners: list[Callable[[ClientEvent], Any]] = []
        self._loading = 0
        self._adding: set[asyncio.Task[Any]] = set()
        self._closed = False

    @property
    def state(self) -> ClientState:
        """``ready``, ``loading`` while an endpoint is added, ``closed``."""
        return "closed" if self._closed else "loading" if self._loading else "ready"

    @property
    def endpoints(self) -> list[EndpointRef]:
        """The endpoints, in the order in which they were added."""
        return [endpoint.ref for endpoint in self._endpoints.values()]

    def subscribe(self, callback: Callable[[ClientEvent], Any]) -> Callable[[], None]:
        """Call ``callback`` with every event. Returns what ends the subscription."""
        self._listeners.append(callback)

        def unsubscribe() -> None:
            with suppress(ValueError):
                self._listeners.remove(callback)

        return unsubscribe

    async def add(self, id: str, descriptor: Descriptor) -> EndpointRef:
        """Make an endpoint ready. One that has the id already is replaced when its runs have ended.

        Raises:
            ModelError, PlatformError, RemoteError: it can't be made ready; an endpoint of that id stays as it was.
        """
        self._check_open()
        if not isinstance(id, str) or not id:
            raise InvalidOption("id", "An endpoint's id is a text that is not empty.")
        if not isinstance(descriptor, Descriptor):
            names = ", ".join(cls.__name__ for cls in DESCRIPTORS.values())
            raise InvalidOption("descriptor", f"add() takes one of {names}, not {type(descriptor).__name__}.")
        task = asyncio.current_task()
        assert task is not None
        self._adding.add(task)
        self._loading += 1
        self._emit("state", id, state=self.state)
        try:
            endpoint = await self._open(id, descriptor)
        except SippError as error:
            _report(descriptor, Status("error", str(error)))
            raise
        finally:
            self._adding.discard(task)
            self._loading -= 1
            self._emit("state", id, state=self.state)
        if self._closed:
            await endpoint.engine.close()
            raise ClientClosed("The client was closed while the endpoint was added.")
        old, self._endpoints[id] = self._endpoints.get(id), endpoint
        if old:
            await old.drain()
            await old.engine.close()
        _report(descriptor, Status("ready", "Ready."))
        for reason in endpoint.engine.info.degraded:
            self._emit("degraded", id, reason=reason)
        self._emit("ready", id)
        return endpoint.ref

    async def remove(self, id: str) -> None:
        """Take an endpoint away and free its memory. Its runs are cancelled."""
        endpoint = self._find(id)
        del self._endpoints[id]
        await _close(endpoint)

    def query(self, prompt: str, *, endpoint: str | EndpointRef | None = None, **options: Any) -> TextRun:
        """Continue a raw prompt; no chat template is applied.

        Args:
            prompt: the text to continue.
            endpoint: which one; may be left out where there is only one.
            options: the fields of :class:`TextOptions`.
        """
        if not isinstance(prompt, str):
            raise InvalidOption("prompt", f"prompt must be a string, not {type(prompt).__name__}.")
        return self._run("completion", {"prompt": prompt}, endpoint, "query()", options)

    def chat(self, messages: Messages, *, endpoint: str | EndpointRef | None = None, **options: Any) -> TextRun:
        """Answer a conversation, through the model's own chat template.

        Args:
            messages: mappings or :class:`ChatMessage` objects with ``role`` and ``content``.
            endpoint: which one; may be left out where there is only one.
            options: the fields of :class:`TextOptions`.

        Raises:
            UnsupportedOperation: the model has no chat template.
        """
        body = {"messages": check_messages(messages)}
        target = self._find(endpoint)
        if target.engine.info.has_chat_template is False:
            raise UnsupportedOperation(
                "This model has no chat template, so it can't chat.",
                hint="Use query() with a prompt in the model's own format, or give context.chat_template.",
            )
        return self._run("chat", body, target.ref, "chat()", options)

    async def close(self) -> None:
        """Cancel what runs and free everything. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        for task in self._adding:
            task.cancel()
        endpoints, self._endpoints = list(self._endpoints.values()), {}
        await asyncio.gather(*(_close(endpoint) for endpoint in endpoints))
        self._emit("closed", None)
        self._listeners.clear()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _open(self, id: str, descriptor: Descriptor) -> _Endpoint:
        def progress(status: Status) -> None:
            _report(descriptor, status)
            self._emit("progress", id, status=status)

        engine = await open_engine(descriptor, self.options, progress)
        ref = EndpointRef(descriptor.kind, id, engine.info)
        return _Endpoint(ref, engine, Scheduler(engine.info.n_parallel, descriptor.max_queued_requests))

    def _run(
        self,
        kind: StreamKind,
        body: dict[str, Any],
        endpoint: str | EndpointRef | None,
        where: str,
        options: Mapping[str, Any],
    ) -> TextRun:
        target = self._find(endpoint)
        parsed = build(TextOptions, options, where)
        refuse_unsupported(parsed, target.engine.info.backend, where)
        request = {**body, **to_body(parsed)}
        target.engine.check(kind, request)

        async def chunks() -> AsyncGenerator[dict[str, Any], None]:
            async with target.scheduler.slot():
                self._emit("request_started", target.ref.id)
                stream = target.engine.stream(kind, request)
                try:
                    async for chunk in stream:
                        yield chunk
                finally:
                    await stream.aclose()

        run = TextRun(chunks, endpoint=target.ref.id, emit_tokens=parsed.emit_tokens)
        target.runs.add(run)
        run.add_done_callback(lambda run: self._ended(target, run))
        return run

    def _ended(self, target: _Endpoint, run: TextRun) -> None:
        target.runs.discard(run)
        if run.error is None:
            self._emit("request_completed", target.ref.id)
        else:
            self._emit("request_failed", target.ref.id, error=run.error)

    def _find(self, endpoint: str | EndpointRef | None) -> _Endpoint:
        self._check_open()
        if endpoint is None:
            if len(self._endpoints) == 1:
                return next(iter(self._endpoints.values()))
            if not self._endpoints:
                raise EndpointNotFound("The client has no endpoint yet.", hint="Add one with client.add(...).")
            raise AmbiguousEndpoint(f"{len(self._endpoints)} endpoints could serve: {', '.join(self._endpoints)}.")
        name = endpoint.id if isinstance(endpoint, EndpointRef) else endpoint
        if name not in self._endpoints:
            known = ", ".join(self._endpoints) or "none"
            raise EndpointNotFound(f"There is no endpoint {name!r}.", hint=f"Known endpoints: {known}.")
        return self._endpoints[name]

    def _check_open(self) -> None:
        if self._closed:
            raise ClientClosed("The client is closed.")

    def _emit(self, type: Any, endpoint: str | None, **data: Any) -> None:
        event = ClientEvent(type, endpoint, data)
        for listener in list(self._listeners):
            listener(event)


def _report(descriptor: Descriptor, status: Status) -> None:
    if isinstance(descriptor, LocalModel) and descriptor.on_progress:
        descriptor.on_progress(status)


async def _settled(run: TextRun) -> None:
    with suppress(SippError, asyncio.CancelledError):
        await run


async def _close(endpoint: _Endpoint) -> None:
    runs = list(endpoint.runs)
    for run in runs:
        run.cancel("the endpoint was closed")
    await asyncio.gather(*(_settled(run) for run in runs))
    await endpoint.engine.close()
