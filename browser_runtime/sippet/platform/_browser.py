"""Pyodide in a browser: workers, fetch, Blobs. Imports of ``js`` and ``pyodide`` live here and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Literal, TypeVar

import js  # type: ignore[import-not-found]
from pyodide.ffi import JsException, can_run_sync, create_proxy, run_sync, to_js  # type: ignore[import-not-found]

from ..errors import InvalidOption, ModelNotFound, RemoteUnavailable, UnsupportedEnvironment
from .base import EngineAssets, EnginePort, Environment, Platform, Source, Waiter

try:
    import _sippet_runtime as runtime  # type: ignore[import-not-found]  # what static/js/runtime.mjs offers
except ImportError:
    runtime = None

T = TypeVar("T")

GATHER = 8 << 20  # bytes of a download that are held before the browser takes them into a Blob


class BrowserPlatform(Platform):
    local_backend = "wasm"

    def __init__(self) -> None:
        self._environment: Environment | None = None

    async def environment(self) -> Environment:
        if self._environment is None:
            self._environment = Environment(**(await offers().environment()).to_py())
        return self._environment

    async def open_source(self, source: Any, on_bytes: Callable[[int, int | None], None]) -> Source:
        if isinstance(source, Source):
            return source
        if isinstance(source, str):
            return await _download(source, on_bytes)
        if _is_blob(source):
            return BlobSource(source, getattr(source, "name", "") or "model.gguf")
        raise InvalidOption(
            "source",
            f"A model's source is a URL or a File here, not {type(source).__name__}.",
            hint="Pass the URL as a string, or the File that the user picked.",
        )

    def engine_assets(self, name: str) -> EngineAssets:
        return EngineAssets(**offers().engineAssets(name).to_py())

    def engine_port(self, mode: Literal["worker", "main-thread"], worker_url: str | None) -> EnginePort:
        return JsEnginePort(offers().enginePort(mode, worker_url))

    def engine_file(self, source: Source) -> Any:
        handle = getattr(source, "handle", None)  # an installed model's: the engine opens it itself
        found = {"handle": handle} if handle is not None else {"blob": getattr(source, "blob", None)}
        return _object({"name": source.name, **found})

    def waiter(self) -> Waiter:
        if not can_run_sync():
            raise UnsupportedEnvironment(
                "This place can't wait: Python was not entered in a way that lets it switch stacks (JSPI).",
                hint="Use the asynchronous sippet.SippClient, or a browser with JSPI and pyodide.runPythonAsync.",
                details={"feature": "suspending"},
            )
        return StackSwitch()

    def trust(self, origins: Sequence[str]) -> None:
        offers().trustOrigins(to_js(list(origins)))

    def is_trusted(self, url: str) -> bool:
        return bool(offers().isTrusted(url))


class StackSwitch(Waiter):
    """Suspends the whole stack of Python calls until the work is done (JSPI); the page goes on."""

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        found: T = run_sync(work)
        return found

    def close(self) -> None:
        pass


class BlobSource(Source):
    """A user's file, or a download that the browser holds. Only the slices that are asked for are read."""

    def __init__(self, blob: Any, name: str) -> None:
        self.blob = blob
        self.name = name
        self.size = int(blob.size)

    async def read(self, offset: int, length: int) -> bytes:
        buffer = await self.blob.slice(offset, offset + length).arrayBuffer()
        return bytes(buffer.to_bytes())


class JsEnginePort(EnginePort):
    """A worker or a message port."""

    def __init__(self, port: Any) -> None:
        self._port = port
        self._on_message = create_proxy(self._message)
        self._on_error = create_proxy(self._failed)
        port.onmessage = self._on_message
        port.onerror = self._on_error

    def post(self, message: Mapping[str, Any]) -> None:
        self._port.postMessage(_object(message))

    def close(self) -> None:
        if self._port is None:
            return
        self._port.onmessage = None
        self._port.onerror = None
        offers().endPort(self._port)
        self._port = None
        self._on_message.destroy()
        self._on_error.destroy()

    def _message(self, event: Any) -> None:
        message = event.data.to_py()
        if isinstance(message.get("data"), memoryview):
            message["data"] = bytes(message["data"])
        self.receive(message)

    def _failed(self, event: Any) -> None:
        event.preventDefault()  # it is taken care of here; else it would go on to the page as the runtime's own failure
        message = str(getattr(event, "message", "") or "its script could not be loaded")
        self.receive({"id": None, "error": {"kind": "crash", "message": message, "log": []}})


async def _download(url: str, on_bytes: Callable[[int, int | None], None]) -> BlobSource:
    """Fetch a URL into a Blob: the browser holds the bytes, JavaScript's heap a few megabytes at a time."""
    controller = js.AbortController.new()
    try:
        response = await offers().fetchModel(url, _object({"signal": controller.signal}))
        if not response.ok:
            raise _refused(url, response.status)
        header = response.headers.get("content-length")
        encoded = response.headers.get("content-encoding")
        total = int(header) if header and not encoded else None
        blob = await _collect(response.body.getReader(), total, on_bytes)
    except JsException as error:
        raise RemoteUnavailable(
            f"{url} could not be fetched: {error}.",
            hint="Check the address and the connection; a server elsewhere must allow this page's origin (CORS), "
            "and the page's policy must name it in connect-src.",
            details={"url": url},
        ) from error
    finally:
        controller.abort()  # frees the connection when we leave early; does nothing after the last byte
    if total is not None and blob.size != total:
        raise RemoteUnavailable(
            f"{url} ended after {blob.size} of {total} bytes.", hint="Try again.", details={"url": url}
        )
    return BlobSource(blob, url.split("?")[0].rstrip("/").rsplit("/", 1)[-1] or "model.gguf")


async def _collect(reader: Any, total: int | None, on_bytes: Callable[[int, int | None], None]) -> Any:
    parts, pending, held, done = js.Array.new(), js.Array.new(), 0, 0
    on_bytes(0, total)
    while not (piece := await reader.read()).done:
        pending.push(piece.value)
        held += piece.value.byteLength
        if held >= GATHER:
            parts.push(js.Blob.new(pending))
            done, held, pending = done + held, 0, js.Array.new()
            on_bytes(done, total)
    if held:
        parts.push(js.Blob.new(pending))
    on_bytes(done + held, total)
    return js.Blob.new(parts)


def _refused(url: str, status: int) -> ModelNotFound | RemoteUnavailable:
    details = {"url": url, "status": status}
    if status in (404, 410):
        return ModelNotFound(f"There is no model at {url} (HTTP {status}).", hint="Check the address.", details=details)
    return RemoteUnavailable(
        f"The server refused {url} (HTTP {status}).", hint="Check the address and your access to it.", details=details
    )


def _is_blob(value: Any) -> bool:
    return bool(getattr(value, "slice", None)) and hasattr(value, "arrayBuffer") and hasattr(value, "size")


def _object(message: Mapping[str, Any]) -> Any:
    return to_js(dict(message), dict_converter=js.Object.fromEntries)


def offers() -> Any:
    """What ``static/js/runtime.mjs`` offers."""
    if runtime is None:
        raise UnsupportedEnvironment(
            "Sippet's JavaScript part is not loaded on this page.",
            hint="Start Pyodide through static/js/runtime.mjs of the host.",
            details={"feature": "sippet_runtime"},
        )
    return runtime
