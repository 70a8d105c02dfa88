"""URLs that people write."""

from __future__ import annotations

import re

from sippet.errors import InvalidOption
from sippet.platform.http import sendable

from .errors import DownloadFailed

_URL = re.compile(r"https?://", re.IGNORECASE)


def is_url(text: str) -> bool:
    """Whether a text is meant as an http(s) URL, sound or not."""
    return _URL.match(text) is not None


def checked_url(text: str) -> str:
    """A URL as it goes over the wire.

    Raises:
        DownloadFailed: it names no host, or none that can be.
    """
    try:
        return sendable(text)
    except InvalidOption as error:
        raise DownloadFailed(
            "The URL names no host and port that can be.", hint="Write it as https://host/path/model.gguf."
        ) from error
