"""What gateways and providers have in common: how to reach a server, how long to wait, and the secrets it asks for."""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from ._fields import build, check, option, show
from .errors import InvalidOption
from .platform.http import is_token

Secret = str | Callable[[], str | Awaitable[str]]
"""A secret, or what gives it: called at each request, so that a short-lived token can be renewed. May be a coroutine
function."""


_CONNECTION = ("host", "content-length", "content-type", "connection", "transfer-encoding", "cookie")


@dataclass(frozen=True)
class Bearer:
    """``Authorization: Bearer TOKEN``."""

    token: Secret = dataclasses.field(repr=False)

    def __post_init__(self) -> None:
        _check_secret("token", self.token)


@dataclass(frozen=True)
class Header:
    """A header of the server's own, such as ``X-Api-Key``."""

    name: str
    value: Secret = dataclasses.field(repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise InvalidOption("authentication", "Header needs the name of a header.")
        _check_header_name("authentication", self.name)
        _check_secret("value", self.value)


Authentication = Bearer | Header | None


def authentication_of(value: Any) -> Any:
    """What JavaScript or a document gives (``{"type": "bearer", "token": ...}``) as :class:`Bearer` or
    :class:`Header`; anything else as it is.
    """
    if not isinstance(value, Mapping):
        return value
    rest = {name: item for name, item in value.items() if name != "type"}
    match value.get("type"):
        case "none":
            return None
        case "bearer":
            return build(Bearer, rest, "authentication")
        case "header":
            return build(Header, rest, "authentication")
    raise InvalidOption("authentication", "authentication has no known type.", hint="Types: none, bearer, header.")


@dataclass(frozen=True, kw_only=True)
class RemoteFields:
    """Arguments of :class:`Gateway` and :class:`Provider`, by name only.

    A redirect is never followed: the prompt and the credentials go to the named server and nowhere else.
    """

    headers: Mapping[str, str] = dataclasses.field(
        default_factory=dict, repr=False, metadata={"doc": "Headers to send with each request."}
    )
    timeout: float = option("Most time until the first bytes of the answer.", default=120.0,
                            low=0.001, unit="seconds")  # fmt: skip
    connect_timeout: float | None = option(
        "Most time for connecting alone; by default it is a part of `timeout`. A tab can't tell: it refuses this.",
        low=0.001,
        unit="seconds",
    )
    idle_timeout: float = option("Most silence in the middle of an answer.", default=60.0, low=0.001, unit="seconds")
    retries: int = option(
        "How often to try again where the server can't have begun: 429, 502, 503, 504, and no connection, which a tab "
        "can't tell from one that broke later.",
        default=2,
        low=0,
        high=10,
    )
    max_concurrent_requests: int = option("Requests under way together; more wait.", default=16, low=1, high=1024)
    max_queued_requests: int = option("Requests that may wait; one more is refused.", default=64, low=0)
    allow_insecure: bool = option("Let credentials go over plain http to another machine.", default=False)

    def __post_init__(self) -> None:
        check(self)
        for name, value in self.headers.items():
            if not fits_header(value):
                raise InvalidOption("headers", f"The value of the header {name} holds characters that none can carry.")
            _check_header_name("headers", name)


def checked_url(text: str) -> str:
    """The address of an API, without a slash at its end; ``/v1`` where it has no path.

    Raises:
        InvalidOption: it is no such address, or holds credentials. The message never repeats it.
    """
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise InvalidOption("base_url", "base_url is not a URL.") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise InvalidOption("base_url", "base_url must be an http or https URL.", hint="https://host/v1, for example.")
    if parts.username is not None or parts.password is not None:
        raise InvalidOption("base_url", "base_url holds a user name.", hint="Use authentication= for credentials.")
    if parts.query or parts.fragment:
        raise InvalidOption("base_url", "base_url holds a query or a fragment.", hint="Leave it out.")
    path = parts.path.rstrip("/") or "/v1"
    return f"{parts.scheme}://{parts.netloc}{path}"


def fits_header(value: str) -> bool:
    """Whether a header can carry a text: a line break in it would begin another header."""
    return value.isascii() and value.isprintable()


def is_private_transport(url: str) -> bool:
    """Whether nobody between here and there can read along: https, or this very machine."""
    parts = urlsplit(url)
    if parts.scheme == "https" or parts.hostname == "localhost":
        return True
    try:
        return ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False


def _check_header_name(option: str, name: str) -> None:
    if not is_token(name):
        raise InvalidOption(option, f"{show(name)} is no name of a header.")
    if name.lower() in _CONNECTION:
        raise InvalidOption(option, f"{option} can't set {name}: it belongs to the connection.")


def _check_secret(name: str, value: Any) -> None:
    if not callable(value) and (not isinstance(value, str) or not value):
        raise InvalidOption("authentication", f"{name} must be a text that is not empty, or a callback that gives one.")
