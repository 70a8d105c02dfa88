"""One HTTP(S) or `file:` request with the standard library: proxies, certificates, a retry."""

from __future__ import annotations

import base64
import functools
import http.client
import os
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path

_TIMEOUT = 30.0  # seconds without a byte
_PIECE = 1 << 18
_CA_VARIABLES = ("PIP_CERT", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS")


class Unavailable(Exception):
    """A source doesn't have the thing, or can't be reached: the next source may be asked.

    `down` says that the whole source can't be reached, so asking it for another file is no use.
    """

    def __init__(self, reason: str, *, down: bool = False) -> None:
        super().__init__(reason)
        self.down = down


def without_secrets(url: str) -> str:
    """The address with any user name and password left out, fit for a message."""
    parts = urllib.parse.urlsplit(url)
    return urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


@functools.cache
def _tls() -> ssl.SSLContext:
    context = ssl.create_default_context()  # honours SSL_CERT_FILE and SSL_CERT_DIR
    for variable in _CA_VARIABLES:  # a company's proxy that re-signs traffic has its certificate in one of these
        path = os.environ.get(variable)
        if path and Path(path).is_file():
            context.load_verify_locations(path)
    return context


def get(
    url: str, *, accept: str = "*/*", limit: int = 1 << 28, progress: Callable[[int, int], None] | None = None
) -> bytes:
    """Fetch an address whole. `progress` is called with (bytes so far, total or 0).

    A user name and password in the address are sent as basic authentication, to that host only. A broken
    connection is tried once more. Raises `Unavailable`, also for a body longer than `limit` bytes.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https", "file"):
        raise Unavailable(f"{without_secrets(url)} is not an http, https or file address")
    headers = {"Accept": accept, "Accept-Encoding": "identity", "User-Agent": "sippet-vendor"}
    request = urllib.request.Request(without_secrets(url), headers=headers)
    if parts.username and parts.scheme != "file":
        pair = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
        # "unredirected": a registry that redirects to a storage host must not hand the password on.
        request.add_unredirected_header("Authorization", "Basic " + base64.b64encode(pair.encode()).decode())
    for attempt in (1, 2):
        try:
            return _read(request, limit, progress)
        except urllib.error.HTTPError as error:
            with error:
                raise Unavailable(f"{without_secrets(url)} answered {error.code} {error.reason}") from error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            transient = isinstance(reason, (ConnectionError, TimeoutError, http.client.HTTPException))
            if attempt == 2 or not transient:  # no such host, no such file, an untrusted certificate
                raise Unavailable(f"{without_secrets(url)}: {reason}", down=parts.scheme != "file") from error
            time.sleep(1)
    raise AssertionError("unreachable")


def _read(request: urllib.request.Request, limit: int, progress: Callable[[int, int], None] | None) -> bytes:
    with urllib.request.urlopen(request, timeout=_TIMEOUT, context=_tls()) as response:
        declared = response.headers.get("Content-Length")
        total = int(declared) if declared and declared.isdigit() else 0
        pieces: list[bytes] = []
        done = 0
        while piece := response.read(_PIECE):
            pieces.append(piece)
            done += len(piece)
            if done > limit:
                raise Unavailable(f"{request.full_url} is longer than {limit} bytes")
            if progress:
                progress(done, total)
        if total and done < total:  # urllib reports a dropped connection only when one reads without a size
            raise http.client.IncompleteRead(b"", total - done)
        return b"".join(pieces)
