"""What a client tells about itself: progress of one endpoint, and events of the whole client."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["idle", "checking", "downloading", "loading", "ready", "error"]


@dataclass(frozen=True)
class Status:
    """Progress of making a model ready: one shape everywhere.

    Attributes:
        state: ``idle``, ``checking``, ``downloading``, ``loading``, ``ready`` or ``error``.
        text: the state in words, for people.
        bytes: how much has arrived.
        total: how much there is, or ``None`` where the server doesn't say.
        rate: bytes per second over the last seconds.
        eta: seconds left, or ``None`` where unknown.
        waiting: whether something holds it up, such as a server that does not answer: ``text`` then says what.
    """

    state: State
    text: str = ""
    bytes: int = 0
    total: int | None = None
    rate: float | None = None
    eta: float | None = None
    waiting: bool = False


OnProgress = Callable[[Status], Any]

EventType = Literal[
    "state", "progress", "ready", "degraded", "request_started", "request_completed", "request_failed", "closed"
]


@dataclass(frozen=True)
class ClientEvent:
    """Something happened. ``data`` holds plain values that depend on ``type``.

    ``progress`` carries ``status``, a :class:`Status`; where an ``add`` failed its state is ``error``.
    ``degraded`` carries ``reason``: a sentence that says what runs in a lesser way, why, and what to do.
    """

    type: EventType
    endpoint: str | None = None
    data: dict[str, Any] = field(default_factory=dict)


def tell(callback: Callable[[Any], Any], news: object) -> None:
    """Call a program's callback. What it raises is its own affair, told to the loop: nothing fails of it."""
    try:
        callback(news)
    except Exception as error:
        message = f"A callback of Sippet failed: {callback!r}"
        asyncio.get_running_loop().call_exception_handler({"message": message, "exception": error})
