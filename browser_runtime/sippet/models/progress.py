"""Turns byte counts into :class:`~sippet.events.Status` reports: a few a second, with a rate that does not jump."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from ..events import Status
from .plan import megabytes

REPORT_EVERY = 0.1  # seconds
RATE_OVER = 3.0  # seconds


class Pace:
    """Tells when the next report is due."""

    def __init__(self) -> None:
        self._reported = 0.0

    def due(self) -> bool:
        """Whether one is; who asks then reports."""
        now = time.monotonic()
        if now - self._reported < REPORT_EVERY:
            return False
        self._reported = now
        return True


class Meter:
    """Counts bytes and reports them.

    Args:
        report: called with each status.

    Attributes:
        total: bytes in all, once known.
        done: bytes that are here.
        note: what holds the download up, for as long as it does.
    """

    def __init__(self, report: Callable[[Status], object]) -> None:
        self.total: int | None = None
        self.done = 0
        self.note = ""
        self._report = report
        self._marks: deque[tuple[float, int]] = deque([(time.monotonic(), 0)])
        self._pace = Pace()

    def start_at(self, done: int) -> None:
        """Bytes that were there before; they don't count for the rate."""
        self.done = done
        self._marks = deque([(time.monotonic(), done)])

    def add(self, count: int) -> None:
        """Bytes arrived, or (negative) were thrown away."""
        self.done += count
        if self._pace.due():
            self.report()

    def report(self, note: str = "") -> None:
        """Report now.

        Args:
            note: what holds the download up.
        """
        now = time.monotonic()
        self._marks.append((now, self.done))
        while len(self._marks) > 2 and now - self._marks[0][0] > RATE_OVER:
            self._marks.popleft()
        start, before = self._marks[0]
        rate = max(0.0, (self.done - before) / (now - start)) if now > start else None
        eta = (self.total - self.done) / rate if rate and self.total is not None else None
        note = note or self.note
        text = note or self._text(rate, eta)
        self._report(Status("downloading", text, self.done, self.total, rate, eta, waiting=bool(note)))

    def _text(self, rate: float | None, eta: float | None) -> str:
        of = f" of {megabytes(self.total)}" if self.total else ""
        speed = f", {megabytes(round(rate))}/s" if rate and rate >= 1e6 else f", {rate / 1e3:.0f} kB/s" if rate else ""
        left = f", {_duration(eta)} left" if eta is not None and eta >= 1 else ""
        return f"Downloading the model: {megabytes(self.done) if self.done else '0 MB'}{of}{speed}{left}"


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return (
        f"{minutes} min {rest} s"
        if minutes < 10
        else f"{minutes // 60} h {minutes % 60} min"
        if minutes >= 60
        else f"{minutes} min"
    )
