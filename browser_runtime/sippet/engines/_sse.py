"""Server-sent events (WHATWG HTML, 9.2.6), parsed from bytes as they arrive."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

MAX_EVENT_BYTES = 4 << 20
"""Far more than any chunk of text, far less than what fills a tab's memory."""

_LINE_END = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"


class EventTooLarge(ValueError):
    """A line, or the data of one event, is longer than the limit."""


@dataclass(frozen=True)
class SseEvent:
    """One event: its type (``message`` where none was named) and its data lines, joined."""

    data: str
    type: str = "message"


class SseParser:
    """Takes pieces of a body, cut anywhere, and gives the events that they complete.

    Lines are cut at bytes that no UTF-8 sequence contains, so a character that is split between pieces stays whole. An
    event without its blank line at the end of the body is dropped, as the standard says.
    """

    def __init__(self, limit: int = MAX_EVENT_BYTES) -> None:
        """
        Args:
            limit: most bytes of one event.
        """
        self._limit = limit
        self._line = bytearray()
        self._after_cr = False
        self._first = True
        self._data: list[str] = []
        self._size = 0
        self._type = ""

    def feed(self, piece: bytes) -> Iterator[SseEvent]:
        """The events that ``piece`` completes.

        Raises:
            EventTooLarge: one is longer than the limit.
        """
        if self._after_cr and piece.startswith(b"\n"):
            piece, self._after_cr = piece[1:], False
        if not piece:
            return
        self._after_cr = piece.endswith(b"\r")
        head, *rest = _LINE_END.split(piece)
        self._extend(head)
        for line in rest:
            event = self._end_line()
            if event is not None:
                yield event
            self._extend(line)

    def _extend(self, part: bytes) -> None:
        self._line += part
        if len(self._line) + self._size > self._limit:
            raise EventTooLarge(f"more than {self._limit} bytes")

    def _end_line(self) -> SseEvent | None:
        line, self._line = bytes(self._line), bytearray()
        if self._first:
            line, self._first = line.removeprefix(_BOM), False
        if not line:
            return self._dispatch()
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value.decode("utf-8", "replace"))
            self._size += len(value) + 1
        elif name == b"event":
            self._type = value.decode("utf-8", "replace")
        return None  # comments (no name), ids, retry times and unknown fields mean nothing here

    def _dispatch(self) -> SseEvent | None:
        data, kind = self._data, self._type
        self._data, self._size, self._type = [], 0, ""
        return SseEvent("\n".join(data), kind or "message") if data else None
