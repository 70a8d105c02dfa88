"""What of a download is on disk, and how it comes there so that a kill at any byte costs little.

In the download's folder are ``begun.json`` (what is being fetched, and which version of it), ``journal`` (what of it is
safely there) and ``data/`` (the files). A chunk counts once its bytes are written, its hash is right and the journal
says so. What the journal says is checked against the disk before it is trusted again: a power cut may have taken what
was written and not yet flushed.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import math
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping, Sequence
from typing import Any

from .. import _json
from ..platform.base import Source
from ..platform.http import HttpResponse
from ..platform.notes import UNHASHED
from ..platform.storage import Arrival, Body, Storage
from ._arriving import ArrivingFile
from ._transfer import Validator
from .journal import Journal
from .progress import Meter

PART = 1 << 20  # bytes of a chunk after which the journal notes that they are there: each connection may lose as many
FLUSH_EVERY = 256 << 20  # bytes; each time the tab waits for the disk
_HASH_PIECE = 1 << 20


class Shelf:
    """One download's folder.

    Args:
        storage: where it is.
        folder: its name.
        items: the files.
        chunk_size: bytes that are verified together.
        meter: told what was there before, and what was thrown away.
    """

    def __init__(
        self, storage: Storage, folder: str, items: Sequence[ArrivingFile], chunk_size: int, meter: Meter
    ) -> None:
        self._storage, self._folder, self._items = storage, folder, items
        self._chunk_size, self._meter = chunk_size, meter
        self._news = asyncio.Condition()
        self._unflushed = 0
        self._begun: list[tuple[int | None, Validator]] = []  # what is noted of the files
        self._saved: asyncio.Future[None] | None = None  # done once it is
        self._journal: Journal

    def body(self, response: HttpResponse) -> Body:
        """The body of an answer, to be received."""
        return self._storage.body(response)

    def copy_of(self, source: Source, offset: int) -> Body:
        """A file that is here from ``offset`` on, to be received."""
        return self._storage.copy_of(source, offset)

    # What is there already.

    async def restore(self) -> None:
        """Take over what an earlier attempt left, as far as it is still the same model and undamaged."""
        if not await self._storage.entries(self._folder):
            self._start_anew()
            return
        begun = _parse_begun(await self._storage.load(f"{self._folder}/begun.json"))
        if begun is None or not self._continues(begun):
            await self.clear()
            return
        for item in self._items:
            entry = begun["files"][item.index]
            item.known = Validator(entry["etag"], entry["modified"])
            item.size = item.size if item.size is not None else entry["size"]
        self._journal = await Journal.open(self._storage, f"{self._folder}/journal")
        try:
            for item in self._items:
                await self._restore_item(item)
        finally:
            await self._journal.close()
        self._meter.start_at(sum(item.nbytes for item in self._items))

    def _continues(self, begun: dict[str, Any]) -> bool:
        """Whether what was begun is what is asked for now."""
        if begun["chunk_size"] != self._chunk_size or len(begun["files"]) != len(self._items):
            return False
        for item, entry in zip(self._items, begun["files"], strict=True):
            file = item.file
            same = (entry["name"], entry["sha256"], entry["chunks"]) == (file.name, file.sha256, list(file.chunks))
            if not same or (file.size is not None and entry["size"] not in (None, file.size)):
                return False
            if not file.is_identified and (entry["url"] != file.url or not (entry["etag"] or entry["modified"])):
                return False  # nothing would tell another version from this one
        return True

    async def _restore_item(self, item: ArrivingFile) -> None:
        if item.size is None:
            return
        noted = {
            chunk: state.whole
            for chunk in range(item.chunk_count)
            if (state := self._journal.chunks.get((item.index, chunk))) and state.whole
        }
        parts = [(chunk * item.chunk_size, item.chunk_length(chunk)) for chunk in noted]
        async with contextlib.aclosing(self._storage.hashes(item.path, parts)) as hashes:
            for chunk, sha256 in noted.items():
                if await anext(hashes) == sha256 == (item.expected(chunk) or sha256):
                    item.done[chunk] = sha256
                else:
                    await self._journal.drop(item.index, chunk)

    async def forget(self) -> None:
        """The server has another version: let go of what can't be told from it, which is all without a chunk's hash."""
        if not all(item.file.chunks for item in self._items):
            await self.clear()
            return
        for item in self._items:
            item.start_anew()
        await self.begin()  # without validators; the chunks are found again by their hashes

    async def clear(self) -> None:
        """Delete what is there."""
        names = ("begun.json", "journal", "data")
        await asyncio.gather(*[self._storage.delete(f"{self._folder}/{name}") for name in names])
        self._start_anew()

    def _start_anew(self) -> None:
        for item in self._items:
            item.start_anew()
        self._begun, self._saved = [], None
        self._meter.start_at(0)

    # Open files.

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Hold the journal and the files open."""
        async with contextlib.AsyncExitStack() as stack:
            self._journal = await Journal.open(self._storage, f"{self._folder}/journal")
            stack.push_async_callback(self._journal.close)
            for item in self._items:
                item.handle = await self._storage.open(item.path)
                stack.push_async_callback(item.handle.close)
            try:
                yield
            finally:
                if self._saved is not None:
                    await asyncio.gather(self._saved, return_exceptions=True)

    def begin(self) -> asyncio.Future[None]:
        """Note what is being fetched, and which version of it, unless that is noted. Returns what can be waited for:
        bytes may come meanwhile, but no chunk counts before."""
        begun = [(item.size, item.known) for item in self._items]
        if self._saved is None or begun != self._begun:
            self._begun, self._saved = begun, asyncio.ensure_future(self._save(begun, self._saved))
        return self._saved

    async def _save(self, begun: list[tuple[int | None, Validator]], before: asyncio.Future[None] | None) -> None:
        if before is not None:
            await before
        files = [
            {**item.file.to_dict(), "size": size, "etag": known.etag, "modified": known.modified}
            for item, (size, known) in zip(self._items, begun, strict=True)
        ]
        document = {"version": 1, "chunk_size": self._chunk_size, "files": files}
        await self._storage.save(f"{self._folder}/begun.json", json.dumps(document).encode())

    # Chunks.

    def receive(
        self, item: ArrivingFile, body: Body, start: int, end: int | None, *, keep: Collection[int] = ()
    ) -> AsyncGenerator[Arrival]:
        """Take what a body brings from one offset of a file to another, or to its end, and note what is there."""
        assert item.handle is not None
        # Where the manifest has the chunk's hash, that will tell whether its parts were right: no need to hash twice.
        # Of a body that can't be asked for from the middle on, parts are of no use.
        every = None if end is None else PART
        notes = self._journal.on(item.index, every=every, hashed=every is not None and not item.file.chunks)
        return item.handle.receive(body, start, end, chunk_size=item.chunk_size, notes=notes, keep=keep)

    def has_parts(self, item: ArrivingFile, chunk: int) -> bool:
        """Whether some of a chunk was saved."""
        state = self._journal.chunks.get((item.index, chunk))
        return state is not None and bool(state.parts)

    async def restore_parts(self, item: ArrivingFile, chunk: int) -> int:
        """How many bytes of a chunk are there by the journal, as far as they are undamaged."""
        state = self._journal.chunks.get((item.index, chunk))
        if state is None or not state.parts or item.size is None:
            return 0
        assert item.handle is not None
        there, offset = 0, chunk * item.chunk_size
        for end, digest in state.parts:
            if end >= item.chunk_length(chunk) or (digest == UNHASHED and not item.expected(chunk)):
                break
            if digest != UNHASHED and await item.handle.sha256(offset + there, end - there) != digest:
                break
            there = end
        return there

    async def accept(self, item: ArrivingFile, hashes: Mapping[int, str]) -> list[int]:
        """Make chunks count whose hashes are right, which are written and noted; forget the others, and return them."""
        assert item.handle is not None
        good = {chunk: sha256 for chunk, sha256 in hashes.items() if sha256 == (item.expected(chunk) or sha256)}
        bad = [chunk for chunk in hashes if chunk not in good]
        for chunk in bad:
            await self._journal.drop(item.index, chunk)
        if good:
            await asyncio.shield(self.begin())
            self._unflushed += len(good) * item.chunk_size
            if self._unflushed >= FLUSH_EVERY:
                await item.handle.flush()
                self._unflushed = 0
            item.done.update(good)
            await self.tell()
        return bad

    async def finish(self, item: ArrivingFile) -> None:
        """Hold the whole file against its hash, where only that is known."""
        assert item.handle is not None and item.size is not None
        await item.handle.resize(item.size)
        if item.file.sha256 and not item.file.chunks:
            whole = hashlib.sha256()
            for offset in range(0, item.size, _HASH_PIECE):
                whole.update(await item.handle.read(offset, min(_HASH_PIECE, item.size - offset)))
            if whole.hexdigest() != item.file.sha256:
                raise item.mismatch()
        await item.handle.flush()

    # Who waits for chunks.

    async def wait_for(self, item: ArrivingFile, chunk: int) -> bool:
        """Wait until a chunk is there. ``False`` where the file ends before it."""
        async with self._news:
            await self._news.wait_for(lambda: chunk in item.done or item.complete)
        return chunk in item.done

    async def tell(self) -> None:
        """Wake who waits."""
        async with self._news:
            self._news.notify_all()


