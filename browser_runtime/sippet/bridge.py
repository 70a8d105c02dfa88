"""The runtime's side of the page's ``SippClient``: requests come as messages, answers go back as messages."""

from __future__ import annotations

import asyncio
import functools
import itertools
import types
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from . import platform
from ._bridge_models import ModelsBridge
from .client import SippClient
from .config import RuntimeConfig
from .endpoints import DESCRIPTORS
from .errors import Cancelled, InvalidOption, SippError, UsageError
from .events import ClientEvent
from .protocol import METHODS, camel, rename, snake, to_page, to_python
from .runs import Run, TextRun
from .tools import Tool

Send = Callable[[dict[str, Any]], Any]

_NESTED: dict[str, Any] = {"runtime": {group: {} for group in RuntimeConfig.__dataclass_fields__}, "authentication": {}}


class Bridge:
    """Serves one page."""

    def __init__(self, send: Send) -> None:
        """
        Args:
            send: posts a message of plain data to the page.
        """
        self._send = send
        self._refused: SippError | None = None  # why there is no client
        self._client: SippClient | None = None
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._runs: dict[int, Run[Any]] = {}
        self._installed = ModelsBridge(lambda: self._opened().models)
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._call_ids = itertools.count(1)

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
            handler: Callable[[int, Mapping[str, Any]], Awaitable[Any]] = getattr(self, f"_{snake(method)}")
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
        try:
            self._client = SippClient(**to_python(params))
        except SippError as error:
            self._refused = error
            raise
        self._client.subscribe(self._tell)
        environment = await platform.current().environment()
        self._tell(ClientEvent("state", None, {"state": "ready"}))
        return environment

    async def _environment(self, number: int, params: Mapping[str, Any]) -> Any:
        return await platform.current().environment()

    async def _add(self, number: int, params: Mapping[str, Any]) -> Any:
        values = to_python(params["descriptor"], _NESTED)
        kind = values.pop("kind", "local")
        if kind not in DESCRIPTORS:
            raise InvalidOption(
                "kind", f"There is no endpoint of kind {kind!r}.", hint=f"Kinds: {', '.join(DESCRIPTORS)}."
            )
        for name in params.get("callbacks") or ():
            place = values if name == "apiKey" else values["authentication"]
            place[snake(name)] = functools.partial(self._call_page, number, name)
        if kind == "local":
            values["on_progress"] = lambda status: self._send({"id": number, "progress": to_page(status)})
        return await self._opened().add(params["id"], DESCRIPTORS[kind].of(values))

    async def _remove(self, number: int, params: Mapping[str, Any]) -> None:
        await self._opened().remove(params["id"])

    async def _query(self, number: int, params: Mapping[str, Any]) -> Any:
        run = self._opened().query(params.get("prompt"), **_options(params))  # type: ignore[arg-type]
        return await self._follow(number, run)

    async def _chat(self, number: int, params: Mapping[str, Any]) -> Any:
        run = self._opened().chat(params.get("messages"), **_options(params))  # type: ignore[arg-type]
        return await self._follow(number, run)

    async def _embed(self, number: int, params: Mapping[str, Any]) -> Any:
        return await self._follow(number, self._opened().embed(params.get("input"), **_options(params)))  # type: ignore[arg-type]

    async def _rerank(self, number: int, params: Mapping[str, Any]) -> Any:
        run = self._opened().rerank(params.get("query"), params.get("documents"), **_options(params))  # type: ignore[arg-type]
        return await self._follow(number, run)

    async def _tokenize(self, number: int, params: Mapping[str, Any]) -> Any:
        return await self._opened().tokenize(params.get("text"), **_options(params))  # type: ignore[arg-type]

    async def _detokenize(self, number: int, params: Mapping[str, Any]) -> Any:
        return await self._opened().detokenize(params.get("tokens"), **_options(params))  # type: ignore[arg-type]

    async def _apply_template(self, number: int, params: Mapping[str, Any]) -> Any:
        return await self._opened().apply_template(params.get("messages"), **_options(params))  # type: ignore[arg-type]

    async def _save_context(self, number: int, params: Mapping[str, Any]) -> Any:
        return await self._opened().save_context(params.get("key"), **_options(params))  # type: ignore[arg-type]

    async def _forget_context(self, number: int, params: Mapping[str, Any]) -> None:
        await self._opened().forget_context(params.get("key"), **_options(params))  # type: ignore[arg-type]

    async def _run_tools(self, number: int, params: Mapping[str, Any]) -> Any:
        tools: list[Any] = [self._page_tool(number, schema) for schema in params.get("tools") or ()]
        tools += python_tools(params.get("python") or "")
        return await self._opened().run_tools(
            params.get("messages"),  # type: ignore[arg-type]
            tools,
            on_tokens=lambda batch: self._send({"id": number, "tokens": to_page(batch)}),
            on_step=lambda message: self._send({"id": number, "step": dict(message)}),
            **_options(params),
        )

    def _page_tool(self, number: int, schema: Mapping[str, Any]) -> Tool:
        name = schema["function"]["name"]

        async def invoke(**arguments: Any) -> Any:
            return await self._call_page(number, name, arguments)

        return Tool(schema, invoke)

    async def _call_page(self, number: int, name: str, arguments: Mapping[str, Any] | None = None) -> Any:
        """What a function of the page, brought by request ``number``, returns: ``callResult`` answers."""
        call = next(self._call_ids)
        answer = self._calls[call] = asyncio.get_running_loop().create_future()
        try:
            self._send({"id": number, "call": {"call": call, "name": name, "arguments": dict(arguments or {})}})
            return await answer
        finally:
            del self._calls[call]

    async def _call_result(self, number: int, params: Mapping[str, Any]) -> None:
        answer = self._calls.get(params["call"])
        if answer is None or answer.done():
            return  # the request was cancelled meanwhile
        if params.get("error") is not None:
            answer.set_exception(RuntimeError(params["error"]))
        else:
            answer.set_result(params.get("content"))

    async def _models(self, number: int, params: Mapping[str, Any]) -> Any:
        return await self._installed.serve(number, params, lambda s: self._send({"id": number, "progress": s}))

    async def _follow(self, number: int, run: Run[Any]) -> Any:
        self._runs[number] = run
        try:
            if isinstance(run, TextRun) and run._emits:
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
        if self._refused:
            raise self._refused
        if self._client is None:
            raise UsageError("The page sent a request before it opened its client.")
        return self._client

    def _tell(self, event: ClientEvent) -> None:
        data = {
            camel(name): value.to_dict() if isinstance(value, SippError) else rename(to_page(value))
            for name, value in event.data.items()
        }
        self._send({"event": {"type": event.type, "endpoint": event.endpoint, **data}})


def python_tools(source: str) -> list[Callable[..., Any]]:
    """The functions that a page wrote in Python: all that ``source`` defines at its top without a leading underscore.

    Raises:
        InvalidOption: it is not Python, or it fails.
    """
    namespace: dict[str, Any] = {"__name__": "page_tools"}
    try:
        exec(compile(source, "<python>", "exec"), namespace)
    except Exception as error:
        raise InvalidOption("python", f"The Python tools can't be defined: {type(error).__name__}: {error}.") from error
    return [
        value
        for name, value in namespace.items()
        if isinstance(value, types.FunctionType) and not name.startswith("_") and value.__globals__ is namespace
    ]


def _options(params: Mapping[str, Any]) -> dict[str, Any]:
    """A request's options with Python's names, its endpoint among them."""
    options = to_python(params.get("options") or {})
    if isinstance(options.get("lora"), Mapping):  # JavaScript's keys are always texts
        options["lora"] = {int(key) if str(key).isdigit() else key: scale for key, scale in options["lora"].items()}
    return {**options, "endpoint": params.get("endpoint")}
