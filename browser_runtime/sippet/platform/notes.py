"""Notes of what is safely in a file: the records that a journal (``sippet/models/journal.py``) is made of.

The storage worker (``static/js/storage_worker.mjs``) writes the same ones. A record is 48 bytes, little-endian: the
file's index, the chunk's number, up to which of its bytes it is there, the kind (each 32 bits), and a SHA-256.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

_RECORD = struct.Struct("<IIII32s")
SIZE = _RECORD.size
UNHASHED = "00" * 32
"""In place of a part's SHA-256, where the chunk's own is known beforehand."""


class Kind(IntEnum):
    """What a note says of a chunk: that a part of it was added, that it is whole, or that it turned out to be bad."""

    PART = 1
    WHOLE = 2
    DROPPED = 3


_KINDS = frozenset(Kind)


@dataclass(frozen=True)
class Note:
    """What is there of a chunk.

    Attributes:
        file: the file's index in the journal.
        chunk: its number in the file.
        filled: bytes of it that are there, from its start.
        kind: what happened.
        sha256: of the part that was added, or of the whole chunk, hexadecimal.
    """

    file: int
    chunk: int
    filled: int
    kind: Kind
    sha256: str

    def pack(self) -> bytes:
        """As a record."""
        return _RECORD.pack(self.file, self.chunk, self.filled, self.kind, bytes.fromhex(self.sha256))

    @classmethod
    def unpack_all(cls, data: bytes) -> Iterator[Note]:
        """The sound records that ``data`` begins with."""
        for at in range(0, len(data) - SIZE + 1, SIZE):
            file, chunk, filled, kind, digest = _RECORD.unpack_from(data, at)
            if kind not in _KINDS:
                return
            yield cls(file, chunk, filled, Kind(kind), digest.hex())