class ArrivingSource:
    """A file that is being downloaded, as a source of bytes: reading waits for what is missing."""

    def __init__(self, shelf: Shelf, item: ArrivingFile) -> None:
        self._shelf, self._item = shelf, item

    @property
    def size(self) -> int | None:
        """Bytes, once known."""
        return self._item.size

    async def read(self, offset: int, length: int) -> bytes:
        """``length`` bytes from ``offset`` on; fewer only at the end."""
        item = self._item
        if item.size is not None:
            length = max(0, min(length, item.size - offset))
        for chunk in range(offset // item.chunk_size, math.ceil((offset + length) / item.chunk_size)):
            if not await self._shelf.wait_for(item, chunk):
                length = max(0, min(length, chunk * item.chunk_size - offset))
                break
        assert item.handle is not None
        return await item.handle.read(offset, length) if length else b""


def _parse_begun(data: bytes | None) -> dict[str, Any] | None:
    """The note of an earlier attempt; ``None`` where there is none, or it is damaged."""
    try:
        begun = _json.loads(data or b"")
        for entry in begun["files"]:
            assert {"name", "url", "size", "sha256", "chunks", "etag", "modified"} <= entry.keys()
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError):
        return None
    return begun if begun.get("version") == 1 and "chunk_size" in begun else None
