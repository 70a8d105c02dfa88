"""Small file operations that the tools share: hashes, atomic writes, one process at a time, cache folder."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def sha256(data: bytes) -> str:
    """The SHA-256 of some bytes, in hex."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file, in hex, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old bytes or the new ones, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
        Path(name).chmod(0o644)  # mkstemp makes private files; these are served and shared
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def read_json(path: Path) -> Any:
    """A JSON file's value, or None where it is missing or damaged (a stamp is then simply stale)."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically, with sorted keys, so that equal values are equal bytes."""
    write_atomic(path, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())


def fingerprint(paths: Iterable[Path], *words: str) -> str:
    """One hash over the paths (below the repository) and bytes of files, and some words."""
    digest = hashlib.sha256(json.dumps(words).encode())
    for path in sorted(paths):
        name = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
        digest.update(f"\n{name.as_posix()}:{sha256_file(path)}".encode())
    return digest.hexdigest()


def cache_folder() -> Path:
    """The user's cache folder for Sippet (`SIPPET_CACHE` overrides it). It may not exist yet."""
    if own := os.environ.get("SIPPET_CACHE"):
        return Path(own)
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "sippet"


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold a lock file: a second process waits. The system drops the lock when its holder dies.

    Windows has no `fcntl`; there, two set-ups at once are the person's own business.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as stream:
        if sys.platform != "win32":
            import fcntl

            fcntl.flock(stream, fcntl.LOCK_EX)
        yield
