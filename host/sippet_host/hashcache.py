"""SHA-256 of files, remembered by identity so that a start doesn't read a gigabyte again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

# A file can change twice within one tick of its clock. A hash is remembered only when the file was at rest for this
# long, or else a later change within the same tick would be missed (git calls such entries "racy").
_SETTLED_NS = 2_000_000_000


@dataclass(frozen=True)
class Fingerprint:
    """What tells one version of a file from another without reading it."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> Fingerprint:
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)

    def settled(self) -> bool:
        """False while the file is so fresh that a second change could hide behind the same times."""
        return time.time_ns() - max(self.mtime_ns, self.ctime_ns) > _SETTLED_NS


def atomic_write(path: Path, data: bytes) -> None:
    """Writes a file so that readers see the old one or the whole new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise


class HashCache:
    """SHA-256 by path and fingerprint, kept in a JSON file. Safe to use from several threads.

    Losing the file costs time only. Several processes may share it: the last one to save wins.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._known: dict[str, tuple[Fingerprint, str]] = {}
        self._dirty = False
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
            for path, (size, mtime, ctime, inode, digest) in json.loads(file.read_bytes()).items():
                self._known[path] = (Fingerprint(size, mtime, ctime, inode), str(digest))

    def peek(self, path: Path, fingerprint: Fingerprint) -> str | None:
        """The remembered hash of this version of the file, or None."""
        with self._lock:
            found = self._known.get(str(path))
        return found[1] if found and found[0] == fingerprint else None

    def sha256(self, path: Path) -> tuple[str, Fingerprint]:
        """The hash of the file's bytes (hexadecimal) and the fingerprint of the version that has it.

        Raises:
            OSError: the file can't be read, or kept changing.
        """
        for _ in range(3):
            before = Fingerprint.of(path.stat())
            if known := self.peek(path, before):
                return known, before
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                after = Fingerprint.of(os.fstat(file.fileno()))
            if before == after:
                self.remember(path, after, digest)
                return digest, after
        raise OSError(f"{path} changes while it is read")

    def remember(self, path: Path, fingerprint: Fingerprint, digest: str) -> None:
        """Notes a hash that the caller computed."""
        if fingerprint.settled():
            with self._lock:
                self._known[str(path)] = (fingerprint, digest)
                self._dirty = True

    def save(self) -> None:
        """Writes what is new. A cache folder that can't be written is no error."""
        with self._lock:
            if not self._dirty:
                return
            table = {
                path: [mark.size, mark.mtime_ns, mark.ctime_ns, mark.inode, digest]
                for path, (mark, digest) in self._known.items()
                if Path(path).exists()
            }
            self._dirty = False
        with contextlib.suppress(OSError):
            atomic_write(self._file, json.dumps(table).encode())
