"""Who computes and who waits: as many requests as an engine has slots, the rest in order of arrival.

A slot keeps the KV cache of its last request. A request with a context key gets the slot that holds that key; where
none does, the key takes over a slot that no key owns, else that of the key that was used longest ago.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from .errors import QueueFull


@dataclass(frozen=True)
class Slot:
    """A slot that a request holds.

    Attributes:
        index: the slot's number.
        own: what the slot has cached is of the same context key (or of no key, for a request without one), so it may be
            reused. Where it isn't, it must not even be looked at: keys are isolated from each other.
    """

    index: int
    own: bool


class Scheduler:
    """Slots of one engine."""

    def __init__(self, slots: int, max_queued: int, max_running: int | None = None) -> None:
        """
        Args:
            slots: how many requests the engine computes together.
            max_queued: how many may wait; one more is refused.
            max_running: fewer than ``slots`` where given.
        """
        self._limit = min(slots, max_running or slots)
        self._max_queued = max_queued
        self._keys: list[str | None] = [None] * slots
        self._cached: list[str | object | None] = [None] * slots  # the key that what a slot has cached is of
        self._free = list(range(slots))  # the one that was used longest ago comes first
        self._waiting: deque[tuple[str | None, asyncio.Future[Slot]]] = deque()

    @property
    def keys(self) -> list[str]:
        """The context keys whose cache is held."""
        return [key for key in self._keys if key is not None]

    @property
    def idle(self) -> bool:
        """Nothing runs and nothing waits."""
        return len(self._free) == len(self._keys) and not self._waiting

    def clear(self) -> None:
        """Forget the keys: the engine's cache is gone."""
        self._keys = [None] * len(self._keys)
        self._cached = [None] * len(self._keys)

    def computed(self, slot: Slot) -> None:
        """Take note that what the slot has cached now is of the request that holds it.

        Until then it may still be the last request's, which a failure leaves there.
        """
        self._cached[slot.index] = self._keys[slot.index]

    @asynccontextmanager
    async def slot(self, key: str | None = None) -> AsyncIterator[Slot]:
        """Wait for a slot and hold it.

        Args:
            key: the request's context key.

        Raises:
            QueueFull: too many wait already.
        """
        slot = await self._acquire(key)
        try:
            yield slot
            self.computed(slot)
        finally:
            self._release(slot)

    async def _acquire(self, key: str | None) -> Slot:
        slot = self._take(key)
        if slot:
            return slot
        if len(self._waiting) >= self._max_queued:
            raise QueueFull(
                f"{len(self._waiting)} requests wait for this model already.",
                details={"max_queued_requests": self._max_queued},
            )
        turn: asyncio.Future[Slot] = asyncio.get_running_loop().create_future()
        entry = (key, turn)
        self._waiting.append(entry)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._release(turn.result())  # the slot came at the very moment of the cancel
            elif entry in self._waiting:
                self._waiting.remove(entry)
            raise

    def _take(self, key: str | None) -> Slot | None:
        """A slot for ``key``, if one is to be had now."""
        if not self._free or len(self._keys) - len(self._free) >= self._limit:
            return None
        if key is not None and key in self._keys:
            index = self._keys.index(key)
            if index not in self._free:
                return None  # that conversation's last turn is still running
        else:
            index = self._choose(key)
        self._free.remove(index)
        self._keys[index] = key
        own = self._cached[index] == key
        if not own:
            self._cached[index] = object()  # nobody's, until something was computed
        return Slot(index, own)

    def _choose(self, key: str | None) -> int:
        unowned = [index for index in self._free if self._keys[index] is None]
        if not unowned:
            return self._free[0]
        return unowned[0] if key is not None else unowned[-1]

    def _release(self, slot: Slot) -> None:
        self._free.append(slot.index)
        for entry in list(self._waiting):
            key, turn = entry
            if turn.done():
                self._waiting.remove(entry)
            elif next_slot := self._take(key):
                self._waiting.remove(entry)
                turn.set_result(next_slot)
