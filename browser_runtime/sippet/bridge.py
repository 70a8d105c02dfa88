"""The runtime's side of the page's ``SippClient``: requests come as messages, answers go back as messages."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from . import platform
from .client import SippClient
from .config import RuntimeConfig
from .endpoints import LocalModel
from .errors import Cancelled, SippError, UsageError
from .events import ClientEvent
from .protocol import METHODS, to_page, to_python
from .runs import TextRun

Send = Callable[[dict[str, Any]], Any]

_RUNTIME: dict[str, Any] = {"runtime": {group: {} for group in RuntimeConfig.__dataclass_fields__}}


class Bridge:
    """Serves one page."""

    def __init__(self, send: Send) -> None:
        """
        Args:
            send: posts a message of plain data to the page.
        """
        self._send = send
        self._client: SippClient | None = None
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._runs: dict[int, TextRun] = {}

    def receive(self, message: Mapping[str, Any]) -> None:
        """Take in one message."""
        number = message["id"]
        task = asyncio.ensure_future(self._answer(number, message["method"], message.get("params") or {}))
        self._tasks[number] = task
        task.add_done_callback(lambda _: self._tasks.pop(number, None))

    async def _answer(self, number: int, method: str, params: Mapping[str, Any]) -> None:
        try:
            if method not in METHODS:
                raise UsageError(f"The runtime knows no method {method!r}.")
            handler: Callable[[int, Mapping[str, Any]], Awaitable[Any]] = getattr(self, f"_{method}")
            self._send({"id": number, "result": to_page(await handler(number, params))})
        except SippError as error:
            self._send({"id": number, "error": error.to_dict()})
        except asyncio.CancelledError:
            self._send({"id": number, "error": Cancelled("Cancelled.").to_dict()})
        except Exception as error:  # whatever it is, the page must hear of it
            failure = SippError(f"{type(error).__name__}: {error}", hint="This is a fault in Sippet; please report it.")
            self._send({"id": number, "error": failure.to_dict()})
            raise

    async def _open(self, number: int, params: Mapping[str, Any]) -> Any:
        self._client = SippClient(**to_python(params))
        self._client.subscribe(self._tell)
        environment = await platform.current().environment()
        self._tell(ClientEvent("state", None, {"state": "ready"}))
        return environment

    async def _environment(self, number: int, params: Mapping[str, Any]) -> Any:
        return await platform.current().environment()

    async def _add(self, number: int, params: Mapping[str, Any]) -> Any:
        values = to_python(params["descriptor"], _RUNTIME)
        kind = values.pop("kind", "local")
        if kind != "local":
            raise UsageError(f"There is no endpoint of kind {kind!r}.", hint='Use kind: "local".')
        model = LocalModel.of({**values, "on_progress": lambda s: self._send({"id": number, "progress": to_page(s)})})
        return await self._opened().add(params["id"], model)

    async def _remove(self, number: int, params: Mapping[str, Any]) -> None:
        await self._opened().remove(params["id"])

    async def _query(self, number: int, params: Mapping[str, Any]) -> Any:
        options = to_python(params.get("options") or {})
        run = self._opened().query(params.get("prompt"), endpoint=params.get("endpoint"), **options)  # type: ignore[arg-type]
        return await self._follow(number, run, bool(options.get("emit_tokens")))

    async def _chat(self, number: int, params: Mapping[str, Any]) -> Any:
        options = to_python(params.get("options") or {})
        run = self._opened().chat(params.get("messages"), endpoint=params.get("endpoint"), **options)  # type: ignore[arg-type]
        return await self._follow(number, run, bool(options.get("emit_tokens")))

    async def _follow(self, number: int, run: TextRun, emit: bool) -> Any:
        self._runs[number] = run
        try:
            if emit:
                async for batch in run.tokens:
                    self._send({"id": number, "tokens": to_page(batch)})
            return await run
        finally:
            del self._runs[number]

    async def _cancel(self, number: int, params: Mapping[str, Any]) -> None:
        request = params["request"]
        if request in self._runs:
            self._runs[request].cancel(str(params.get("reason") or "cancelled"))
        elif request in self._tasks:
            self._tasks[request].cancel()

    async def _close(self, number: int, params: Mapping[str, Any]) -> None:
        if self._client:
            await self._client.close()

    def _opened(self) -> SippClient:
        if self._client is None:
            raise UsageError("The page sent a request before it opened its client.")
        return self._client

    def _tell(self, event: ClientEvent) -> None:
        data = {key: value.to_dict() if isinstance(value, SippError) else value for key, value in event.data.items()}
        self._send({"event": {"type": event.type, "endpoint": event.endpoint, **to_page(data)}})
