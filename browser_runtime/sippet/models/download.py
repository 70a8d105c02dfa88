"""Brings a model's files into storage: in parallel ranges, verified as they land, resumable after a kill at any byte.

How the bytes come is in ``_fetching``, what becomes of them on disk in ``_shelf``. Here they are put together: go on
with what an earlier attempt left, start anew when the server's version changes, refuse early what is no model.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import replace

from ..errors import InvalidModel, RemoteUnavailable
from ..events import Status
from ..platform.base import Source
from ..platform.http import HttpClient
from ..platform.storage import Storage
from ._arriving import ArrivingFile
from ._fetching import DownloadOptions, Fetcher, together
from ._shelf import ArrivingSource, Shelf
from ._transfer import Changed
from .checks import check_model, check_shards
from .gguf import read_header
from .header import GgufHeader
from .manifest import Manifest, ModelFacts
from .pairing import check_projector
from .progress import Meter

__all__ = ["Download", "DownloadOptions"]

_CHANGE_LIMIT = 3


class Download:
    """One attempt to bring a model into a folder of the storage.

    Args:
        storage: where it goes.
        http: what fetches.
        folder: the folder, which this download has for itself.
        manifest: what to fetch. Sizes and hashes may be missing; they are worked out on the way.
        sources: files to copy from instead of URLs, by file name.
        options: how.
        report: called with every status.
        make_room: called with the bytes of all files as they become known; refuses what there is no room for.
    """

    def __init__(
        self,
        storage: Storage,
        http: HttpClient,
        folder: str,
        manifest: Manifest,
        *,
        sources: dict[str, Source] | None = None,
        options: DownloadOptions | None = None,
        report: Callable[[Status], object] = lambda status: None,
        make_room: Callable[[int], Awaitable[None]] | None = None,
    ) -> None:
        self._storage, self._folder, self._manifest, self._report = storage, folder, manifest, report
        self._meter = Meter(report)
        self._running = asyncio.Event()
        self._running.set()
        self._items = [
            ArrivingFile(
                index,
                file,
                (sources or {}).get(file.name),
                f"{folder}/data/{file.name}",
                manifest.chunk_size,
                file.size,
            )
            for index, file in enumerate(manifest.all_files)
        ]
        self._shelf = Shelf(storage, folder, self._items, manifest.chunk_size, self._meter)
        self._http, self._options, self._make_room = http, options or DownloadOptions(), make_room or _no_limit

    def pause(self) -> None:
        """Stop fetching; connections are closed, what has arrived is kept."""
        if self._running.is_set():
            self._running.clear()
            self._meter.note = "Paused."
            self._meter.report()

    def resume(self) -> None:
        """Go on after :meth:`pause`."""
        self._meter.note = ""
        self._running.set()

    @property
    def paused(self) -> bool:
        """Whether it is paused."""
        return not self._running.is_set()

    async def run(self) -> Manifest:
        """Fetch what is missing.

        Returns:
            the manifest with every size and every chunk's hash.

        Raises:
            ModelNotFound, AuthenticationFailed, RemoteError, RemoteUnavailable: what the server said in the end. What
                has arrived is kept, and the next attempt goes on from there.
            InvalidModel: it is not a model, or not the one that the manifest describes. Nothing is kept.
            StorageError: there is no room, or storage failed.
        """
        try:
            for _ in range(_CHANGE_LIMIT + max(len(item.file.mirrors) for item in self._items)):
                try:
                    return await self._attempt()
                except Changed:
                    await self._shelf.forget()
            raise RemoteUnavailable(
                "The server has another version of the model than was asked for, or changes it while it is downloaded.",
                hint="Try again later; if it goes on, its manifest is out of date.",
                details={"reason": "changed"},
            )
        except InvalidModel as error:
            if error.details.get("chunk") is None:  # of a single bad chunk the others are worth keeping
                await self._storage.delete(self._folder)
            raise

    @asynccontextmanager
    async def _fetching(self) -> AsyncIterator[Fetcher]:
        async with self._storage.downloading(self._http) as http:
            yield Fetcher(self._shelf, self._items, http, self._options, self._meter, self._running, self._make_room)

    async def _attempt(self) -> Manifest:
        self._report(Status("checking", "Checking what is there already."))
        headers: list[GgufHeader] = []
        async with self._fetching() as fetcher:
            await self._shelf.restore()
            async with self._shelf.open():
                await together([fetcher.fetch(), self._check(headers)])
                for item in self._items:
                    await self._finish(item)
        count = len(self._manifest.files)
        facts = ModelFacts.of(headers[:count], projector=self._manifest.projector is not None)
        files = tuple(item.described() for item in self._items)
        projector = files[count] if self._manifest.projector else None
        return replace(self._manifest, files=files[:count], projector=projector, facts=_merged(self._manifest, facts))

    async def _finish(self, item: ArrivingFile) -> None:
        try:
            await self._shelf.finish(item)
        except InvalidModel:
            if not item.leave(item.place):
                raise
            raise Changed from None  # which of its bytes are wrong can't be told: all come from the next address

    async def repair(self, bad: Collection[tuple[int, int]]) -> None:
        """Fetch single chunks of an installed model again; the manifest must have the hashes of all.

        Args:
            bad: indices of a file and of its chunk.
        """
        for item in self._items:
            item.done = {n: sha256 for n, sha256 in enumerate(item.file.chunks) if (item.index, n) not in bad}
        self._meter.start_at(sum(item.nbytes for item in self._items))
        try:
            async with self._fetching() as fetcher, self._shelf.open():
                await fetcher.fetch()
                for item in self._items:
                    await self._shelf.finish(item)
        except Changed:
            raise RemoteUnavailable(
                "The server has another version of the model now.",
                hint="Remove the model and add it again.",
                details={"reason": "changed"},
            ) from None
        finally:
            await self._storage.delete(f"{self._folder}/journal")
            await self._storage.delete(f"{self._folder}/begun.json")

    async def _check(self, headers: list[GgufHeader]) -> None:
        """Refuse what is no model as soon as its header has arrived."""
        count = len(self._manifest.files)
        for item in self._items:
            header = await read_header(ArrivingSource(self._shelf, item))
            if item.index == 0:
                check_model(header)
            if item.index >= count:
                check_projector(header, headers[0])
            headers.append(header)
        check_shards(headers[:count])


async def _no_limit(nbytes: int) -> None:
    """Storage itself says when it is full."""


def _merged(manifest: Manifest, facts: ModelFacts) -> ModelFacts:
    """The file's own facts, completed by what the manifest says where the file is silent."""
    said = manifest.facts
    return replace(
        facts,
        license=facts.license or said.license,
        capabilities=said.capabilities or facts.capabilities,
    )
