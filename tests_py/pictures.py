"""Square pictures of coloured shapes, which is what the tiny vision model knows, as PNG files made by hand."""

from __future__ import annotations

import struct
import zlib

COLOURS = {"red": (220, 30, 30), "green": (30, 160, 50), "blue": (40, 70, 220), "yellow": (245, 220, 40)}
SHAPES = ("circle", "square")
SIDE = 128
WHITE = (250, 250, 250)


def picture(shape: str, colour: str) -> bytes:
    """A PNG of one shape in the middle of a white square, ``SIDE`` pixels wide."""
    rows = bytearray()
    for y in range(SIDE):
        rows.append(0)  # the row's filter: none
        for x in range(SIDE):
            rows += bytes(COLOURS[colour] if _inside(shape, x - SIDE // 2, y - SIDE // 2) else WHITE)
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)  # 8 bits of red, green and blue
    return (
        b"\x89PNG\r\n\x1a\n" + _part(b"IHDR", header) + _part(b"IDAT", zlib.compress(bytes(rows))) + _part(b"IEND", b"")
    )


def _inside(shape: str, x: int, y: int) -> bool:
    return x * x + y * y <= 28 * 28 if shape == "circle" else max(abs(x), abs(y)) <= 28


def _part(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
