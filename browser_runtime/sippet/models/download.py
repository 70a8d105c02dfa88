"""Brings a model's files into storage: in parallel ranges, verified as they land, resumable after a kill at any byte.

Everything lives in one folder of the storage while it is under way: ``begun.json`` (what is being fetched, and which
version of it), ``journal`` (what of it is safely there) and ``data/`` (the files). A chunk counts once its bytes are
flushed, its hash is right and the journal says so. What the journal says is checked against the disk before it is
trusted again.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import math
import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import InvalidModel, RemoteUnavailable, SippError
from ..events import Status
from ..platform.base import Source
from ..platform.http import HttpClient
from ..platform.storage import Block, Storage, StoredFile
from ._transfer import Changed, NoRanges, Validator, can_retry, fetch_range
from .gguf import GgufHeader, check_model, check_shards, invalid, read_header
from .journal import UNHASHED, Journal
from .manifest import Manifest, ModelFacts, ModelFile, check_projector
from .progress import Meter

PART = 1 << 20  # bytes between two notes in the journal inside a chunk
_HASH_PIECE = 1 << 20
_BAD_LIMIT = 3  # a chunk that is wrong this often is the server's, not the wire's
_CHANGE_LIMIT = 3


@dataclass(frozen=True)
class DownloadOptions:
    """How to download.

    Attributes:
        parallel: most requests at once.
        timeout: seconds of silence after which a connection counts as stalled.
        retries: failures in a row, without a byte of progress, before giving up.
        backoff: seconds before the first retry; doubled for each next one, up to 30.
    """

    parallel: int = 4
    timeout: float = 30.0
    retries: int = 7
    backoff: float = 0.5


@dataclass
class _Item:
    """A file of the model while it is fetched."""

    index: int
    file: ModelFile
    source: Source | None
    path: str
    size: int | None
    known: Validator = field(default_factory=Validator)
    handle: StoredFile | None = None
    streamed_by: int | None = None  # the chunk whose worker takes the whole file, where the server gives no ranges
    done: dict[int, str] = field(default_factory=dict)
    complete: bool = False
    spoiled: int = 0


class Download:
    """One attempt to bring a model into a folder of the storage.

    Args:
        storage: where it goes.
        http: what fetches.
        folder: the folder, which this download has for itself.
        manifest: what to fetch. Sizes and hashes may be missing; they are worked out on the way.
        sources: files to copy from instead of URLs, by file name.
        options: how.
        report: called with every status.
    """

    def __init__(
        self,
        storage: Storage,
        http: HttpClient,
        folder: str,
        manifest: Manifest,
        *,
        sources: dict[str, Source] | None = None,
        options: DownloadOptions | None = None,
        report: Callable[[Status], object] = lambda status: None,
    ) -> None:
        self._storage, self._http, self._folder = storage, http, folder
        self._manifest = manifest
        self._options = options or DownloadOptions()
        self._report = report
        self._meter = Meter(report)
        self._running = asyncio.Event()
        self._running.set()
        self._news = asyncio.Condition()
        self._journal: Journal
        self._items = [
            _Item(index, file, (sources or {}).get(file.name), f"{folder}/data/{file.name}", file.size)
            for index, file in enumerate(manifest.all_files)
        ]

    def pause(self) -> None:
        """Stop fetching; connections are closed, what has arrived is kept."""
        if self._running.is_set():
            self._running.clear()
            self._meter.note = "Paused."
            self._meter.report()

    def resume(self) -> None:
        """Go on after :meth:`pause`."""
        self._meter.note = ""
        self._running.set()

    @property
    def paused(self) -> bool:
        """Whether it is paused."""
        return not self._running.is_set()

    async def run(self) -> Manifest:
        """Fetch what is missing.

        Returns:
            the manifest with every size and every chunk's hash.

        Raises:
            ModelNotFound, AuthenticationFailed, RemoteError, RemoteUnavailable: what the server said in the end. What
                has arrived is kept, and the next attempt goes on from there.
            InvalidModel: it is not a model, or not the one that the manifest describes. Nothing is kept.
            StorageError: there is no room, or storage failed.
        """
        try:
            for _ in range(_CHANGE_LIMIT):
                try:
                    return await self._attempt()
                except Changed:
                    await self._forget()
            raise RemoteUnavailable(
                "The server has another version of the model than was asked for, or changes it while it is downloaded.",
                hint="Try again later; if it goes on, its manifest is out of date.",
                details={"reason": "changed"},
            )
        except InvalidModel as error:
            if error.details.get("chunk") is None:  # of a single bad chunk the others are worth keeping
                await self._storage.delete(self._folder)
            raise

    async def _attempt(self) -> Manifest:
        await self._restore()
        async with self._open():
            await self._save_begun()
            await _together([self._fetch(), *self._checks()])
            for item in self._items:
                await self._finish(item)
        headers = self._headers
        facts = ModelFacts.of(headers[: len(self._manifest.files)], projector=self._manifest.projector is not None)
        files = tuple(_described(item) for item in self._items)
        count = len(self._manifest.files)
        projector = files[count] if self._manifest.projector else None
        return replace(self._manifest, files=files[:count], projector=projector, facts=_merged(self._manifest, facts))

    async def repair(self, bad: Collection[tuple[int, int]]) -> None:
        """Fetch single chunks of an installed model again; the manifest must have the hashes of all.

        Args:
            bad: indices of a file and of its chunk.
        """
        for item in self._items:
            item.done = {n: sha256 for n, sha256 in enumerate(item.file.chunks) if (item.index, n) not in bad}
        self._meter.start_at(sum(self._bytes_of(item) for item in self._items))
        try:
            async with self._open():
                await self._fetch()
                for item in self._items:
                    await self._finish(item)
        except Changed:
            raise RemoteUnavailable(
                "The server has another version of the model now.",
                hint="Remove the model and add it again.",
                details={"reason": "changed"},
            ) from None
        finally:
            await self._storage.delete(f"{self._folder}/journal")
            await self._storage.delete(f"{self._folder}/begun.json")

    # What is there already.

    async def _restore(self) -> None:
        """Take over what an earlier attempt left, as far as it is still the same model and undamaged."""
        self._report(Status("checking", "Checking what is there already."))
        begun = _parse_begun(await self._storage.load(f"{self._folder}/begun.json"))
        if not self._continues(begun):
            await self._forget()
            return
        assert begun is not None
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
        self._meter.start_at(sum(self._bytes_of(item) for item in self._items))

    def _continues(self, begun: dict[str, Any] | None) -> bool:
        """Whether what was begun is what is asked for now."""
        if begun is None or begun["chunk_size"] != self._manifest.chunk_size or len(begun["files"]) != len(self._items):
            return False
        for item, entry in zip(self._items, begun["files"], strict=True):
            file = item.file
            identified = bool(file.sha256 or file.chunks)
            same = (entry["name"], entry["sha256"], entry["chunks"]) == (file.name, file.sha256, list(file.chunks))
            if not same or (file.size is not None and entry["size"] not in (None, file.size)):
                return False
            if not identified and (entry["url"] != file.url or not (entry["etag"] or entry["modified"])):
                return False  # nothing would tell another version from this one
        return True

    async def _restore_item(self, item: _Item) -> None:
        if item.size is None:
            return
        block = self._storage.block(self._manifest.chunk_size)
        for chunk in range(self._chunk_count(item)):
            state = self._journal.chunks.get((item.index, chunk))
            if state is None or not state.whole:
                continue
            block.clear()
            with contextlib.suppress(SippError):
                await self._storage.read_block(item.path, chunk * block.capacity, block)
            length = self._chunk_length(item, chunk)
            expected = self._expected(item, chunk) or state.whole
            if block.filled >= length and state.whole == expected and await _sha256(block, length) == expected:
                item.done[chunk] = state.whole
            else:
                await self._journal.drop(item.index, chunk)

    async def _forget(self) -> None:
        """Start anew."""
        for item in self._items:
            item.known, item.streamed_by, item.size, item.complete = Validator(), None, item.file.size, False
            item.done.clear()
        await self._storage.delete(f"{self._folder}/begun.json")
        await self._storage.delete(f"{self._folder}/journal")
        await self._storage.delete(f"{self._folder}/data")
        self._meter.start_at(0)

    @contextlib.asynccontextmanager
    async def _open(self) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            self._journal = await Journal.open(self._storage, f"{self._folder}/journal")
            stack.push_async_callback(self._journal.close)
            for item in self._items:
                item.handle = await self._storage.open(item.path)
                stack.push_async_callback(item.handle.close)
            yield

    async def _save_begun(self) -> None:
        files = [
            {**item.file.to_dict(), "size": item.size, "etag": item.known.etag, "modified": item.known.modified}
            for item in self._items
        ]
        begun = {"version": 1, "chunk_size": self._manifest.chunk_size, "files": files}
        await self._storage.save(f"{self._folder}/begun.json", json.dumps(begun).encode())

    # Fetching.

    async def _fetch(self) -> None:
        block = self._storage.block(self._manifest.chunk_size)
        for item in self._items:
            if item.size is None:
                await self._fetch_chunk(item, 0, block)
        self._update_total()
        queue = deque(
            (item, chunk)
            for item in self._items
            if not item.complete
            for chunk in range(self._chunk_count(item))
            if chunk not in item.done
        )
        workers = min(self._options.parallel, len(queue))
        blocks = [block] + [self._storage.block(self._manifest.chunk_size) for _ in range(workers - 1)]
        await _together([self._work(queue, blocks[number]) for number in range(workers)])

    async def _work(self, queue: deque[tuple[_Item, int]], block: Block) -> None:
        while queue:
            item, chunk = queue.popleft()
            await self._fetch_chunk(item, chunk, block)

    async def _fetch_chunk(self, item: _Item, chunk: int, block: Block) -> None:
        """Fetch a chunk until it is right. Where the server gives no ranges, the first to find out takes the file."""
        block.clear()
        if chunk in item.done or item.streamed_by is not None:
            return
        saved = await self._restore_parts(item, chunk, block)
        failures = bad = 0
        while not item.complete and (chunk not in item.done or item.streamed_by == chunk):
            await self._running.wait()
            before = (block.filled, len(item.done))
            try:
                if item.source is not None:
                    await self._copy(item, chunk, block)
                else:
                    saved = await self._request(item, chunk, block, saved)
            except NoRanges:
                item.streamed_by = chunk if item.streamed_by is None else item.streamed_by
                continue
            except SippError as error:
                failures = failures + 1 if (block.filled, len(item.done)) == before else 1
                if not can_retry(error) or failures > self._options.retries:
                    raise
                await self._back_off(error, failures)
                continue
            if item.streamed_by not in (None, chunk):
                self._meter.add(-block.filled)
                return
            if item.streamed_by == chunk or item.size is None or block.filled < self._chunk_length(item, chunk):
                continue  # streamed as far as it went, or paused
            if not await self._accept(item, chunk, block, saved):
                bad += 1
                saved = 0
                if bad >= _BAD_LIMIT:
                    raise self._mismatch(item, chunk)

    async def _request(self, item: _Item, chunk: int, block: Block, saved: int) -> int:
        """One request: fills the block as far as the server goes along. Returns how much of it was saved as parts."""
        start = chunk * block.capacity
        end = start + (block.capacity if item.size is None else self._chunk_length(item, chunk))
        ask = end if item.streamed_by is None else None
        async with fetch_range(
            self._http,
            item.file.url,
            start + block.filled,
            ask,
            known=item.known,
            size=item.size,
            timeout=self._options.timeout,
        ) as answer:
            await self._learn(item, answer.total, answer.validator)
            if not answer.ranged or item.size is None:
                if item.streamed_by not in (None, chunk):
                    return saved
                self._meter.add(-block.filled)
                block.clear()
                item.streamed_by = chunk
                if not answer.ranged:  # else its size can't be learned by ranges: ask again, for all of it
                    await self._stream(item, answer.response.iter_pieces(), block)
                return 0
            async for piece in answer.response.iter_pieces():
                taken = block.fill(piece)
                self._meter.add(taken)
                if block.filled - saved >= PART and block.filled < end - start:
                    await self._save_part(item, chunk, block, saved)
                    saved = block.filled
                if not self._running.is_set():
                    break
        return saved

    async def _learn(self, item: _Item, total: int | None, validator: Validator) -> None:
        """Note the size and version of a file once they are known, before any byte of it counts."""
        news = (item.size is None and total is not None) or (not item.known and bool(validator))
        if item.size is None and total is not None:
            if total == 0:
                raise invalid("truncated", f"{item.file.name} is empty.", size=0)
            item.size = total
            self._update_total()
        if not item.known:
            item.known = validator
        if news:
            await self._save_begun()  # a later attempt must know which version its bytes are of

    async def _stream(self, item: _Item, pieces: AsyncIterator[Any], block: Block) -> None:
        """Take a whole file in order from a server that gives no ranges. Chunks that are there are only compared."""
        chunk, damaged = 0, False
        try:
            async for piece in pieces:
                offset, size = 0, len(piece)
                while offset < size:
                    taken = block.fill(piece, offset)
                    offset += taken
                    self._meter.add(taken if chunk not in item.done else 0)
                    if block.filled == block.capacity:
                        damaged = not await self._take_streamed(item, chunk, block) or damaged
                        chunk += 1
                        block.clear()
                if not self._running.is_set():
                    return
            length = chunk * block.capacity + block.filled
            if item.size is not None and length > item.size:
                raise Changed
            if item.size is not None and length < item.size:
                raise _cut(f"{item.file.name} ended after {length} of {item.size} bytes.")
            if not length:
                raise invalid("truncated", f"{item.file.name} is empty.", size=0)
            item.size = length
            self._update_total()
            if block.filled:
                damaged = not await self._take_streamed(item, chunk, block) or damaged
                block.clear()
            if damaged:
                item.spoiled += 1
                raise self._mismatch(item) if item.spoiled >= _BAD_LIMIT else _cut(f"{item.file.name} arrived damaged.")
            item.complete = True
            await self._tell()
        finally:
            self._meter.add(-block.filled if chunk not in item.done else 0)
            block.clear()

    async def _take_streamed(self, item: _Item, chunk: int, block: Block) -> bool:
        if chunk not in item.done:
            return await self._accept(item, chunk, block, 0)
        if await block.sha256() == item.done[chunk]:
            return True
        if item.file.chunks:
            return True  # what is here is right by the manifest, so what came now is wrong, and not needed
        raise Changed

    async def _copy(self, item: _Item, chunk: int, block: Block) -> None:
        assert item.source is not None
        start, length = chunk * block.capacity, self._chunk_length(item, chunk)
        while block.filled < length and self._running.is_set():
            piece = await item.source.read(start + block.filled, min(PART, length - block.filled))
            if not piece:
                raise invalid("truncated", f"{item.file.name} has become shorter.", "Choose the file again.")
            self._meter.add(block.fill(piece))

    # Keeping.

    async def _save_part(self, item: _Item, chunk: int, block: Block, saved: int) -> None:
        assert item.handle is not None
        # Where the manifest has the chunk's hash, that will tell whether its parts were right: no need to hash twice.
        digest = UNHASHED if self._expected(item, chunk) else await block.sha256(saved)
        await item.handle.write(chunk * block.capacity + saved, block, saved)
        await self._journal.part(item.index, chunk, block.filled, digest)

    async def _restore_parts(self, item: _Item, chunk: int, block: Block) -> int:
        """Read back the parts of a chunk that the journal knows, as far as they are undamaged."""
        state = self._journal.chunks.get((item.index, chunk))
        if state is None or not state.parts or item.size is None:
            return 0
        assert item.handle is not None
        length = self._chunk_length(item, chunk)
        for end, digest in state.parts:
            data = await item.handle.read(chunk * block.capacity + block.filled, min(end, length) - block.filled)
            sound = self._expected(item, chunk) if digest == UNHASHED else hashlib.sha256(data).hexdigest() == digest
            if end >= length or not sound or len(data) < end - block.filled:
                break
            block.fill(data)
        self._meter.add(block.filled)
        return block.filled

    async def _accept(self, item: _Item, chunk: int, block: Block, saved: int) -> bool:
        """Verify a complete chunk and make it durable. A wrong one is forgotten."""
        assert item.handle is not None
        digest = await block.sha256()
        if digest != (self._expected(item, chunk) or digest):
            self._meter.add(-block.filled)
            block.clear()
            await self._journal.drop(item.index, chunk)
            return False
        await item.handle.write(chunk * block.capacity + saved, block, saved)
        await item.handle.flush()
        await self._journal.whole(item.index, chunk, block.filled, digest)
        item.done[chunk] = digest
        await self._tell()
        return True

    async def _finish(self, item: _Item) -> None:
        """Hold the whole file against its hash, where only that is known."""
        assert item.handle is not None and item.size is not None
        await item.handle.resize(item.size)
        if item.file.sha256 and not item.file.chunks:
            whole = hashlib.sha256()
            for offset in range(0, item.size, _HASH_PIECE):
                whole.update(await item.handle.read(offset, min(_HASH_PIECE, item.size - offset)))
            if whole.hexdigest() != item.file.sha256:
                raise self._mismatch(item)
        await item.handle.flush()

    # Checking.

    def _checks(self) -> list[Coroutine[Any, Any, None]]:
        self._headers: list[GgufHeader] = []
        return [self._check()]

    async def _check(self) -> None:
        """Refuse what is no model as soon as its header has arrived."""
        count = len(self._manifest.files)
        for item in self._items:
            header = await read_header(_Arriving(self, item))
            if item.index == 0:
                check_model(header)
            if item.index >= count:
                check_projector(header)
            self._headers.append(header)
        check_shards(self._headers[:count])

    async def wait_for(self, item: _Item, chunk: int) -> bool:
        """Wait until a chunk is there. ``False`` where the file ends before it."""
        async with self._news:
            await self._news.wait_for(lambda: chunk in item.done or item.complete)
        return chunk in item.done

    async def _tell(self) -> None:
        async with self._news:
            self._news.notify_all()

    # Small facts.

    def _chunk_count(self, item: _Item) -> int:
        return math.ceil((item.size or 0) / self._manifest.chunk_size)

    def _chunk_length(self, item: _Item, chunk: int) -> int:
        assert item.size is not None
        return min(self._manifest.chunk_size, item.size - chunk * self._manifest.chunk_size)

    def _expected(self, item: _Item, chunk: int) -> str | None:
        return item.file.chunks[chunk] if item.file.chunks else None

    def _bytes_of(self, item: _Item) -> int:
        return sum(self._chunk_length(item, chunk) for chunk in item.done)

    def _update_total(self) -> None:
        sizes = [item.size for item in self._items]
        self._meter.total = None if None in sizes else sum(size for size in sizes if size is not None)

    def _mismatch(self, item: _Item, chunk: int | None = None) -> InvalidModel:
        return InvalidModel(
            f"{item.file.name} is not the file that its manifest describes: its SHA-256 differs.",
            hint="The server has a damaged or another file; tell whoever runs it, or use another source.",
            details={"reason": "hash_mismatch", "file": item.file.name, "chunk": chunk},
        )

    async def _back_off(self, error: SippError, failures: int) -> None:
        asked = error.details.get("retry_after")
        delay = min(30.0, self._options.backoff * 2 ** (failures - 1)) * random.uniform(0.5, 1.0)
        delay = max(delay, min(float(asked), 60.0)) if isinstance(asked, int) else delay
        self._meter.report(f"{error.message} Trying again in {delay:.0f} s.")
        await asyncio.sleep(delay)


class _Arriving:
    """A file that is being downloaded, as a source: reading waits for what has not arrived."""

    def __init__(self, download: Download, item: _Item) -> None:
        self._download, self._item = download, item

    @property
    def size(self) -> int | None:
        return self._item.size

    async def read(self, offset: int, length: int) -> bytes:
        chunk_size = self._download._manifest.chunk_size
        if self._item.size is not None:
            length = max(0, min(length, self._item.size - offset))
        for chunk in range(offset // chunk_size, math.ceil((offset + length) / chunk_size)):
            if not await self._download.wait_for(self._item, chunk):
                length = max(0, min(length, chunk * chunk_size - offset))
                break
        assert self._item.handle is not None
        return await self._item.handle.read(offset, length) if length else b""


async def _sha256(block: Block, length: int) -> str:
    """The hash of a block that may have read more than the file should have."""
    return await block.sha256() if block.filled == length else hashlib.sha256(block.to_bytes()[:length]).hexdigest()


def _cut(message: str) -> RemoteUnavailable:
    return RemoteUnavailable(message, hint="Try again.", details={"reason": "cut"})


async def _together(coroutines: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Run all; the first failure, or being cancelled, ends the others."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _described(item: _Item) -> ModelFile:
    chunks = tuple(item.done[chunk] for chunk in range(len(item.done)))
    return replace(item.file, size=item.size, chunks=chunks)


def _merged(manifest: Manifest, facts: ModelFacts) -> ModelFacts:
    """The file's own facts, completed by what the manifest says where the file is silent."""
    said = manifest.facts
    return replace(
        facts,
        license=facts.license or said.license,
        capabilities=said.capabilities or facts.capabilities,
    )


def _parse_begun(data: bytes | None) -> dict[str, Any] | None:
    """The note of an earlier attempt; ``None`` where there is none, or it is damaged."""
    try:
        begun = json.loads(data or b"")
        for entry in begun["files"]:
            assert {"name", "url", "size", "sha256", "chunks", "etag", "modified"} <= entry.keys()
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError):
        return None
    return begun if begun.get("version") == 1 and "chunk_size" in begun else None
