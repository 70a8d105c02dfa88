"""The memory that the models of one client share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Room:
    """What is left for a model beside the others, of which some may be loading at the same time.

    Attributes:
        taken: tells the bytes that the others take, or are going to.
        reserve: to be told the bytes of this one once they are known, so that the others leave them.
    """

    taken: Callable[[], int]
    reserve: Callable[[int], None]
