"""Who computes and who waits: as many requests as an engine has slots, the rest in order of arrival."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from .errors import QueueFull


class Scheduler:
    """Slots of one engine."""

    def __init__(self, slots: int, max_queued: int) -> None:
        """
        Args:
            slots: how many requests the engine computes together.
            max_queued: how many may wait; one more is refused.
        """
        self._free = slots
        self._max_queued = max_queued
        self._waiting: deque[asyncio.Future[None]] = deque()

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Wait for a slot and hold it.

        Raises:
            QueueFull: too many wait already.
        """
        await self._acquire()
        try:
            yield
        finally:
            self._release()

    async def _acquire(self) -> None:
        if self._free:
            self._free -= 1
            return
        if len(self._waiting) >= self._max_queued:
            raise QueueFull(
                f"{len(self._waiting)} requests wait for this model already.",
                details={"max_queued_requests": self._max_queued},
            )
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._release()  # the slot came at the very moment of the cancel
            elif turn in self._waiting:
                self._waiting.remove(turn)
            raise

    def _release(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
