"""URLs that people write: checked, and quoted as they go over the wire."""

from __future__ import annotations

import re
from urllib.parse import quote, urldefrag, urlsplit

from .errors import DownloadFailed

_URL = re.compile(r"https?://", re.IGNORECASE)
# RFC 3986's reserved and unreserved characters, and the sign of what is quoted already.
_KEPT = "!#$%&'()*+,-./:;=?@[]_~"


def is_url(text: str) -> bool:
    """Whether a text is meant as an http(s) URL, sound or not."""
    return _URL.match(text) is not None


def checked_url(text: str) -> str:
    """A URL without its fragment, in ASCII: what can't stand in a URL is percent-encoded, a host's name by IDNA.

    Raises:
        DownloadFailed: it names no host, or none that can be.
    """
    hint = "Write it as https://host/path/model.gguf."
    try:
        parts = urlsplit(urldefrag(text).url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", None
    if not host or port == 0:
        raise DownloadFailed("The URL names no host and port that can be.", hint=hint)
    try:
        name = host if ":" in host or host.isascii() else host.encode("idna").decode()
        if ":" not in host:
            name.encode("idna")  # refuses labels that are empty or too long
        user, at, _ = parts.netloc.rpartition("@")
        authority = f"[{name}]" if ":" in name else quote(name, safe="%")
        netloc = quote(user, safe=_KEPT) + at + authority + ("" if port is None else f":{port}")
        path, query = quote(parts.path, safe=_KEPT), quote(parts.query, safe=_KEPT)
    except UnicodeError as error:
        raise DownloadFailed("The URL holds what no URL can.", hint=hint) from error
    return parts._replace(netloc=netloc, path=path, query=query).geturl()
