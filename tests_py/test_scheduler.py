from __future__ import annotations

import asyncio
import random
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sippet import QueueFull
from sippet._scheduler import Scheduler


def test_requests_are_served_in_order_of_arrival() -> None:
    async def main() -> None:
        scheduler = Scheduler(1, 10)
        order: list[int] = []

        async def request(number: int) -> None:
            async with scheduler.slot():
                order.append(number)
                await asyncio.sleep(0)

        await asyncio.gather(*(request(number) for number in range(8)))
        assert order == list(range(8))

    asyncio.run(main())


def test_one_more_than_may_wait_is_refused_at_once() -> None:
    async def main() -> None:
        scheduler = Scheduler(1, 1)
        async with scheduler.slot():
            waiting = asyncio.ensure_future(scheduler.slot().__aenter__())
            await asyncio.sleep(0)
            with pytest.raises(QueueFull) as caught:
                await scheduler.slot().__aenter__()
            assert caught.value.details == {"max_queued_requests": 1}
            waiting.cancel()
            with suppress(asyncio.CancelledError):
                await waiting
        assert scheduler.idle

    asyncio.run(main())


def test_fewer_run_together_where_that_was_asked() -> None:
    async def main() -> None:
        scheduler = Scheduler(4, 10, max_running=2)
        now = most = 0

        async def request() -> None:
            nonlocal now, most
            async with scheduler.slot():
                now += 1
                most = max(most, now)
                await asyncio.sleep(0)
                now -= 1

        await asyncio.gather(*(request() for _ in range(9)))
        assert most == 2

    asyncio.run(main())


def test_a_key_finds_its_slot_again_and_no_other_sees_it() -> None:
    async def main() -> None:
        scheduler = Scheduler(2, 10)

        async def turn(key: str | None) -> tuple[int, bool]:
            async with scheduler.slot(key) as slot:
                return slot.index, slot.own

        a, _ = await turn("a")
        b, own = await turn("b")
        assert a != b and not own
        assert await turn("a") == (a, True)
        assert await turn("b") == (b, True)
        assert sorted(scheduler.keys) == ["a", "b"]

    asyncio.run(main())


def test_what_a_failed_request_leaves_in_its_slot_is_nobodys() -> None:
    async def main() -> None:
        scheduler = Scheduler(1, 10)

        async def turn(key: str | None, fails: bool = False, computes: bool = True) -> bool:
            with suppress(ValueError):
                async with scheduler.slot(key) as slot:
                    if fails and computes:
                        scheduler.computed(slot)
                    if fails:
                        raise ValueError
                    return slot.own
            return False

        await turn("a")
        await turn("b", fails=True, computes=False)  # what is cached is still of a
        assert not await turn("b")
        await turn("a")
        await turn(None, fails=True, computes=False)
        assert not await turn(None)
        await turn("c", fails=True)  # cut off in the middle: its beginning is its own
        assert await turn("c")

    asyncio.run(main())


def test_the_key_that_was_used_longest_ago_goes_first() -> None:
    async def main() -> None:
        scheduler = Scheduler(3, 10)

        async def turn(key: str | None) -> bool:
            async with scheduler.slot(key) as slot:
                return slot.own

        for key in ("a", "b", "c", "a", "d"):
            await turn(key)
        assert set(scheduler.keys) == {"a", "c", "d"}
        assert not await turn("b"), "it was dropped"
        assert set(scheduler.keys) == {"a", "b", "d"}

    asyncio.run(main())


def test_a_request_without_a_key_leaves_keys_alone_while_it_can() -> None:
    async def main() -> None:
        scheduler = Scheduler(2, 10)
        async with scheduler.slot("a"):
            pass
        for _ in range(5):
            async with scheduler.slot() as slot:
                assert slot.own
        assert scheduler.keys == ["a"]

    asyncio.run(main())


def test_two_turns_of_one_key_never_run_together_and_hold_up_nobody_else() -> None:
    async def main() -> None:
        scheduler = Scheduler(2, 10)
        first, second = asyncio.Event(), asyncio.Event()

        async def turn(until: asyncio.Event, key: str | None) -> None:
            async with scheduler.slot(key):
                await until.wait()

        one = asyncio.ensure_future(turn(first, "a"))
        await asyncio.sleep(0)
        two = asyncio.ensure_future(turn(second, "a"))
        await asyncio.sleep(0)
        async with asyncio.timeout(1), scheduler.slot("b"):
            pass
        assert not two.done()
        first.set()
        second.set()
        await asyncio.gather(one, two)

    asyncio.run(main())


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 3), st.lists(st.tuples(st.sampled_from([None, "a", "b", "c"]), st.booleans()), max_size=20),
       st.integers(0, 99))  # fmt: skip
def test_no_slot_is_lost_or_given_twice_whoever_is_cancelled(
    slots: int, requests: list[tuple[str | None, bool]], seed: int
) -> None:
    async def main() -> None:
        scheduler = Scheduler(slots, 100)
        chance = random.Random(seed)
        held: set[int] = set()

        async def request(key: str | None) -> None:
            async with scheduler.slot(key) as slot:
                assert slot.index not in held
                held.add(slot.index)
                try:
                    for _ in range(chance.randrange(3)):
                        await asyncio.sleep(0)
                finally:
                    held.discard(slot.index)

        tasks = []
        for key, cancelled in requests:
            task = asyncio.ensure_future(request(key))
            tasks.append(task)
            for _ in range(chance.randrange(3)):
                await asyncio.sleep(0)
            if cancelled:
                chance.choice(tasks).cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for task in tasks:
            assert task.cancelled() or task.exception() is None
        assert scheduler.idle
        assert not held

    asyncio.run(main())
