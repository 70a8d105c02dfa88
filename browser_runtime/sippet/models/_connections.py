"""How many connections of a download work at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from .progress import Meter

QUICK = 50e6  # bytes a second at which few connections do best: further ones only cost the browser's time
ENOUGH = 2  # then: while one waits for an answer, the other receives
JOIN_AFTER = 0.2  # seconds of less


class Connections:
    """Few connections as long as the bytes come quickly, then all.

    Args:
        meter: counts the bytes.
        most: how many connections there may be.

    Attributes:
        free: held by each while it works.
    """

    def __init__(self, meter: Meter, most: int) -> None:
        self._meter, self._held_back = meter, max(0, most - ENOUGH)
        self.free = asyncio.Semaphore(ENOUGH)
        self._joined = False  # whether those that were held back work too
        self._began, self._before = time.monotonic(), meter.done

    @property
    def quick(self) -> bool:
        """Whether what has come up to now came quickly, all the time."""
        needed = QUICK * (time.monotonic() - self._began)
        return not self._joined and self._meter.done - self._before >= max(1, needed)

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """In this block of code, let all work once the bytes come less quickly."""
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
        self._joined = True
        for _ in range(self._held_back):
            self.free.release()
