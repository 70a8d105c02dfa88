"""Whether the connections of a download take turns or work at once."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from .progress import Meter

QUICK = 50e6  # bytes a second at which one connection does best alone: further ones only cost the browser's time
JOIN_AFTER = 0.2  # seconds of less


class Turns:
    """As long as the bytes come quickly, one connection at a time has its turn; else all have.

    Args:
        meter: counts the bytes.
        connections: how many there are.
    """

    def __init__(self, meter: Meter, connections: int) -> None:
        self._meter, self._connections = meter, connections
        self._free = asyncio.Semaphore(1)
        self._taken = True
        self._began, self._before = time.monotonic(), meter.done

    @property
    def quick(self) -> bool:
        """Whether turns are taken, and what has come up to now came quickly."""
        needed = QUICK * (time.monotonic() - self._began)
        return self._taken and self._meter.done - self._before >= max(1, needed)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[Callable[[], None]]:
        """One connection's turn. Its value ends it early: once little is left to come, the next one may ask already, so
        that nothing waits for an answer."""
        await self._free.acquire()
        with contextlib.ExitStack() as turn:
            turn.callback(self._free.release)
            yield turn.close

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Take turns in this block of code only until the bytes come less quickly."""
        watch = asyncio.ensure_future(self._watch())
        try:
            yield
        finally:
            watch.cancel()

    async def _watch(self) -> None:
        before = self._meter.done
        while True:
            await asyncio.sleep(JOIN_AFTER)
            if self._meter.done - before < QUICK * JOIN_AFTER:
                break
            before = self._meter.done
        self._taken = False
        for _ in range(self._connections - 1):
            self._free.release()
