"""Files that stay: the origin's private file system in a tab, a folder in CPython.

    storage = default_storage()
    file = await storage.open("models/x/model.gguf")
    async for arrival in file.receive(storage.body(response), 0, None, chunk_size=512 << 10, notes=notes):
        ...

A model's bytes go from a :class:`Body` into a :class:`StoredFile`. In a tab both are in the storage worker: Python says
what happens to them, and they never pass through it.
"""

from __future__ import annotations

import contextlib
import hashlib
import sys
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from ..errors import StorageError
from .base import Source
from .http import HttpClient, HttpResponse
from .notes import UNHASHED, Kind, Note

_PIECE = 1 << 20


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


class Body:
    """Bytes that come from somewhere, on their way into a file.

    Args:
        pieces: the bytes as they come.
    """

    def __init__(self, pieces: AsyncIterator[bytes]) -> None:
        self._pieces, self._rest, self._closed = pieces, memoryview(b""), False

    async def take(self, most: int) -> memoryview:
        """The next bytes, ``most`` at most; none at the end."""
        while not self._rest and not self._closed:
            try:
                self._rest = memoryview(await anext(self._pieces))
            except StopAsyncIteration:
                break
        taken, self._rest = self._rest[:most], self._rest[most:]
        return taken

    def close(self) -> None:
        """Let go of it: nothing more comes. What it comes from is closed by whoever opened that. Safe to call twice."""
        self._rest, self._closed = memoryview(b""), True


@dataclass(frozen=True)
class Arrival:
    """How far bytes have come on their way into a file.

    Attributes:
        position: the offset up to which they are written; it does not go back.
        hashes: the hexadecimal SHA-256 of the chunks that became complete, by their numbers.
    """

    position: int
    hashes: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Notes:
    """Where the notes on one file go.

    Attributes:
        journal: the file that they are appended to.
        file: the index of the file that they are about.
        every: bytes of an incomplete chunk after which a note is due; ``None`` for notes on whole chunks alone.
        hashed: whether notes on parts carry a SHA-256.
        learn: called with each note that is in the journal.
    """

    journal: StoredFile
    file: int
    every: int | None
    hashed: bool
    learn: Callable[[Note], None]


class StoredFile(ABC):
    """A file opened for writing; nobody else can open it until it is closed."""

    @abstractmethod
    async def write(self, offset: int, data: bytes | memoryview) -> None:
        """Write all of ``data`` at ``offset``.

        Raises:
            StorageError: ``details["reason"]`` is ``full`` or ``failed``.
        """

    @abstractmethod
    async def append(self, data: bytes) -> None:
        """Write all of ``data`` at the end of the file; raises as :meth:`write`."""

    async def receive(
        self, body: Body, start: int, end: int | None, *, chunk_size: int, notes: Notes, keep: Collection[int] = ()
    ) -> AsyncGenerator[Arrival]:
        """Write what a body brings at ``start`` and behind, hash each chunk of the file as it becomes complete, and
        note what is there; however this ends, also of a chunk that is not complete. Of the first one, the bytes before
        ``start`` are read from the file.

        Args:
            body: where the bytes come from.
            start: an offset in the file.
            end: where to stop; ``None`` for all that comes, and then the last chunk may be shorter.
            chunk_size: bytes of a chunk.
            notes: where it is noted.
            keep: numbers of chunks that are there: they are hashed as they come, but not written, and not noted.

        Raises:
            StorageError: as for :meth:`write`.
            RemoteUnavailable: the body broke off.
        """
        position = noted = start
        chunk = start // chunk_size
        whole, part = hashlib.sha256(await self.read(chunk * chunk_size, start % chunk_size)), hashlib.sha256()

        async def note(kind: Kind, sha256: str) -> None:
            nonlocal noted, part
            noted, part = position, hashlib.sha256()
            if chunk not in keep:
                note = Note(notes.file, chunk, position - chunk * chunk_size, kind, sha256)
                await notes.journal.append(note.pack())
                notes.learn(note)

        async def note_part() -> None:
            await note(Kind.PART, part.hexdigest() if notes.hashed else UNHASHED)

        async def note_whole() -> Arrival:
            await note(Kind.WHOLE, digest := whole.hexdigest())
            return Arrival(position, {chunk: digest})

        try:
            while end is None or position < end:
                limit = (chunk + 1) * chunk_size if end is None else min((chunk + 1) * chunk_size, end)
                data = await body.take(limit - position)
                if not data:
                    break
                whole.update(data)
                if notes.hashed:
                    part.update(data)
                if chunk not in keep:
                    await self.write(position, data)
                position += len(data)
                if position == limit:
                    yield await note_whole()
                    chunk, whole = chunk + 1, hashlib.sha256()
                else:
                    if notes.every is not None and position - noted >= notes.every:
                        await note_part()
                    yield Arrival(position)
            if end is None and position > chunk * chunk_size:
                yield await note_whole()
        finally:
            if notes.every is not None and position > noted:
                with contextlib.suppress(StorageError):  # the reason for the end is what counts
                    await note_part()

    async def sha256(self, offset: int, length: int) -> str:
        """The hexadecimal SHA-256 of ``length`` bytes at ``offset``; empty where the file ends before them."""
        data = await self.read(offset, length)
        return hashlib.sha256(data).hexdigest() if len(data) == length else ""

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

    @asynccontextmanager
    async def downloading(self, http: HttpClient) -> AsyncIterator[HttpClient]:
        """For a block of code, the client to fetch with what goes into this storage: ``http``, or what stands in for it
        so that the bodies need not pass through Python."""
        yield http

    def body(self, response: HttpResponse) -> Body:
        """The body of an answer that the client of :meth:`downloading` gave."""
        return Body(response.iter_bytes())

    def copy_of(self, source: Source, offset: int) -> Body:
        """What a file that is here has from ``offset`` on."""
        return Body(_pieces(source, offset))

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
    def hashes(self, name: str, parts: Sequence[tuple[int, int]]) -> AsyncGenerator[str]:
        """The hexadecimal SHA-256 of parts of a file that need not be open, each given by its offset and length; empty
        for one that can't be read, or which the file ends before."""

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


async def _pieces(source: Source, offset: int) -> AsyncIterator[bytes]:
    while data := await source.read(offset, _PIECE):
        yield data
        offset += len(data)


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
