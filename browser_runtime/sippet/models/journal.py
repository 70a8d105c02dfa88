"""What of a download is safely on disk: an append-only file that survives a kill at any byte.

Each record says that a chunk of a file is there up to some byte, with the SHA-256 of what was added; the record of a
whole chunk carries the SHA-256 of all of it. A record is written after the bytes that it speaks of. A torn or damaged
record ends the journal: what came after it is fetched again.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field

from ..platform.storage import Storage, StoredFile

_RECORD = struct.Struct("<IIII32s")
_CRC = struct.Struct("<I")
_SIZE = _RECORD.size + _CRC.size
_PART, _WHOLE, _DROPPED = 1, 2, 3
UNHASHED = "00" * 32
"""In place of a part's SHA-256, where the chunk's own is known beforehand."""


@dataclass
class ChunkState:
    """What the journal knows of one chunk.

    Attributes:
        whole: the SHA-256 of the complete chunk; empty until it is.
        parts: ends of the parts that arrived, in bytes from the chunk's start, each with its SHA-256.
    """

    whole: str = ""
    parts: list[tuple[int, str]] = field(default_factory=list)


class Journal:
    """An open journal. Only its holder writes to it.

    Attributes:
        chunks: by index of the file and of the chunk.
    """

    def __init__(self, file: StoredFile | None, end: int, chunks: dict[tuple[int, int], ChunkState]) -> None:
        self._file, self._end, self.chunks = file, end, chunks

    @classmethod
    async def open(cls, storage: Storage, name: str) -> Journal:
        """Read a journal and hold it open for appending."""
        data = await storage.load(name) or b""
        chunks, end = parse(data)
        return cls(await storage.open(name), end, chunks)

    async def part(self, file: int, chunk: int, filled: int, sha256: str) -> None:
        """A part of a chunk was written."""
        await self._append(file, chunk, filled, _PART, sha256)

    async def whole(self, file: int, chunk: int, length: int, sha256: str) -> None:
        """A whole chunk was written and verified."""
        await self._append(file, chunk, length, _WHOLE, sha256)

    async def drop(self, file: int, chunk: int) -> None:
        """A chunk turned out to be bad."""
        await self._append(file, chunk, 0, _DROPPED, UNHASHED)

    async def close(self) -> None:
        """Let go of the file. Safe to call twice."""
        if self._file is not None:
            file, self._file = self._file, None
            await file.close()

    async def _append(self, file: int, chunk: int, filled: int, kind: int, sha256: str) -> None:
        assert self._file is not None
        body = _RECORD.pack(file, chunk, filled, kind, bytes.fromhex(sha256))
        # The place is taken before the first await: appends of parallel downloads don't overlap.
        at, self._end = self._end, self._end + _SIZE
        _apply(self.chunks, file, chunk, filled, kind, sha256)
        await self._file.write(at, body + _CRC.pack(zlib.crc32(body)))


def parse(data: bytes) -> tuple[dict[tuple[int, int], ChunkState], int]:
    """The chunks that a journal speaks of, and where its sound records end."""
    chunks: dict[tuple[int, int], ChunkState] = {}
    end = 0
    while end + _SIZE <= len(data):
        body = data[end : end + _RECORD.size]
        if _CRC.unpack_from(data, end + _RECORD.size)[0] != zlib.crc32(body):
            break
        file, chunk, filled, kind, digest = _RECORD.unpack(body)
        _apply(chunks, file, chunk, filled, kind, digest.hex())
        end += _SIZE
    return chunks, end


def _apply(
    chunks: dict[tuple[int, int], ChunkState], file: int, chunk: int, filled: int, kind: int, sha256: str
) -> None:
    state = chunks.setdefault((file, chunk), ChunkState())
    if kind == _WHOLE:
        state.whole, state.parts = sha256, []
    elif kind == _PART:
        state.parts = [part for part in state.parts if part[0] < filled] + [(filled, sha256)]
    else:
        chunks.pop((file, chunk), None)
