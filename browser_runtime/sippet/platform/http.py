"""Streaming HTTP, the same in a tab (``fetch``) and in CPython (``httpx`` where installed, else asyncio streams).

    async with client.request("GET", url, headers={"Range": "bytes=0-99"}) as response:
        async for piece in response.iter_bytes():
            ...

Only the transport is here: a response of any status is a response. What went wrong below that level is raised as
:class:`~sippet.errors.RemoteUnavailable`, with ``details["reason"]``:

- ``connect``: no connection (no such host, refused, TLS, offline): the server saw nothing of the request;
- ``network``: no answer, in a tab, which can't tell why: no connection, one that broke when the server had the request
  already, CORS, CSP or mixed content;
- ``timeout``: nothing arrived for ``timeout`` seconds;
- ``cut``: the body ended before its length, or the connection broke;
- ``redirect``: a redirect although ``redirect="error"``, or too many of them;
- ``protocol``: not HTTP, or beyond the limits of this client.
"""

from __future__ import annotations

import re
import sys
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal
from urllib.parse import quote, urldefrag, urlsplit, urlunsplit

from ..errors import InvalidOption, RemoteError, RemoteUnavailable

Redirect = Literal["follow", "error", "manual"]

DEFAULT_TIMEOUT = 60.0
MAX_REDIRECTS = 10
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class Headers(Mapping[str, str]):
    """Response headers: names in any case; a repeated header's values are joined with a comma (RFC 9110, 5.3)."""

    def __init__(self, items: Iterable[tuple[str, str]] = ()) -> None:
        self._items: dict[str, str] = {}
        for name, value in items:
            key = name.lower()
            self._items[key] = f"{self._items[key]}, {value}" if key in self._items else value

    def __getitem__(self, name: str) -> str:
        return self._items[name.lower()]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._items

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return f"Headers({self._items!r})"


class HttpResponse(ABC):
    """An answer whose body has not been read yet.

    Attributes:
        status: the HTTP status; 0 for a redirect that a tab was told not to follow (``redirect="manual"``).
        headers: the response headers. In a tab, another origin's are only those that it exposes.
        url: where the answer came from, after redirects.
    """

    status: int
    headers: Headers
    url: str

    @property
    def ok(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status < 300

    @abstractmethod
    def iter_bytes(self) -> AsyncIterator[bytes]:
        """The body in pieces as they arrive, decoded from any content coding. Can be read once."""

    async def read(self, limit: int = 16 << 20) -> bytes:
        """The whole body.

        Args:
            limit: most bytes to accept; a longer body is a :class:`~sippet.errors.RemoteError`.
        """
        pieces, size = [], 0
        async for piece in self.iter_bytes():
            size += len(piece)
            if size > limit:
                raise RemoteError(
                    f"{display_url(self.url)} sent more than {limit} bytes.",
                    details={"reason": "too_large", "url": display_url(self.url), "limit": limit},
                )
            pieces.append(piece)
        return b"".join(pieces)


class HttpClient(ABC):
    """Makes requests. Holds no cookies and sends none to other origins."""

    @abstractmethod
    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        timeout: float | None = DEFAULT_TIMEOUT,
        connect_timeout: float | None = None,
        redirect: Redirect = "follow",
    ) -> AbstractAsyncContextManager[HttpResponse]:
        """Send a request; the context's value is the response once its headers have arrived.

        Leaving the context, or cancelling the task inside it, closes the connection: the rest of the body is not
        fetched.

        Args:
            method: the HTTP method.
            url: absolute ``http:`` or ``https:`` URL; in a tab also a relative one.
            headers: request headers. ``Accept-Encoding: identity`` is sent unless given (a tab chooses its own).
            body: the request's body.
            timeout: most seconds of silence, while connecting and between two pieces of the body; ``None`` waits.
            connect_timeout: most seconds for connecting alone. A tab can't tell, and refuses it.
            redirect: follow redirects (``Authorization`` is dropped when they leave the origin), fail on one, or hand
                it over as it is.
        """

    def resolve(self, url: str) -> str | None:
        """The absolute ``http`` or ``https`` URL that a text names here, or ``None``. A tab takes relative ones too.

        Raises:
            InvalidOption: it is meant as one, and malformed.
        """
        return sendable(url) if url.partition(":")[0].lower() in ("http", "https") else None

    def may_send(self, header: str, url: str) -> bool:
        """Whether ``header`` can be sent there without asking the server first. A tab asks (a CORS preflight) before it
        sends most headers to another origin, and many servers that allow plain downloads refuse that."""
        return True

    async def close(self) -> None:  # noqa: B027 (a client that keeps no connections has nothing to do)
        """Close idle connections. Safe to call twice."""


def is_token(text: str) -> bool:
    """Whether it can be the name of a header (RFC 9110, 5.6.2)."""
    return _TOKEN.fullmatch(text) is not None


def display_url(url: str) -> str:
    """The URL without credentials and query, which may hold secrets: for messages and logs."""
    try:
        parts = urlsplit(url)
    except ValueError:  # malformed: nothing but its beginning can be told from a secret
        return url.partition(":")[0] + ":…"
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def sendable(url: str) -> str:
    """An ``http`` or ``https`` URL as it can be sent: its host in the form of IDNA, and percent-encoded where it is not
    ASCII (RFC 3987, 3.1), without its fragment.

    Raises:
        InvalidOption: it is not such a URL.
    """
    try:
        parts = urlsplit(urldefrag(url).url)
        host, port = parts.hostname or "", parts.port
        if parts.scheme not in ("http", "https") or port == 0:
            raise ValueError("no address")
        # IDNA refuses labels that are empty or too long.
        name = f"[{host}]" if ":" in host else host.encode("idna").decode()
        if not re.fullmatch(r"[!-~]+", name):
            raise ValueError("no host")
        user, at, _ = parts.netloc.rpartition("@")
        netloc = user + at + name + ("" if port is None else f":{port}")
        return re.sub(r"[^!-~]+", lambda found: quote(found[0]), parts._replace(netloc=netloc).geturl())
    except ValueError as error:  # also UnicodeError
        shown = display_url(url).encode(errors="backslashreplace").decode()
        raise InvalidOption("url", f"Not a usable http or https URL: {shown!r}.", hint="Check the address.") from error


def unavailable(reason: str, url: str, message: str, *, hint: str | None = None, **details: Any) -> RemoteUnavailable:
    """A :class:`~sippet.errors.RemoteUnavailable` for ``url``, its secrets left out."""
    shown = display_url(url)
    hints = {
        "connect": "Check the address and the network.",
        "network": "Check the address and the network, and that the page's policy and the server's CORS allow it.",
        "timeout": "Try again, or raise the time-out.",
        "cut": "Try again.",
    }
    return RemoteUnavailable(
        message.replace("{url}", shown),
        hint=hints.get(reason, "") if hint is None else hint,
        details={"reason": reason, "url": shown, **details},
    )


def origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port of a URL (RFC 6454)."""
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)


def default_client() -> HttpClient:
    """The client for the place this runs in."""
    if sys.platform == "emscripten":
        from ._fetch import FetchClient

        return FetchClient()
    try:
        from ._httpx import HttpxClient
    except ImportError:
        from ._http1 import Http1Client

        return Http1Client()
    return HttpxClient()
