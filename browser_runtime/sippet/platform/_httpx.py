"""HTTP through httpx: kept connections, HTTP/2 where its extra is installed (``sippet[http]``)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import NoReturn

import httpx

from ..errors import InvalidOption
from .http import DEFAULT_TIMEOUT, MAX_REDIRECTS, Headers, HttpClient, HttpResponse, Redirect, sendable, unavailable


class HttpxClient(HttpClient):
    """Requests through one ``httpx.AsyncClient``, made at the first request (it belongs to that event loop)."""

    def __init__(self) -> None:
        self._client: httpx.AsyncClient | None = None

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
        if self._client is None:
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
            self._client = httpx.AsyncClient(max_redirects=MAX_REDIRECTS, limits=limits)
        limit = httpx.Timeout(timeout, connect=connect_timeout or timeout)
        fields = {"Accept-Encoding": "identity", "User-Agent": "sippet", **(headers or {})}
        try:
            request = self._client.build_request(method, sendable(url), headers=fields, content=body, timeout=limit)
        except (httpx.InvalidURL, TypeError, ValueError) as error:
            raise InvalidOption("url", f"Not a usable URL or header: {error}.") from error
        self._client.cookies.clear()
        try:
            response = await self._client.send(request, stream=True, follow_redirects=redirect == "follow")
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
            _raise_as_ours(
                error, url, connect_timeout if isinstance(error, httpx.ConnectTimeout) else timeout, "connect"
            )
        try:
            if redirect == "error" and response.has_redirect_location:
                raise unavailable("redirect", url, "{url} answered with a redirect, which is not allowed here.")
            yield _Response(response, timeout)
        finally:
            await response.aclose()

    async def close(self) -> None:
        if self._client is not None:
            client, self._client = self._client, None
            await client.aclose()


class _Response(HttpResponse):
    def __init__(self, response: httpx.Response, seconds: float | None) -> None:
        self.status, self.url = response.status_code, str(response.url)
        self.headers = Headers(response.headers.multi_items())
        self._response, self._seconds = response, seconds

    async def iter_bytes(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self._response.aiter_bytes():
                yield piece
        except httpx.HTTPError as error:
            _raise_as_ours(error, self.url, self._seconds, "cut")


def _raise_as_ours(error: Exception, url: str, seconds: float | None, stage: str) -> NoReturn:
    if isinstance(error, httpx.UnsupportedProtocol | httpx.InvalidURL | UnicodeError) or "location header" in str(
        error
    ):
        raise unavailable("redirect", url, "{url} redirects to what is no address on the web.") from error
    if isinstance(error, httpx.ConnectTimeout):
        raise unavailable("connect", url, f"No connection to {{url}} within {seconds:g} seconds.") from error
    if isinstance(error, httpx.TimeoutException):
        raise unavailable("timeout", url, f"{{url}} sent nothing for {seconds:g} seconds.") from error
    if isinstance(error, httpx.TooManyRedirects):
        raise unavailable("redirect", url, f"More than {MAX_REDIRECTS} redirects from {{url}}.") from error
    if isinstance(error, httpx.ConnectError | httpx.ProxyError):
        raise unavailable("connect", url, f"No connection to {{url}} ({type(error).__name__}).") from error
    if isinstance(error, httpx.LocalProtocolError):  # its message repeats the headers, which may hold a secret
        raise InvalidOption("headers", "A header holds characters that none can carry.") from None
    if isinstance(error, httpx.DecodingError):
        raise unavailable("protocol", url, "{url} sent a damaged answer.") from error
    if stage == "connect":
        raise unavailable("cut", url, "{url} closed the connection without an answer.") from error
    raise unavailable("cut", url, "The connection to {url} broke.") from error
