"""What the tools say to the person who runs them: progress lines and coded errors.

Plain lines only, so that a log file reads the same as a terminal; a percentage is drawn over one line where
standard error is a terminal.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class ToolError(Exception):
    """A failure that the person can act on. `code` is stable; the message says what to do."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def say(text: str) -> None:
    """Print one progress line, at once."""
    print(text, flush=True)


def note(text: str) -> None:
    """Print a detail under the current step."""
    say(f"      {text}")


def megabytes(size: float) -> str:
    """A size in bytes as text, in decimal megabytes (`0.4 MB`)."""
    return f"{size / 1e6:.1f} MB"


class Steps:
    """Numbers the steps of one command and times each of them."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.number = 0

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Announce a step, run the block, and say how long it took."""
        self.number += 1
        head = f"[{self.number}/{self.total}]"
        say(f"{head} {title} ...")
        start = time.monotonic()
        yield
        say(f"{head} {title}: ready ({time.monotonic() - start:.1f} s)")


class Percent:
    """Draws how much of a download has come, where standard error is a terminal; else it stays silent."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.shown = -1
        self.live = sys.stderr.isatty()

    def update(self, done: int, total: int) -> None:
        """Show `done` of `total` bytes (`total` 0: unknown)."""
        percent = 100 * done // total if total else 0
        if self.live and percent != self.shown:
            self.shown = percent
            sys.stderr.write(f"\r      {self.label} {percent:3d} % of {megabytes(total)}\033[K")
            sys.stderr.flush()

    def clear(self) -> None:
        """Wipe the line."""
        if self.live and self.shown >= 0:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()


def run(command: Callable[[], int]) -> int:
    """Run a command's body and turn a `ToolError` or Ctrl-C into a message and an exit code."""
    try:
        return command()
    except ToolError as error:
        sys.stdout.flush()
        print(f"error [{error.code}]: {error}", file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        print("stopped; run the same command again to go on", file=sys.stderr, flush=True)
        return 130
