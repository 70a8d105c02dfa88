"""HTTP/1.1 (RFC 9112) on asyncio streams: what CPython uses when httpx isn't installed.

One connection a request, closed at its end, so a cancelled task stops the transfer at once. No HTTP/2, no cookies, no
authentication schemes. Proxies are taken from the environment, as urllib does.
"""

from __future__ import annotations

import asyncio
import ssl
import string
import urllib.request
import zlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import NoReturn
from urllib.parse import quote, urljoin, urlsplit

from ..errors import InvalidOption
from .http import (
    DEFAULT_TIMEOUT,
    MAX_REDIRECTS,
    Headers,
    HttpClient,
    HttpResponse,
    Redirect,
    is_token,
    origin,
    sendable,
    unavailable,
)

_MAX_HEADER_BYTES = 64 << 10
_PIECE = 256 << 10
_REDIRECTS = {301, 302, 303, 307, 308}


class Http1Client(HttpClient):
    """Requests over plain asyncio streams.

    Args:
        ssl_context: how to verify servers; the system's certificates by default.
    """

    def __init__(self, ssl_context: ssl.SSLContext | None = None) -> None:
        self._ssl = ssl_context

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
        url = sendable(url)
        fields = {name.lower(): (name, value) for name, value in (headers or {}).items()}
        for _ in range(MAX_REDIRECTS + 1):
            response = await self._send(method, url, fields, body, timeout, connect_timeout)
            try:
                if response.status in _REDIRECTS and "location" in response.headers and redirect != "manual":
                    if redirect == "error":
                        raise unavailable("redirect", url, "{url} answered with a redirect, which is not allowed here.")
                    target = _redirected(url, response.headers["location"])
                    if origin(target) != origin(url):
                        fields.pop("authorization", None)
                        fields.pop("cookie", None)
                    if response.status == 303 or (response.status in (301, 302) and method == "POST"):
                        method, body = ("HEAD" if method == "HEAD" else "GET"), None
                        fields.pop("content-type", None)
                    url = target
                    continue
                yield response
                return
            finally:
                response.abort()
        raise unavailable("redirect", url, f"More than {MAX_REDIRECTS} redirects, the last to {{url}}.")

    async def _send(
        self,
        method: str,
        url: str,
        fields: Mapping[str, tuple[str, str]],
        body: bytes | None,
        timeout: float | None,  # noqa: ASYNC109
        connect_timeout: float | None,
    ) -> _Response:
        parts = urlsplit(url)
        assert parts.hostname is not None  # by sendable
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        host, port = parts.hostname, origin(url)[2]
        context = (self._ssl or ssl.create_default_context()) if parts.scheme == "https" else None
        proxy = None if urllib.request.proxy_bypass(host) else urllib.request.getproxies().get(parts.scheme)
        if proxy and not context:
            target = f"http://{parts.netloc.rpartition('@')[2]}{target}"
        head = _request_head(method, target, parts.netloc.rpartition("@")[2], fields, body)
        writer: asyncio.StreamWriter | None = None
        try:
            async with asyncio.timeout(timeout):
                reader, writer = await _connect(host, port, context, proxy, url, connect_timeout)
                writer.write(head + (body or b""))
                await writer.drain()
                status, found = await _read_head(reader, url)
                while 100 <= status < 200:
                    status, found = await _read_head(reader, url)
        except BaseException as error:
            if writer is not None:
                writer.transport.abort()
            if isinstance(error, (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError)):
                _raise_connection_error(error, url, timeout)
            raise
        return _Response(method, url, status, found, reader, writer, timeout)


