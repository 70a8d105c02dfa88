"""Refuses requests that name another host: the defence of a local server against DNS rebinding.

A hostile page can make its own name resolve to 127.0.0.1 and then read a server there as if it were its own origin.
The Host header still holds the page's name, so checking it is enough.
"""

from __future__ import annotations

import ipaddress
import re

from aiohttp import web

from .errors import BadRequest, ConfigurationError, ForeignOrigin, WrongHost

_AUTHORITY = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[^\s:/@?#\[\]]+)(?::(?P<port>\d{1,5}))?")
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class HostCheck:
    """Decides by the Host and Origin headers.

    Args:
        host: the address that the server listens on; its name is right as well.
        allowed: further names, as ``name`` (with this server's port, or none) or ``name:port``.

    Raises:
        ConfigurationError: one of them can't be a host's name.
    """

    def __init__(self, host: str, allowed: tuple[str, ...] = ()) -> None:
        self._names = {*_LOOPBACK, bracketed(host)}
        self._any_address = host in ("", "0.0.0.0", "::")
        self._exact: set[tuple[str, int]] = set()
        self._proxied: set[str] = set()
        for entry in allowed:
            match = _AUTHORITY.fullmatch(bracketed(entry))
            if match is None or int(match["port"] or 0) > 65535:
                raise ConfigurationError(f"{entry!r} can't be a host's name.", hint="Write it as NAME or NAME:PORT.")
            if match["port"]:
                self._exact.add((match["name"], int(match["port"])))
            else:
                self._proxied.add(match["name"])

    def check(self, request: web.Request) -> None:
        """Lets a request pass.

        Raises:
            BadRequest: the header is missing or there are two.
            WrongHost: it names a host that this server is not.
            ForeignOrigin: a page of another origin sends something other than a plain read.
        """
        hosts = request.headers.getall("Host", [])
        if len(hosts) != 1:
            raise BadRequest("The request needs exactly one Host header.", hint="Send one.")
        if not self.allows(hosts[0], request):
            raise WrongHost(f"This server is not {hosts[0][:100]!r}.")
        # RFC 9112, 3.2.2: the authority of an absolute request target takes the place of the Host header. aiohttp's
        # ``url`` has the one that counts.
        if not self.allows(request.url.raw_authority, request):
            raise WrongHost(f"This server is not {request.url.raw_authority[:100]!r}.")
        scheme = "https" if _is_tls(request) else "http"
        origin = request.headers.get("Origin")
        if origin and request.method not in _SAFE_METHODS and origin.lower() != f"{scheme}://{hosts[0].lower()}":
            raise ForeignOrigin("Requests of other origins are not served.", hint="Open the page from this server.")

    def allows(self, authority: str, request: web.Request) -> bool:
        """Whether ``authority`` (``name`` or ``name:port``) is this server."""
        match = _AUTHORITY.fullmatch(authority.lower())
        if match is None:
            return False
        standard = 443 if _is_tls(request) else 80
        name, port = match["name"], int(match["port"] or standard)
        if (name, port) in self._exact:
            return True
        sockname = request.transport.get_extra_info("sockname") if request.transport else None
        address, bound = (sockname[0], sockname[1]) if isinstance(sockname, tuple) else ("", standard)
        if name in self._proxied:
            return match["port"] is None or port == bound
        # Listening on every address, the one that this connection came in by is ours. An address can't be rebound.
        return port == bound and (name in self._names or (self._any_address and name == bracketed(address)))


def _is_tls(request: web.Request) -> bool:
    # Not request.scheme: an absolute request target could claim another one.
    return request.transport is not None and request.transport.get_extra_info("sslcontext") is not None


def bracketed(host: str) -> str:
    """A host as it stands in a URL: IPv6 addresses in brackets, lower case."""
    host = host.lower()
    try:
        return f"[{host}]" if ipaddress.ip_address(host).version == 6 else host
    except ValueError:
        return host


def is_loopback(host: str) -> bool:
    """Whether an address or name to listen on is reachable from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
