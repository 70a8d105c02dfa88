"""Byte ranges (RFC 9110, section 14): arithmetic only, no I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass

# Digits are bounded so that a hostile header can't ask for arithmetic on numbers of thousands of digits; no file has
# a length of more than 19 digits, so anything longer lies behind the end.
_MAX_DIGITS = 19
_RANGE_SPEC = re.compile(r"(?P<first>[0-9]*)-(?P<last>[0-9]*)")


@dataclass(frozen=True)
class ByteRange:
    """A part of a file: ``length`` bytes (at least one) from ``start``."""

    start: int
    length: int

    def content_range(self, size: int) -> str:
        """The value of the Content-Range header, for a file of ``size`` bytes."""
        return f"bytes {self.start}-{self.start + self.length - 1}/{size}"


class Unsatisfiable(ValueError):
    """The header is valid, but none of its ranges touches the file: the answer is 416."""


def parse_range(header: str, size: int) -> ByteRange | None:
    """The one range to send for a Range header, or None for the whole file.

    None is the answer where RFC 9110 says that the header is to be ignored (another unit, a malformed list, a last
    position before the first), where the file is empty and a suffix was asked for (a 206 can't express no bytes), and
    where more than one range is left: section 14.2 lets a server ignore the header, and no client of ours sends such
    a list, so that there is no multipart code to attack.

    Raises:
        Unsatisfiable: no range touches the file.
    """
    unit, equals, rest = header.partition("=")
    if not equals or unit.strip().lower() != "bytes":
        return None
    found: list[ByteRange] = []
    empty_suffix = seen = False
    for item in rest.split(","):
        spec = item.strip(" \t")
        if not spec:
            continue  # RFC 9110, 5.6.1: empty elements of a list are to be skipped
        seen = True
        match = _RANGE_SPEC.fullmatch(spec)
        if match is None or spec == "-":
            return None
        first, last = match["first"], match["last"]
        if not first:
            length = min(_number(last), size)
            if length:
                found.append(ByteRange(size - length, length))
            elif _number(last):
                empty_suffix = True
            continue
        start = _number(first)
        if last and _compare(last, first) < 0:
            return None
        if start < size:
            end = min(_number(last), size - 1) if last else size - 1
            found.append(ByteRange(start, end - start + 1))
    if not seen:
        return None
    if not found and not empty_suffix:
        raise Unsatisfiable(f"no range of {header!r} lies within {size} bytes")
    return found[0] if len(found) == 1 else None


def _number(digits: str) -> int:
    digits = digits.lstrip("0")
    return int(digits or "0") if len(digits) <= _MAX_DIGITS else 10**_MAX_DIGITS


def _compare(left: str, right: str) -> int:
    """Compares decimal strings of any length without converting them."""
    a, b = left.lstrip("0"), right.lstrip("0")
    key_a, key_b = (len(a), a), (len(b), b)
    return (key_a > key_b) - (key_a < key_b)