class _Response(HttpResponse):
    def __init__(
        self,
        method: str,
        url: str,
        status: int,
        headers: Headers,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        timeout: float | None,
    ) -> None:
        self.status, self.headers, self.url = status, headers, url
        self._reader, self._writer, self._timeout = reader, writer, timeout
        self._empty = method == "HEAD" or status in (204, 304)

    def abort(self) -> None:
        self._writer.transport.abort()

    async def iter_bytes(self) -> AsyncIterator[bytes]:
        decoder = _decoder(self.headers.get("content-encoding", ""), self.url)
        try:
            async for piece in self._framed():
                if decoder is None:
                    yield piece
                    continue
                while piece:  # in steps: a little can hold a thousand times as much
                    if decoded := decoder.decompress(piece, _PIECE):
                        yield decoded
                    piece = decoder.unconsumed_tail
            if decoder is not None and not self._empty:
                if tail := decoder.flush():
                    yield tail
                if not decoder.eof:
                    raise unavailable("cut", self.url, "The answer of {url} was cut short.")
        except zlib.error as error:
            raise unavailable("protocol", self.url, "{url} sent a damaged compressed body.") from error
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            _raise_body_error(error, self.url, self._timeout)

    async def _framed(self) -> AsyncIterator[bytes]:
        """The body as RFC 9112, 6.3 delimits it."""
        if self._empty:
            return
        coding = self.headers.get("transfer-encoding", "").lower()
        if coding:
            if coding != "chunked":
                raise unavailable("protocol", self.url, "{url} uses an unknown transfer coding.")
            async for piece in self._chunks():
                yield piece
        elif "content-length" in self.headers:
            async for piece in self._exactly(_content_length(self.headers["content-length"], self.url)):
                yield piece
        else:
            while piece := await self._wait(self._reader.read(_PIECE)):
                yield piece

    async def _exactly(self, left: int) -> AsyncIterator[bytes]:
        while left:
            piece = await self._wait(self._reader.read(min(left, _PIECE)))
            if not piece:
                raise unavailable("cut", self.url, f"{{url}} closed the connection {left} bytes too early.")
            left -= len(piece)
            yield piece

    async def _chunks(self) -> AsyncIterator[bytes]:
        while True:
            line = (await self._wait(self._reader.readuntil(b"\r\n"))).split(b";", 1)[0].strip()
            try:
                if len(line) > 16 or not line.isalnum():
                    raise ValueError(line)
                size = int(line, 16)
            except ValueError:
                raise unavailable("protocol", self.url, "{url} sent a damaged chunked body.") from None
            if not size:
                return
            async for piece in self._exactly(size):
                yield piece
            if await self._wait(self._reader.readexactly(2)) != b"\r\n":
                raise unavailable("protocol", self.url, "{url} sent a damaged chunked body.")

    async def _wait(self, reading: asyncio.Future[bytes] | object) -> bytes:
        async with asyncio.timeout(self._timeout):
            return await reading  # type: ignore[no-any-return, misc]


def _redirected(url: str, location: str) -> str:
    """Where a ``Location`` leads; its bytes that are not ASCII stand for themselves."""
    try:
        return sendable(urljoin(url, quote(location.encode("latin-1"), safe=string.punctuation)))
    except (ValueError, InvalidOption):
        raise unavailable("redirect", url, "{url} redirects to what is no address on the web.") from None


def _request_head(
    method: str, target: str, host: str, fields: Mapping[str, tuple[str, str]], body: bytes | None
) -> bytes:
    lines = {"host": ("Host", host), "accept": ("Accept", "*/*"), "accept-encoding": ("Accept-Encoding", "identity")}
    lines |= {"user-agent": ("User-Agent", "sippet"), **fields, "connection": ("Connection", "close")}
    if body is not None or method in ("POST", "PUT", "PATCH"):
        lines["content-length"] = ("Content-Length", str(len(body or b"")))
    for name, value in lines.values():
        if not is_token(name) or any(c in value for c in "\r\n\0"):
            raise InvalidOption("headers", f"Not a valid header: {name!r}.")
    text = f"{method} {target} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.values())
    return (text + "\r\n").encode("latin-1")


