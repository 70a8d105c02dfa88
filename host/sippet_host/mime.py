"""Content types, pinned: the system's own table (the Windows registry above all) can't be trusted for modules."""

from __future__ import annotations

from pathlib import PurePosixPath

_OCTETS = "application/octet-stream"

CONTENT_TYPES: dict[str, str] = {
    ".css": "text/css; charset=utf-8",
    ".data": _OCTETS,
    ".gguf": _OCTETS,
    ".gif": "image/gif",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".jpg": "image/jpeg",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json; charset=utf-8",
    ".map": "application/json; charset=utf-8",
    ".md": "text/plain; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".py": "text/plain; charset=utf-8",
    ".svg": "image/svg+xml",
    ".tar": _OCTETS,
    ".txt": "text/plain; charset=utf-8",
    ".wasm": "application/wasm",
    ".webmanifest": "application/manifest+json; charset=utf-8",
    ".webp": "image/webp",
    ".whl": _OCTETS,
    ".woff2": "font/woff2",
    ".zip": _OCTETS,
}

# Already compressed: compressing again costs time and gains nothing.
INCOMPRESSIBLE = frozenset({".gif", ".jpg", ".png", ".webp", ".woff2", ".gguf"})


def content_type(name: str) -> str:
    """The content type for a file name; unknown suffixes are octets, which no browser runs or renders."""
    return CONTENT_TYPES.get(PurePosixPath(name).suffix.lower(), _OCTETS)
