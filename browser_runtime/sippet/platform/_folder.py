"""Storage in a folder on disk: what CPython uses."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import shutil
import sys
import tempfile
import threading
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Any

from ..errors import StorageError
from ._cpython import PathSource
from .base import Source
from .storage import Storage, StorageEstimate, StoredFile, check_name, failed, full

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_LOCK_POLL = 0.05
_REMOVE_TRIES = 5
_FULL = {28, 122, 69}  # ENOSPC, EDQUOT on Linux and on macOS

Listener = Callable[[dict[str, Any]], None]
_listeners: dict[tuple[Path, str], list[Listener]] = defaultdict(list)


class FolderFile(StoredFile):
    """An open file."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: IO[bytes] = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)), "r+b", 0)
        self._turn = threading.Lock()
        if not _try_lock(self._file):
            self._file.close()
            raise failed(f"{path.name} is in use.", "busy", "Wait until the other program is done with it.")

    async def write(self, offset: int, data: bytes | memoryview) -> None:
        await asyncio.to_thread(self._write, offset, memoryview(data))

    def _write(self, offset: int, view: memoryview, whence: int = os.SEEK_SET) -> None:
        with self._turn, _as_storage_errors(len(view)):
            self._file.seek(offset, whence)
            while view:
                view = view[self._file.write(view) :]

    async def append(self, data: bytes) -> None:
        await asyncio.to_thread(self._write, 0, memoryview(data), os.SEEK_END)

    async def read(self, offset: int, length: int) -> bytes:
        return await asyncio.to_thread(self._read, offset, length)

    def _read(self, offset: int, length: int) -> bytes:
        with self._turn, _as_storage_errors():
            self._file.seek(offset)
            return self._file.read(length)

    async def flush(self) -> None:
        with _as_storage_errors():
            await asyncio.to_thread(os.fsync, self._file.fileno())

    async def resize(self, size: int) -> None:
        with _as_storage_errors(size):
            self._file.truncate(size)

    async def close(self) -> None:
        self._file.close()


class FolderStorage(Storage):
    """Files in a folder.

    Args:
        root: the folder; by default ``store`` in ``$SIPPET_CACHE``, else in ``sippet`` in the user's cache folder.
        quota: most bytes to use, for tests and for careful users; else what the disk has.
    """

    def __init__(self, root: Path | str | None = None, quota: int | None = None) -> None:
        self.root = (Path(root) if root is not None else default_folder()).resolve()
        self._quota = quota

    def _path(self, name: str) -> Path:
        return self.root.joinpath(*check_name(name))

    async def open(self, name: str) -> StoredFile:
        with _as_storage_errors():
            return FolderFile(self._path(name))

    async def source(self, name: str) -> Source | None:
        path = self._path(name)
        return PathSource(path) if path.is_file() else None

    async def hashes(self, name: str, parts: Sequence[tuple[int, int]]) -> AsyncGenerator[str]:
        path = self._path(name)

        def digest(offset: int, length: int) -> str:
            with contextlib.suppress(OSError), path.open("rb") as file:
                file.seek(offset)
                data = file.read(length)
                return hashlib.sha256(data).hexdigest() if len(data) == length else ""
            return ""

        for offset, length in parts:
            yield await asyncio.to_thread(digest, offset, length)

    async def save(self, name: str, data: bytes) -> None:
        with _as_storage_errors(len(data)):
            await asyncio.to_thread(_replace, self._path(name), data)

    async def load(self, name: str) -> bytes | None:
        with _as_storage_errors():
            try:
                return self._path(name).read_bytes()
            except (FileNotFoundError, IsADirectoryError):
                return None

    async def delete(self, name: str) -> None:
        path = self._path(name)
        with _as_storage_errors():
            if path.is_dir() and not path.is_symlink():
                await asyncio.to_thread(_remove_tree, path)
            else:
                path.unlink(missing_ok=True)

    async def entries(self, folder: str) -> Mapping[str, int]:
        path = self._path(folder)
        if not path.is_dir():
            return {}
        return {
            entry.name: -1 if entry.is_dir() else entry.stat().st_size
            for entry in sorted(path.iterdir())
            if not entry.name.startswith(".")
        }

    async def estimate(self) -> StorageEstimate:
        usage = await asyncio.to_thread(self._usage)
        place = self.root
        while not place.exists():
            place = place.parent
        free = shutil.disk_usage(place).free
        quota = usage + free if self._quota is None else min(self._quota, usage + free)
        return StorageEstimate(usage, quota, True)

    def _usage(self) -> int:
        return sum(path.stat().st_size for path in self.root.rglob("*") if path.is_file())

    async def persist(self) -> bool:
        return True

    @asynccontextmanager
    async def lock(self, name: str, *, wait: bool = True) -> AsyncIterator[bool]:
        path = self._path(f"locks/{name}")
        with _as_storage_errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("a+b")
        with file:
            held = _try_lock(file)
            while wait and not held:
                await asyncio.sleep(_LOCK_POLL)
                held = _try_lock(file)
            yield held

    def broadcast(self, topic: str, message: Mapping[str, Any]) -> None:
        for listener in list(_listeners[self.root, topic]):
            listener(dict(message))

    def listen(self, topic: str, callback: Listener) -> Callable[[], None]:
        listeners = _listeners[self.root, topic]
        listeners.append(callback)
        return lambda: listeners.remove(callback) if callback in listeners else None


def default_folder() -> Path:
    """Where models go unless a place is named."""
    if cache := os.environ.get("SIPPET_CACHE"):
        return Path(cache).expanduser() / "store"
    if sys.platform == "win32":
        cache_home = Path(os.environ.get("LOCALAPPDATA") or Path.home())
    elif sys.platform == "darwin":
        cache_home = Path.home() / "Library" / "Caches"
    else:
        cache_home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache_home / "sippet" / "store"


def _replace(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".saving-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _try_lock(file: IO[bytes]) -> bool:
    """Lock a whole file for this handle; the system frees it when the process ends."""
    try:
        if sys.platform == "win32":
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _sync_folder(folder: Path) -> None:
    """A renamed file survives a power cut only once its folder is on disk. Windows has no such call."""
    if sys.platform != "win32":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _remove_tree(path: Path) -> None:
    """Remove a folder, also while a write that was cancelled, but can't be stopped in its thread, comes to its end."""
    for attempt in range(_REMOVE_TRIES):
        try:
            return shutil.rmtree(path)
        except OSError as error:
            changed = isinstance(error, FileNotFoundError) or error.errno == errno.ENOTEMPTY
            if not path.exists():
                return None
            if not changed or attempt == _REMOVE_TRIES - 1:
                raise


@contextlib.contextmanager
def _as_storage_errors(needed: int | None = None) -> Any:
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        if error.errno in _FULL:
            raise full(needed) from error
        raise failed(
            f"Storage failed: {error.strerror or error}.", hint="Check the folder and its permissions."
        ) from error