async def _read_head(reader: asyncio.StreamReader, url: str) -> tuple[int, Headers]:
    status_line = await reader.readuntil(b"\r\n")
    version, _, rest = status_line.partition(b" ")
    code = rest[:3]
    if version not in (b"HTTP/1.1", b"HTTP/1.0") or len(code) != 3 or not code.isdigit():
        raise unavailable("protocol", url, "{url} did not answer in HTTP/1.1.")
    items, size = [], 0
    while (line := await reader.readuntil(b"\r\n")) != b"\r\n":
        size += len(line)
        name, colon, value = line.decode("latin-1").rstrip("\r\n").partition(":")
        if size > _MAX_HEADER_BYTES or not colon or not is_token(name):
            raise unavailable("protocol", url, "{url} sent damaged or too many headers.")
        items.append((name, value.strip(" \t")))
    return int(code), Headers(items)


async def _connect(
    host: str, port: int, context: ssl.SSLContext | None, proxy: str | None, url: str, seconds: float | None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    try:
        async with asyncio.timeout(seconds):
            if proxy:
                return await _through_proxy(proxy, host, port, context)
            return await asyncio.open_connection(
                host, port, ssl=context, limit=_PIECE, server_hostname=host if context else None
            )
    except TimeoutError as error:
        if seconds is None or getattr(error, "errno", None):
            raise
        raise unavailable("connect", url, f"No connection to {{url}} within {seconds:g} seconds.") from error


async def _through_proxy(
    proxy: str, host: str, port: int, context: ssl.SSLContext | None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to a proxy; for TLS a tunnel through it (RFC 9110, 9.3.6)."""
    parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port or 80, limit=_PIECE)
    try:
        if context is not None:
            name = f"[{host}]" if ":" in host else host
            writer.write(f"CONNECT {name}:{port} HTTP/1.1\r\nHost: {name}:{port}\r\n\r\n".encode())
            status, _ = await _read_head(reader, proxy)
            if status != 200:
                raise unavailable("connect", proxy, f"The proxy {{url}} refused the connection (status {status}).")
            await writer.start_tls(context, server_hostname=host)
    except BaseException:
        writer.transport.abort()
        raise
    return reader, writer


def _content_length(text: str, url: str) -> int:
    values = {value.strip() for value in text.split(",")}
    if len(values) == 1 and (value := values.pop()).isascii() and value.isdigit() and len(value) < 20:
        return int(value)
    raise unavailable("protocol", url, "{url} sent an unusable Content-Length.")


def _decoder(coding: str, url: str) -> zlib._Decompress | None:
    coding = coding.strip().lower()
    if coding in ("", "identity"):
        return None
    if coding in ("gzip", "x-gzip", "deflate"):
        return zlib.decompressobj(zlib.MAX_WBITS | 32)
    raise unavailable("protocol", url, f"{{url}} sent content coding {coding!r}, which was not asked for.")


def _raise_connection_error(error: Exception, url: str, seconds: float | None) -> NoReturn:
    if isinstance(error, TimeoutError) and not getattr(error, "errno", None):
        raise unavailable("timeout", url, f"{{url}} did not answer within {seconds:g} seconds.") from error
    if isinstance(error, asyncio.IncompleteReadError):
        raise unavailable("cut", url, "{url} closed the connection without an answer.") from error
    if isinstance(error, asyncio.LimitOverrunError):
        raise unavailable("protocol", url, "{url} did not answer in HTTP/1.1.") from error
    raise unavailable("connect", url, f"No connection to {{url}} ({type(error).__name__}).") from error


def _raise_body_error(error: Exception, url: str, seconds: float | None) -> NoReturn:
    if isinstance(error, TimeoutError) and not getattr(error, "errno", None):
        raise unavailable("timeout", url, f"{{url}} sent nothing for {seconds:g} seconds.") from error
    if isinstance(error, asyncio.LimitOverrunError):
        raise unavailable("protocol", url, "{url} sent a damaged chunked body.") from error
    raise unavailable("cut", url, "The connection to {url} broke.") from error
