"""The journal of a download: what it remembers, and what a power cut may do to it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from sippet.models.journal import ChunkState, Journal
from sippet.platform._folder import FolderStorage
from sippet.platform.notes import SIZE, Kind, Note

NOTES = [
    Note(0, 0, 100, Kind.PART, "11" * 32),
    Note(0, 0, 200, Kind.PART, "22" * 32),
    Note(1, 7, 300, Kind.WHOLE, "33" * 32),
]
STATES = {(0, 0): ChunkState("", [(100, "11" * 32), (200, "22" * 32)]), (1, 7): ChunkState("33" * 32, [])}


def opened(root: Path) -> Journal:
    async def main() -> Journal:
        journal = await Journal.open(FolderStorage(root), "journal")
        await journal.close()
        return journal

    return asyncio.run(main())


def test_a_journal_tells_what_was_noted(tmp_path: Path) -> None:
    (tmp_path / "journal").write_bytes(b"".join(note.pack() for note in NOTES))
    assert opened(tmp_path).chunks == STATES


@pytest.mark.parametrize("end", [b"torn", NOTES[0].pack()[:-1], bytes(SIZE), bytes([255]) * 3 * SIZE])
def test_a_damaged_end_is_cut_off_so_that_later_notes_count(tmp_path: Path, end: bytes) -> None:
    async def add() -> None:
        journal = await Journal.open(FolderStorage(tmp_path), "journal")
        await journal.drop(1, 7)
        await journal.close()

    (tmp_path / "journal").write_bytes(b"".join(note.pack() for note in NOTES) + end)
    assert opened(tmp_path).chunks == STATES
    asyncio.run(add())
    assert opened(tmp_path).chunks == {(0, 0): STATES[0, 0]}


def test_a_chunk_that_is_fetched_anew_forgets_the_parts_behind_it(tmp_path: Path) -> None:
    again = Note(0, 0, 150, Kind.PART, "44" * 32)
    (tmp_path / "journal").write_bytes(b"".join(note.pack() for note in [*NOTES, again]))
    assert opened(tmp_path).chunks[0, 0].parts == [(100, "11" * 32), (150, "44" * 32)]


def test_notes_that_come_at_once_are_all_kept(tmp_path: Path) -> None:
    notes = [Note(0, chunk, 100, Kind.WHOLE, "11" * 32) for chunk in range(2000)]

    async def main() -> None:
        file = await FolderStorage(tmp_path).open("journal")
        await asyncio.gather(*[file.append(note.pack()) for note in notes])
        await file.close()

    asyncio.run(main())
    assert len(opened(tmp_path).chunks) == len(notes)
