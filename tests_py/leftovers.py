"""Whether a test left tasks behind."""

from __future__ import annotations

import asyncio
from typing import Any


def _around() -> set[asyncio.Task[Any]]:
    """Tasks that run already: inside Pyodide the suite itself is one."""
    try:
        return asyncio.all_tasks()
    except RuntimeError:
        return set()


AROUND = _around()


async def settled(steps: int = 8) -> None:
    """Let tasks that are at their end come to it."""
    for _ in range(steps):
        await asyncio.sleep(0)


async def nothing_left() -> None:
    """No task but the test's own is alive."""
    await settled()
    assert asyncio.all_tasks() - AROUND == {asyncio.current_task()}
