"""One installation of a model, from what was asked for to its record: alone in its folder, with room, or joined."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Mapping
from typing import Any

from ..errors import Cancelled, SippError, StorageError
from ..events import OnProgress, Status
from ..platform.http import HttpClient
from ..platform.storage import Storage, full
from .download import Download, DownloadOptions
from .installed import InstalledModel, Shelves, folder_of, lock_of, path_of
from .manifest import ModelFile, hash_file
from .progress import Pace
from .sources import Wanted
from .verification import verify


class Installation:
    """A model on its way. Await it for the :class:`~sippet.models.installed.InstalledModel`.

    One tab or process at a time works on a model; the others wait, and report what it reports.

    Attributes:
        status: the latest report.
    """

    def __init__(
        self,
        storage: Storage,
        http: HttpClient,
        find: Callable[[], Awaitable[Wanted]],
        *,
        options: DownloadOptions | None = None,
        on_progress: OnProgress | None = None,
        evict: bool = False,
    ) -> None:
        """
        Args:
            storage: where it goes.
            http: what fetches it.
            find: works out what is wanted.
            options: how to download.
            on_progress: called with every status.
            evict: whether the least recently used models may be removed to make room.
        """
        self.status = Status("idle")
        self._storage, self._http, self._find, self._options, self._evict = storage, http, find, options, evict
        self._shelves = Shelves(storage)
        self._on_progress = on_progress
        self._download: Download | None = None
        self._paused = False
        self._task: asyncio.Task[InstalledModel] = asyncio.ensure_future(self._run())

    def __await__(self) -> Generator[Any, None, InstalledModel]:
        return self._wait().__await__()

    async def _wait(self) -> InstalledModel:
        try:
            return await asyncio.shield(self._task)
        except asyncio.CancelledError:
            if self._task.cancelled():
                raise Cancelled("The download was cancelled.", hint="Add the model again to go on with it.") from None
            self.cancel()  # whoever waits was cancelled: so is what was waited for
            await asyncio.gather(self._task, return_exceptions=True)
            raise

    def pause(self) -> None:
        """Stop fetching until :meth:`resume`. What has arrived is kept. Another tab's download is not touched."""
        self._paused = True
        if self._download is not None:
            self._download.pause()

    def resume(self) -> None:
        """Go on."""
        self._paused = False
        if self._download is not None:
            self._download.resume()

    def cancel(self) -> None:
        """Give up; what has arrived is kept for the next attempt. ``ModelStore.remove`` deletes it."""
        self._task.cancel()

    async def _run(self) -> InstalledModel:
        try:
            self._report(Status("checking", "Looking for the model."))
            wanted = await self._find()
            wanted, folder = await self._place(wanted)
            async with self._alone(folder):
                model = await self._shelves.model_in(folder)
                if model is None or not (await self._shelves.is_whole(model) or await self._repair(model)):
                    model = await self._install(wanted, folder)
                elif model.id != wanted.manifest.id and not wanted.named_after_file:
                    manifest = dataclasses.replace(model.manifest, id=wanted.manifest.id)
                    model = await self._shelves.install(manifest, folder, model.persisted)
            self._tell(folder, Status("ready", f"{model.manifest.name} is installed.", model.size, model.size))
            return model
        except SippError as error:
            self._report(dataclasses.replace(self.status, state="error", text=str(error)))
            raise

    @contextlib.asynccontextmanager
    async def _alone(self, folder: str) -> AsyncIterator[None]:
        """Work on a folder alone. While somebody else does, report what they report."""
        lock = lock_of(folder)
        async with contextlib.AsyncExitStack() as stack:
            if not await stack.enter_async_context(self._storage.lock(lock, wait=False)):
                end = self._storage.listen(lock, lambda message: self._report(_status(message)))
                try:
                    self._report(Status("downloading", "Another tab is fetching this model.", waiting=True))
                    await stack.enter_async_context(self._storage.lock(lock))
                finally:
                    end()
            yield

    async def _place(self, wanted: Wanted) -> tuple[Wanted, str]:
        """The folder of what is wanted. A file of this device has no address that tells it from another of its name and
        size: where such a one is installed, their contents are compared."""
        manifest, local = wanted.manifest, wanted.local
        there = await self._shelves.model_in(folder_of(manifest)) if local else None
        if there is None:
            return wanted, folder_of(manifest)

        async def hashed(file: ModelFile) -> ModelFile:
            if file.name not in local:
                return file
            text = f"Comparing {file.name} with what is installed."
            pace = Pace()

            def tell(done: int) -> None:
                if pace.due():
                    self._report(Status("checking", text, done, file.size))

            known = await hash_file(local[file.name], manifest.chunk_size, tell)
            return dataclasses.replace(file, sha256=known.sha256, chunks=known.chunks)

        files = tuple([await hashed(file) for file in manifest.files])
        projector = await hashed(manifest.projector) if manifest.projector else None
        told = dataclasses.replace(manifest, files=files, projector=projector)
        pairs = zip(told.all_files, there.manifest.all_files, strict=True)
        if all(new.chunks == old.chunks for new, old in pairs if new.name in local):
            return wanted, there.folder
        return dataclasses.replace(wanted, manifest=told), folder_of(told)

    async def _repair(self, model: InstalledModel) -> bool:
        """Mend an installed model of which something is missing. Returns whether it is whole again."""
        report = functools.partial(self._tell, model.folder)
        try:
            return (await verify(model, self._storage, report=report, http=self._http, options=self._options)).sound
        except SippError:
            return False

    async def _install(self, wanted: Wanted, folder: str) -> InstalledModel:
        persisted = await self._storage.persist()
        self._download = Download(
            self._storage,
            self._http,
            path_of(folder),
            wanted.manifest,
            sources=dict(wanted.local),
            options=self._options,
            report=functools.partial(self._tell, folder),
            make_room=lambda nbytes: self._make_room(nbytes, folder),
        )
        if self._paused:
            self._download.pause()
        manifest = await self._download.run()
        if wanted.named_after_file:
            manifest = await self._shelves.with_free_id(manifest, folder)
        return await self._shelves.install(manifest, folder, persisted)

    async def _make_room(self, nbytes: int, folder: str) -> None:
        """See to it that there is room for a model of so many bytes, of which some may be here."""
        here, estimate = await asyncio.gather(self._shelves.bytes_in(folder), self._storage.estimate())
        needed = max(0, nbytes - here)
        for model in reversed(await self._shelves.models()) if self._evict else ():
            if estimate.available is None or needed <= estimate.available:
                break
            if model.folder != folder:
                with contextlib.suppress(StorageError):  # an engine may have it open
                    await self._shelves.remove(model.folder)
                estimate = await self._storage.estimate()
        if estimate.available is not None and needed > estimate.available:
            raise full(needed, estimate)

    def _tell(self, folder: str, status: Status) -> None:
        """Report here and to who waits in another tab."""
        self._report(status)
        self._storage.broadcast(lock_of(folder), dataclasses.asdict(status))

    def _report(self, status: Status) -> None:
        self.status = status
        if self._on_progress is not None:
            self._on_progress(status)


def _status(message: Mapping[str, Any]) -> Status:
    """What another tab reports; it may run another version of Sippet."""
    known = {item.name for item in dataclasses.fields(Status)}
    return Status(**{key: value for key, value in message.items() if key in known})
