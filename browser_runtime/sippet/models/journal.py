"""What of a download is safely on disk: an append-only file that survives a kill at any byte.

Each note says that a chunk of a file is there up to some byte, with the SHA-256 of what was added; the note of a whole
chunk carries the SHA-256 of all of it. It is written after the bytes that it speaks of, by who wrote those: nothing
that is busy elsewhere can hold it up. A torn or impossible record ends the journal: what came after it is fetched
again. No note is trusted without its bytes: they are held against its hash, or against the chunk's own once that is
complete.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..platform.notes import SIZE, UNHASHED, Kind, Note
from ..platform.storage import Notes, Storage, StoredFile

_PIECE = 1 << 16


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

    def __init__(self, file: StoredFile, notes: list[Note]) -> None:
        self._file = file
        self.chunks: dict[tuple[int, int], ChunkState] = {}
        for note in notes:
            self.learn(note)

    @classmethod
    async def open(cls, storage: Storage, name: str) -> Journal:
        """Read a journal and hold it open for appending."""
        file = await storage.open(name)
        data = b""
        while piece := await file.read(len(data), _PIECE):
            data += piece
        notes = list(Note.unpack_all(data))
        if len(data) != len(notes) * SIZE:
            await file.resize(len(notes) * SIZE)
        return cls(file, notes)

    def on(self, file: int, *, every: int | None, hashed: bool) -> Notes:
        """Where notes on one file go; see :class:`~sippet.platform.storage.Notes`."""
        return Notes(self._file, file, every, hashed, self.learn)

    def learn(self, note: Note) -> None:
        """A note is in the file."""
        state = self.chunks.setdefault((note.file, note.chunk), ChunkState())
        if note.kind == Kind.WHOLE:
            state.whole, state.parts = note.sha256, []
        elif note.kind == Kind.PART:
            state.parts = [part for part in state.parts if part[0] < note.filled] + [(note.filled, note.sha256)]
        else:
            del self.chunks[note.file, note.chunk]

    async def drop(self, file: int, chunk: int) -> None:
        """A chunk turned out to be bad."""
        note = Note(file, chunk, 0, Kind.DROPPED, UNHASHED)
        self.learn(note)
        await self._file.append(note.pack())

    async def close(self) -> None:
        """Let go of the file. Safe to call twice."""
        await self._file.close()
