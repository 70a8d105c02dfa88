"""Files that stay: the origin's private file system in a tab, a folder in CPython.

    storage = default_storage()
    file = await storage.open("models/x/model.gguf", create=True)
    block = storage.block(8 << 20)
    block.fill(piece)
    await file.write(0, block)

A model's bytes pass through :class:`Block`, which is a JavaScript array in a tab: Python says what happens to them and
never copies them.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

from ..errors import StorageError
from .base import Source


@dataclass(frozen=True)
class StorageEstimate:
    """What the storage holds and may hold, as far as this place tells.

    Attributes:
        usage: bytes in use by this origin or folder.
        quota: bytes that it may use in all; ``None`` where unknown.
        persisted: whether it is kept when the device runs low; ``False`` means that the browser may delete it.
    """

    usage: int
    quota: int | None
    persisted: bool

    @property
    def available(self) -> int | None:
        """Bytes that can still be written."""
        return None if self.quota is None else max(0, self.quota - self.usage)


class Block(ABC):
    """Bytes on their way from the network to storage: a buffer that is filled in order.

    Attributes:
        capacity: the most that it holds.
        filled: how much it holds.
    """

    capacity: int
    filled: int

    @abstractmethod
    def fill(self, piece: Any, start: int = 0) -> int:
        """Append what fits of ``piece`` (bytes, or what :meth:`HttpResponse.iter_pieces` gave) from ``start`` on.

        Returns:
            how many bytes were taken.
        """

    @abstractmethod
    async def sha256(self, start: int = 0) -> str:
        """The hexadecimal SHA-256 of what it holds, from ``start`` on."""

    @abstractmethod
    def to_bytes(self) -> bytes:
        """A copy of what it holds."""

    def clear(self) -> None:
        """Forget what it holds."""
        self.filled = 0


class StoredFile(ABC):
    """A file opened for writing; nobody else can open it until it is closed."""

    @abstractmethod
    async def write(self, offset: int, data: Block | bytes, start: int = 0) -> None:
        """Write all of ``data`` from ``start`` on at ``offset``.

        Raises:
            StorageError: ``details["reason"]`` is ``full`` or ``failed``.
        """

    @abstractmethod
    async def read(self, offset: int, length: int) -> bytes:
        """At most ``length`` bytes from ``offset``; fewer only at the end."""

    @abstractmethod
    async def flush(self) -> None:
        """Return once all that was written survives a crash."""

    @abstractmethod
    async def resize(self, size: int) -> None:
        """Cut or extend the file."""

    @abstractmethod
    async def close(self) -> None:
        """Let go of the file. Safe to call twice."""


class Storage(ABC):
    """A tree of files. Names are relative paths with ``/``; folders come and go by themselves."""

    @abstractmethod
    def block(self, capacity: int) -> Block:
        """An empty block."""

    @abstractmethod
    async def open(self, name: str) -> StoredFile:
        """Open a file for writing; make it where it doesn't exist.

        Raises:
            StorageError: ``details["reason"]`` is ``busy`` where somebody has it open.
        """

    @abstractmethod
    async def source(self, name: str) -> Source | None:
        """The file for reading, also by an engine; ``None`` where it doesn't exist."""

    @abstractmethod
    async def read_block(self, name: str, offset: int, block: Block) -> None:
        """Fill an empty block from a file, up to its capacity or the file's end."""

    @abstractmethod
    async def save(self, name: str, data: bytes) -> None:
        """Replace a small file as a whole: after a crash it is either the old one or the new one."""

    @abstractmethod
    async def load(self, name: str) -> bytes | None:
        """A small file's content; ``None`` where it doesn't exist."""

    @abstractmethod
    async def delete(self, name: str) -> None:
        """Delete a file, or a folder with all that is in it. What doesn't exist is left as it is."""

    @abstractmethod
    async def entries(self, folder: str) -> Mapping[str, int]:
        """What is directly in a folder, with sizes in bytes; folders have size -1. Empty where there is none."""

    @abstractmethod
    async def estimate(self) -> StorageEstimate:
        """How much there is and may be."""

    @abstractmethod
    async def persist(self) -> bool:
        """Ask for storage that the browser does not delete by itself. Returns whether it is so."""

    @abstractmethod
    def lock(self, name: str, *, wait: bool = True) -> AbstractAsyncContextManager[bool]:
        """Hold a lock that all tabs and processes with this storage share; it is freed when its holder dies.

        Args:
            name: what to lock.
            wait: whether to wait for it; without, the context's value says whether it is held.
        """

    @abstractmethod
    def broadcast(self, topic: str, message: Mapping[str, Any]) -> None:
        """Tell the other tabs that listen to ``topic``. In CPython: the other listeners of this process."""

    @abstractmethod
    def listen(self, topic: str, callback: Callable[[dict[str, Any]], None]) -> Callable[[], None]:
        """Call back with every message on ``topic`` from elsewhere. Returns a function that ends it."""


def full(needed: int | None = None, estimate: StorageEstimate | None = None) -> StorageError:
    """There is no room."""
    available = estimate.available if estimate else None
    numbers = ""
    if needed is not None and available is not None:
        numbers = f": {needed} bytes are needed, {available} are left"
    return StorageError(
        f"There is no room to store the model{numbers}.",
        hint="Remove a model, or free space on the device.",
        details={"reason": "full", "needed": needed, "available": available},
    )


def failed(
    message: str, reason: str = "failed", hint: str = "Try again; reload the page if it goes on."
) -> StorageError:
    """Storage did not work."""
    return StorageError(message, hint=hint, details={"reason": reason})


def check_name(name: str) -> list[str]:
    """The parts of a name; refuses what would leave the storage or what some file system can't hold."""
    parts = name.split("/")
    for part in parts:
        if not part or part in (".", "..") or len(part.encode()) > 200 or any(c in part for c in '\\:*?"<>|\0'):
            raise failed(f"Not a usable file name: {name!r}.", "name", "Choose another name.")
    return parts


def default_storage() -> Storage:
    """The storage of the place this runs in."""
    if sys.platform == "emscripten":
        from ._opfs import OpfsStorage

        return OpfsStorage()
    from ._folder import FolderStorage

    return FolderStorage()
