"""HTTP through the browser's ``fetch``, driven from Python in Pyodide."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, NoReturn

from js import URL, AbortController, Object, fetch, location  # type: ignore[import-not-found]
from pyodide.ffi import JsException, to_js  # type: ignore[import-not-found]

from ..errors import UnsupportedOption
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
        if connect_timeout is not None:
            raise UnsupportedOption("connect_timeout", "A tab can't time the connecting alone.", hint="Use timeout.")
        controller = AbortController.new()
        # no-store: a model goes to OPFS and must not fill the HTTP cache too; same-origin: no foreign cookies.
        options: dict[str, Any] = {
            "method": method,
            "headers": dict(headers or {}),
            "redirect": redirect,
            "signal": controller.signal,
            "cache": "no-store",
            "credentials": "same-origin",
        }
        if body is not None:
            options["body"] = to_js(body)
        try:
            try:
                async with asyncio.timeout(timeout):
                    answer = await fetch(url, to_js(options, dict_converter=Object.fromEntries))
            except TimeoutError as error:
                raise unavailable("timeout", url, f"{{url}} did not answer within {timeout:g} seconds.") from error
            except JsException as error:
                _raise_connection_error(error, url, redirect)
            yield FetchResponse(answer, url, timeout)
        finally:
            controller.abort()

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

    async def iter_pieces(self) -> AsyncIterator[Any]:
        """The body as ``Uint8Array`` proxies."""
        if not self._answer.body:
            return
        reader = self._answer.body.getReader()
        try:
            while True:
                async with asyncio.timeout(self._seconds):
                    result = await reader.read()
                if result.done:
                    return
                yield result.value
        except TimeoutError as error:
            raise unavailable("timeout", self.url, f"{{url}} sent nothing for {self._seconds:g} seconds.") from error
        except JsException as error:
            raise unavailable("cut", self.url, "The connection to {url} broke.") from error
        finally:
            reader.releaseLock()

    async def iter_bytes(self) -> AsyncIterator[bytes]:
        async for buffer in self.iter_pieces():
            yield buffer.to_bytes()


def _raise_connection_error(error: JsException, url: str, redirect: Redirect) -> NoReturn:
    if redirect == "error":
        # fetch reports a refused redirect as the same TypeError as a lost network.
        raise unavailable("connect", url, "No connection to {url}, or it answered with a redirect.") from error
    raise unavailable("connect", url, "No connection to {url}.") from error
