"""Fetches a model's files: parallel ranges where the server gives them and one alone is not quick, the whole in order
where it doesn't, from the next address where one fails."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import InvalidModel, ModelNotFound, RemoteError, RemoteUnavailable, SippError
from ..platform.base import Source
from ..platform.http import HttpClient
from ..platform.storage import Body
from ._arriving import ArrivingFile
from ._shelf import Shelf
from ._transfer import Changed, NoRanges, Validator, can_retry, fetch_range, unusable
from ._turns import Turns
from .header import invalid
from .progress import Meter

LONGEST_RUN = 32 << 20  # bytes that are asked for at once: in browsers a request costs as much as megabytes
QUICK_RUN = 128 << 20  # likewise, while one connection at a time is quick
LAST_OF_TURN = 16 << 20  # bytes; asking for the next run takes a browser about as long as half of them
QUICK_RETRIES = 1  # where there is another address to turn to
BAD_LIMIT = 3  # a chunk that is wrong this often is the server's, not the wire's


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
class _Run:
    """Chunks of a file that follow each other, which one worker fetches: by one request, as long as all goes well.

    Attributes:
        item: the file.
        first: the first chunk.
        end: the one after the last.
        position: the offset in the file up to which bytes have come.
        refused: chunks that were wrong, and will be fetched by another run.
        place: which of the file's addresses it is asked from.
        end_turn: called once little of it is still to come.
    """

    item: ArrivingFile
    first: int
    end: int
    end_turn: Callable[[], None] = lambda: None
    position: int = 0
    refused: set[int] = field(default_factory=set)
    place: int = 0

    def __post_init__(self) -> None:
        self.position = self.first * self.item.chunk_size

    @property
    def missing(self) -> int | None:
        """The first chunk that is still to come."""
        chunks = range(self.first, self.end)
        return next((chunk for chunk in chunks if chunk not in self.item.done and chunk not in self.refused), None)


class Fetcher:
    """Brings files onto a shelf.

    Args:
        shelf: where they go.
        items: the files.
        http: what fetches.
        options: how.
        meter: told of every byte.
        running: cleared while it is to pause.
        make_room: called with the bytes of all files whenever more is known of them; refuses what there is no room for.
    """

    def __init__(
        self,
        shelf: Shelf,
        items: Sequence[ArrivingFile],
        http: HttpClient,
        options: DownloadOptions,
        meter: Meter,
        running: asyncio.Event,
        make_room: Callable[[int], Awaitable[None]],
    ) -> None:
        self._shelf, self._items, self._http = shelf, items, http
        self._options, self._meter, self._running, self._make_room = options, meter, running, make_room
        self._queue: deque[tuple[ArrivingFile, int]] = deque()

    async def fetch(self) -> None:
        """Fetch every chunk that is not here.

        Raises:
            Changed: the server has another version than the one that was begun.
            SippError: what the server said in the end, or the storage.
        """
        await self._count()
        for item in self._items:
            if item.size is None:
                await self._fetch_run(_Run(item, 0, 1))
        self._queue = deque(
            (item, chunk)
            for item in self._items
            if not item.complete
            for chunk in range(item.chunk_count)
            if chunk not in item.done
        )
        connections = min(self._options.parallel, len(self._queue))
        turns = Turns(self._meter, connections)
        async with turns.watched():
            await together([self._work(turns) for _ in range(connections)])

    async def _work(self, turns: Turns) -> None:
        while True:
            async with turns.turn() as end_turn:
                if not self._queue:
                    return
                await self._fetch_run(self._take_run(turns.quick, end_turn))

    def _take_run(self, quick: bool, end_turn: Callable[[], None]) -> _Run:
        queue = self._queue
        share = math.ceil(len(queue) / self._options.parallel)  # less and less, so that all end together
        item, first = queue.popleft()
        longest = QUICK_RUN // item.chunk_size if quick else min(LONGEST_RUN // item.chunk_size, share)
        end = first + 1
        # A chunk of which parts are here begins a request of its own, behind those.
        while queue and end - first < longest and queue[0] == (item, end):
            if self._shelf.has_parts(item, end):
                break
            queue.popleft()
            end += 1
        return _Run(item, first, end, end_turn)

    async def _fetch_run(self, run: _Run) -> None:
        """Fetch each chunk of a run. Where the server gives no ranges, the first to find out takes the whole file."""
        item = run.item
        failures = 0
        while not item.complete:
            streams = item.streamed_by == run.first
            chunk = run.first if streams else run.missing
            if chunk is None:
                return
            if item.streamed_by is not None and not streams:
                self._go_to(run, chunk * item.chunk_size)
                return
            await self._running.wait()
            start = chunk * item.chunk_size + (0 if streams else await self._shelf.restore_parts(item, chunk))
            self._go_to(run, start)
            done, run.place = len(item.done), item.place
            try:
                if item.source is not None:
                    await self._copy(run, item.source)
                else:
                    await self._request(run)
            except NoRanges:
                item.streamed_by = run.first if item.streamed_by is None else item.streamed_by
            except Changed:
                if not item.leave(run.place):
                    raise
            except SippError as error:
                failures = failures + 1 if (run.position, len(item.done)) == (start, done) else 1
                retries = min(QUICK_RETRIES, self._options.retries) if item.has_next else self._options.retries
                if can_retry(error) and failures <= retries:
                    await self._back_off(error, failures)
                elif _is_the_servers(error) and item.leave(run.place):
                    failures = 0
                    self._meter.report(f"{error.message} Trying another address.")
                else:
                    raise

    def _go_to(self, run: _Run, position: int) -> None:
        self._meter.add(position - run.position)
        run.position = position

    async def _request(self, run: _Run) -> None:
        """One request for the rest of a run: takes its chunks as far as the server goes along."""
        item, start = run.item, run.position
        async with fetch_range(
            self._http,
            item.url,
            start,
            self._end_of(run) if item.streamed_by is None else None,
            known=item.known,
            size=item.size,
            timeout=self._options.timeout,
        ) as answer:
            if item.known and not answer.validator and not item.file.is_identified:
                raise unusable(item.url, "does not say which version of the file it sends")
            await self._learn(item, answer.total, answer.validator)
            if answer.ranged and not item.known and not item.file.is_identified:
                raise NoRanges  # nothing would tell whether two of them are of one version
            if not answer.ranged or item.size is None:
                if item.streamed_by not in (None, run.first):
                    return
                item.streamed_by = run.first
                if not answer.ranged:  # else its size can't be learned by ranges: ask again, for all of it
                    self._go_to(run, start - start % item.chunk_size)
                    with contextlib.closing(self._shelf.body(answer.response)) as body:
                        await self._stream(item, body)
                return
            with contextlib.closing(self._shelf.body(answer.response)) as body:
                to_its_end = await self._receive(run, body)
            if to_its_end and run.position == start:
                raise _cut(f"{item.file.name}: the server sent an empty range.")

    def _end_of(self, run: _Run) -> int:
        end = run.end * run.item.chunk_size
        return end if run.item.size is None else min(end, run.item.size)

    async def _receive(self, run: _Run, body: Body) -> bool:
        """Take the chunks of a run, as far as a body goes. Returns whether it was taken to its end."""
        item, to_its_end = run.item, True
        arrivals = self._shelf.receive(item, body, run.position, self._end_of(run))
        async with contextlib.aclosing(arrivals):
            async for arrival in arrivals:
                self._go_to(run, arrival.position)
                if run.position >= self._end_of(run) - LAST_OF_TURN:
                    run.end_turn()
                for chunk in await self._shelf.accept(item, arrival.hashes):
                    self._refuse(run, chunk)
                if not self._running.is_set() or item.streamed_by is not None:
                    body.close()  # what has come counts, up to its end
                    to_its_end = False
        return to_its_end

    def _refuse(self, run: _Run, chunk: int) -> None:
        """A chunk is wrong: it is to be fetched once more, later."""
        item = run.item
        self._meter.add(-item.chunk_length(chunk))
        item.bad[chunk] += 1
        if item.bad[chunk] % BAD_LIMIT == 0 and not item.leave(run.place):
            raise item.mismatch(chunk)
        run.refused.add(chunk)
        self._queue.append((item, chunk))

    async def _learn(self, item: ArrivingFile, total: int | None, validator: Validator) -> None:
        """Note the size and version of a file once they are known, before any byte of it counts."""
        if item.size is None and total is not None:
            if total == 0:
                raise invalid("truncated", f"{item.file.name} is empty.", size=0)
            item.size = total
            await self._count()
        if not item.known:
            item.known = validator
        self._shelf.begin()  # a later attempt must know which version its bytes are of

    async def _stream(self, item: ArrivingFile, body: Body) -> None:
        """Take a whole file in order from a server that gives no ranges. Chunks that are there are only compared."""
        there = dict(item.done)
        position, settled, damaged = 0, 0, False
        try:
            arrivals = self._shelf.receive(item, body, 0, None, keep=there.keys())
            async with contextlib.aclosing(arrivals):
                async for arrival in arrivals:
                    self._meter.add(arrival.position - position)
                    position = arrival.position
                    lengths = {n: min(item.chunk_size, position - n * item.chunk_size) for n in arrival.hashes}
                    settled += sum(lengths.values())
                    for n in arrival.hashes.keys() & there.keys():
                        self._compare(item, there[n], arrival.hashes[n])
                    bad = await self._shelf.accept(item, {n: h for n, h in arrival.hashes.items() if n not in there})
                    damaged = damaged or bool(bad)
                    self._meter.add(-sum(length for n, length in lengths.items() if n in there or n in bad))
                    if not self._running.is_set():
                        return
            if item.size is not None and position > item.size:
                raise Changed
            if item.size is not None and position < item.size:
                raise _cut(f"{item.file.name} ended after {position} of {item.size} bytes.")
            if not position:
                raise invalid("truncated", f"{item.file.name} is empty.", size=0)
            item.size = position
            await self._count()
            if damaged:
                item.spoiled += 1
                raise item.mismatch() if item.spoiled >= BAD_LIMIT else _cut(f"{item.file.name} arrived damaged.")
            item.complete = True
            await self._shelf.tell()
        finally:
            self._meter.add(settled - position)

    def _compare(self, item: ArrivingFile, here: str, came: str) -> None:
        # By the manifest what is here is right: then what came is wrong, and not needed.
        if came != here and not item.file.chunks:
            raise Changed

    async def _copy(self, run: _Run, source: Source) -> None:
        self._shelf.begin()
        with contextlib.closing(self._shelf.copy_of(source, run.position)) as body:
            to_its_end = await self._receive(run, body)
        if to_its_end and run.position < self._end_of(run):
            raise invalid("truncated", f"{run.item.file.name} has become shorter.", "Choose the file again.")

    async def _count(self) -> None:
        """Work out how much it is in all, as far as that is known."""
        sizes = [item.size for item in self._items if item.size is not None]
        self._meter.total = sum(sizes) if len(sizes) == len(self._items) else None
        if sizes:
            await self._make_room(sum(sizes))

    async def _back_off(self, error: SippError, failures: int) -> None:
        asked = error.details.get("retry_after")
        delay = min(30.0, self._options.backoff * 2 ** (failures - 1)) * random.uniform(0.5, 1.0)
        delay = max(delay, min(float(asked), 60.0)) if isinstance(asked, int) else delay
        self._meter.report(f"{error.message} Trying again in {delay:.0f} s.")
        await asyncio.sleep(delay)


async def together(coroutines: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Run all; the first failure, or being cancelled, ends the others."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _is_the_servers(error: SippError) -> bool:
    """Whether another server may do better: not where the storage failed, or the program is at fault."""
    return isinstance(error, (RemoteError, ModelNotFound, InvalidModel))


def _cut(message: str) -> RemoteUnavailable:
    return RemoteUnavailable(message, hint="Try again.", details={"reason": "cut"})
