"""Holds an installed model against its hashes, and repairs it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass

from ..events import Status
from ..platform.http import HttpClient
from ..platform.storage import Storage, failed
from .download import Download, DownloadOptions
from .installed import InstalledModel, path_of
from .progress import Pace


@dataclass(frozen=True)
class Verification:
    """What :meth:`ModelStore.verify` found.

    Attributes:
        chunks: how many were checked.
        bad: file name and index of those that were wrong; the index behind the last one stands for bytes too many.
        repaired: whether they were fetched again, or cut off, and all is right now.
    """

    chunks: int
    bad: tuple[tuple[str, int], ...]
    repaired: bool

    @property
    def sound(self) -> bool:
        """Whether the model is right now."""
        return not self.bad or self.repaired


async def verify(
    model: InstalledModel,
    storage: Storage,
    *,
    report: Callable[[Status], object],
    http: HttpClient | None,
    options: DownloadOptions | None,
) -> Verification:
    """Check every chunk of a model that nobody else works on.

    Args:
        model: which.
        storage: where it is.
        report: called with every status.
        http: what fetches the bad chunks again; ``None`` leaves them.
        options: how to download.

    Raises:
        StorageError: it is damaged and has no URL to repair it from.
        RemoteUnavailable: the server could not be reached for the repair.
    """
    files = model.manifest.all_files
    bad = await _bad_chunks(model, storage, report)
    too_long = await _too_long(model, storage)
    checked = sum(len(file.chunks) for file in files)
    names = tuple((files[index].name, chunk) for index, chunk in [*bad, *too_long])
    if not names or http is None:
        return Verification(checked, names, False)
    if not all(files[index].url for index, _ in bad):
        raise failed(
            f"{model.manifest.name} is damaged, and it was added from a file: it can't be fetched again.",
            "damaged",
            "Add the file again.",
        )
    for index, _ in too_long:
        await _cut_off(storage, f"{path_of(model.folder)}/data/{files[index].name}", files[index].size or 0)
    if bad:
        download = Download(storage, http, path_of(model.folder), model.manifest, options=options, report=report)
        await download.repair(bad)
    return Verification(checked, names, True)


async def _too_long(model: InstalledModel, storage: Storage) -> list[tuple[int, int]]:
    """Of the files that are longer than they should be, the index and that of the chunk which none should have."""
    sizes = await storage.entries(f"{path_of(model.folder)}/data")
    files = enumerate(model.manifest.all_files)
    return [(index, len(file.chunks)) for index, file in files if sizes.get(file.name, 0) > (file.size or 0)]


async def _cut_off(storage: Storage, path: str, size: int) -> None:
    file = await storage.open(path)
    try:
        await file.resize(size)
        await file.flush()
    finally:
        await file.close()


async def _bad_chunks(
    model: InstalledModel, storage: Storage, report: Callable[[Status], object]
) -> list[tuple[int, int]]:
    """Index of the file and of the chunk of those that differ from their hashes."""
    bad, done, chunk_size, pace = [], 0, model.manifest.chunk_size, Pace()
    for index, file in enumerate(model.manifest.all_files):
        parts = file.parts(chunk_size)
        async with aclosing(storage.hashes(f"{path_of(model.folder)}/data/{file.name}", parts)) as hashes:
            for chunk, expected in enumerate(file.chunks):
                if await anext(hashes) != expected:
                    bad.append((index, chunk))
                done += parts[chunk][1]
                if pace.due() or done == model.size:
                    report(Status("checking", f"Checking {model.manifest.name}.", done, model.size))
    return bad
