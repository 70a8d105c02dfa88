"""Progress of long work: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from types import TracebackType
from typing import Any, TextIO, TypeVar

from sippet.events import OnProgress, Status

_WIDTH = 28
R = TypeVar("R")


class Progress:
    """Reports bytes done of a total; a context manager.

    Args:
        label: what is being done.
        total: bytes, or None where that isn't known.
        stream: where to write; standard error by default, so that standard output stays for results.
    """

    def __init__(self, label: str, total: int | None, stream: TextIO | None = None) -> None:
        self._label = label
        self._total = total
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._start = self._shown = time.monotonic()
        self._done = 0
        self._tenths = 0

    def __enter__(self) -> Progress:
        if not self._live:
            size = f" ({format_bytes(self._total)})" if self._total else ""
            self._line(f"{self._label}{size}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._stream.write("\r\x1b[K")
        if kind is None:
            self._line(f"{self._label}: done, {format_bytes(self._done)} in {time.monotonic() - self._start:.1f} s")

    def update(self, done: int) -> None:
        """Notes how many bytes are done; writes at most ten times a second, or one line for each tenth of the total."""
        self._done = done
        now = time.monotonic()
        if self._live:
            if now - self._shown >= 0.1:
                self._shown = now
                self._stream.write(f"\r\x1b[K{self._bar(now)}")
                self._stream.flush()
        elif self._total and (tenths := 10 * done // self._total) > self._tenths and tenths < 10:
            self._tenths = tenths
            self._line(f"{self._label}: {tenths * 10} %")

    def say(self, text: str) -> None:
        """A line of its own."""
        self._line(f"\r\x1b[K{text}" if self._live else text)

    def _bar(self, now: float) -> str:
        rate = self._done / max(now - self._start, 0.001)
        if not self._total:
            return f"{self._label} {format_bytes(self._done)}, {format_bytes(rate)}/s"
        part = min(self._done / self._total, 1.0)
        filled = round(part * _WIDTH)
        left = max(self._total - self._done, 0) / rate if rate else 0
        return (
            f"{self._label} [{'#' * filled}{'.' * (_WIDTH - filled)}] {part:4.0%} "
            f"{format_bytes(rate)}/s, {left:.0f} s left"
        )

    def _line(self, text: str) -> None:
        self._stream.write(f"{text}\n")
        self._stream.flush()


async def with_progress(run: Callable[[OnProgress], Coroutine[Any, Any, R]]) -> R:
    """Shows the bytes that are on their way while ``run`` works, which gets what its statuses go to.

    What holds them up, such as a server that does not answer, gets a line of its own.
    """
    with ExitStack() as stack:
        shown: Progress | None = None
        said = ""

        def report(status: Status) -> None:
            nonlocal shown, said
            if status.waiting and status.text != said:
                said = status.text
                shown.say(said) if shown else say(said)
            if status.state == "downloading" and status.total and shown is None:
                shown = stack.enter_context(Progress("Fetching", status.total))
            if status.state in ("downloading", "ready") and shown is not None:
                shown.update(status.bytes)

        return await run(report)


def say(text: str) -> None:
    """A line for the person at the terminal, on standard error."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def format_bytes(count: float) -> str:
    """A size for people, in decimal units."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"
