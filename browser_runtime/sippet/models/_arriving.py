"""A model's file while it is fetched: what is known of it, and which of its chunks are here."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field, replace

from ..errors import InvalidModel
from ..platform.base import Source
from ..platform.storage import StoredFile
from ._transfer import Validator
from .manifest import ModelFile


@dataclass
class ArrivingFile:
    """A file on its way.

    Attributes:
        index: its place in the manifest.
        file: what the manifest says of it.
        source: where to copy it from instead of an address.
        path: where it goes in the storage.
        chunk_size: bytes that are verified together.
        size: bytes, once known.
        known: the version that was begun.
        handle: the open file, while there is one.
        streamed_by: the chunk whose worker takes the whole file, where the server gives no ranges.
        done: SHA-256 of the chunks that are here, by number.
        complete: whether all are.
        bad: how often a chunk was wrong, by number; ``spoiled``: how often a whole file was.
        place: which of its addresses is asked.
    """

    index: int
    file: ModelFile
    source: Source | None
    path: str
    chunk_size: int
    size: int | None
    known: Validator = field(default_factory=Validator)
    handle: StoredFile | None = None
    streamed_by: int | None = None
    done: dict[int, str] = field(default_factory=dict)
    complete: bool = False
    bad: Counter[int] = field(default_factory=Counter)
    spoiled: int = 0
    place: int = 0

    @property
    def url(self) -> str:
        """The address that is asked now."""
        return self.file.addresses[self.place]

    @property
    def has_next(self) -> bool:
        """Whether there is another address. Without a hash nothing would tell whether it has the same file."""
        return self.source is None and self.file.is_identified and self.place + 1 < len(self.file.addresses)

    def leave(self, place: int) -> bool:
        """Turn from an address that failed to the next one, where there is one; parallel requests turn away once."""
        if self.place != place:
            return True
        if not self.has_next:
            return False
        self.place += 1
        self.known, self.spoiled = Validator(), 0
        return True

    @property
    def chunk_count(self) -> int:
        """How many chunks it has, as far as its size is known."""
        return math.ceil((self.size or 0) / self.chunk_size)

    def chunk_length(self, chunk: int) -> int:
        """Bytes of a chunk; the last one may be shorter."""
        assert self.size is not None
        return min(self.chunk_size, self.size - chunk * self.chunk_size)

    def expected(self, chunk: int) -> str | None:
        """A chunk's SHA-256 by the manifest."""
        return self.file.chunks[chunk] if chunk < len(self.file.chunks) else None

    @property
    def nbytes(self) -> int:
        """Bytes of the chunks that are here."""
        return sum(self.chunk_length(chunk) for chunk in self.done)

    def start_anew(self) -> None:
        """As if nothing had come."""
        self.known, self.streamed_by, self.size, self.complete = Validator(), None, self.file.size, False
        self.done.clear()

    def described(self) -> ModelFile:
        """The file with its size and the hashes of all its chunks."""
        return replace(self.file, size=self.size, chunks=tuple(self.done[chunk] for chunk in range(len(self.done))))

    def mismatch(self, chunk: int | None = None) -> InvalidModel:
        """It is another file than the manifest's."""
        return InvalidModel(
            f"{self.file.name} is not the file that its manifest describes: its SHA-256 differs.",
            hint="The server has a damaged or another file; tell whoever runs it, or use another source.",
            details={"reason": "hash_mismatch", "file": self.file.name, "chunk": chunk},
        )
