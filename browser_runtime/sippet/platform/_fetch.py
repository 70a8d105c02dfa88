"""HTTP through the browser's ``fetch``, driven from Python in Pyodide."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Protocol

from js import URL, AbortController, Object, fetch, location  # type: ignore[import-not-found]
from pyodide.ffi import JsException, to_js  # type: ignore[import-not-found]

from ..errors import RemoteUnavailable, UnsupportedOption
from ._storage_port import StoragePort, WorkerFailure
from .http import DEFAULT_TIMEOUT, Headers, HttpClient, HttpResponse, Redirect, unavailable


class FetchClient(HttpClient):
    """Requests through ``fetch``; the page's own policy (CSP, CORS, mixed content) applies."""

    @asynccontextmanager
    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        timeout: float | None = DEFAULT_TIMEOUT,  # noqa: ASYNC109 (silence, not a whole: asyncio.timeout can't say that)
        connect_timeout: float | None = None,
        redirect: Redirect = "follow",
    ) -> AsyncIterator[HttpResponse]:
        options = _options(method, headers, body, connect_timeout, redirect)
        exchange = self._exchange()
        try:
            try:
                async with asyncio.timeout(timeout):
                    response = await exchange.send(url, options, timeout)
            except TimeoutError as error:
                raise _no_answer(url, timeout) from error
            except (JsException, WorkerFailure) as error:
                raise _no_connection(url, redirect) from error
            yield response
        finally:
            exchange.end()

    def _exchange(self) -> _Exchange:
        return _Fetch()

    def may_send(self, header: str, url: str) -> bool:
        return str(URL.new(url, location.href).origin) == str(location.origin)

    def resolve(self, url: str) -> str | None:
        return super().resolve(str(URL.new(url, location.href).href)) if URL.canParse(url, location.href) else None


class FetchResponse(HttpResponse):
    """A ``Response``."""

    def __init__(self, answer: Any, url: str, seconds: float | None) -> None:
        self.status, self.url = int(answer.status), str(answer.url or url)
        self.headers = Headers((str(name), str(value)) for name, value in answer.headers)
        self._answer, self._seconds = answer, seconds

    async def iter_bytes(self) -> AsyncIterator[bytes]:
        if not self._answer.body:
            return
        reader = self._answer.body.getReader()
        try:
            while True:
                async with asyncio.timeout(self._seconds):
                    result = await reader.read()
                if result.done:
                    return
                yield result.value.to_bytes()
        except TimeoutError as error:
            raise silent(self.url, self._seconds) from error
        except JsException as error:
            raise cut(self.url) from error
        finally:
            reader.releaseLock()


class DownloadClient(FetchClient):
    """Requests that the storage worker makes, where the bodies stay.

    Args:
        port: the line to it.
    """

    def __init__(self, port: StoragePort) -> None:
        self._port = port

    def _exchange(self) -> _Exchange:
        return _Download(self._port)


class _Exchange(Protocol):
    """One request, which can be ended at any time."""

    async def send(self, url: str, options: Any, seconds: float | None) -> HttpResponse: ...

    def end(self) -> None: ...


class _Fetch(_Exchange):
    def __init__(self) -> None:
        self._controller = AbortController.new()

    async def send(self, url: str, options: Any, seconds: float | None) -> HttpResponse:
        options.signal = self._controller.signal
        return FetchResponse(await fetch(url, options), url, seconds)

    def end(self) -> None:
        self._controller.abort()


class _Download(_Exchange):
    def __init__(self, port: StoragePort) -> None:
        self._port, self._number = port, port.number()

    async def send(self, url: str, options: Any, seconds: float | None) -> HttpResponse:
        absolute = str(URL.new(url, location.href).href)  # the worker's script is elsewhere
        answer = await self._port.ask("fetch", body=self._number, url=absolute, options=options)
        return DownloadResponse(self._port, self._number, answer, url, seconds)

    def end(self) -> None:
        self._port.tell("end", body=self._number)


class DownloadResponse(HttpResponse):
    """A ``Response`` in the storage worker.

    Attributes:
        number: its body's.
        patience: most seconds of silence.
    """

    def __init__(
        self, port: StoragePort, number: int, answer: Mapping[str, Any], url: str, patience: float | None
    ) -> None:
        self.status, self.url = int(answer["status"]), answer["url"] or url
        self.headers = Headers((name, value) for name, value in answer["headers"])
        self.number, self.patience, self._port = number, patience, port

    async def iter_bytes(self) -> AsyncIterator[bytes]:
        while piece := await self._piece():
            yield piece

    async def _piece(self) -> bytes:
        try:
            return bytes(await self._port.ask("piece", body=self.number, patience=self.patience) or b"")
        except WorkerFailure as error:
            raise broken(self.url, self.patience, error) from error


def broken(url: str, seconds: float | None, error: WorkerFailure) -> RemoteUnavailable:
    """How a body in the storage worker came to a bad end."""
    return silent(url, seconds) if error.name == "TimeoutError" else cut(url)


def silent(url: str, seconds: float | None) -> RemoteUnavailable:
    """Nothing came for so long."""
    return unavailable("timeout", url, f"{{url}} sent nothing for {seconds:g} seconds.")


def cut(url: str) -> RemoteUnavailable:
    """The body ended too early."""
    return unavailable("cut", url, "The connection to {url} broke.")


def _options(
    method: str,
    headers: Mapping[str, str] | None,
    body: bytes | None,
    connect_timeout: float | None,
    redirect: Redirect,
) -> Any:
    """What ``fetch`` is to do."""
    if connect_timeout is not None:
        raise UnsupportedOption("connect_timeout", "A tab can't time the connecting alone.", hint="Use timeout.")
    # no-store: a model goes to OPFS and must not fill the HTTP cache too; same-origin: no foreign cookies.
    options: dict[str, Any] = {
        "method": method,
        "headers": dict(headers or {}),
        "redirect": redirect,
        "cache": "no-store",
        "credentials": "same-origin",
    }
    if body is not None:
        options["body"] = to_js(body)
    return to_js(options, dict_converter=Object.fromEntries)


def _no_answer(url: str, seconds: float | None) -> RemoteUnavailable:
    return unavailable("timeout", url, f"{{url}} did not answer within {seconds:g} seconds.")


def _no_connection(url: str, redirect: Redirect) -> RemoteUnavailable:
    if redirect == "error":
        # fetch reports a refused redirect as the same TypeError as a lost network.
        return unavailable("network", url, "No connection to {url}, or it answered with a redirect.")
    return unavailable("network", url, "No connection to {url}.")
