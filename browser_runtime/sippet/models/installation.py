"""One installation of a model, from what was asked for to its record: alone in its folder, with room, or joined."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Mapping
from typing import Any

from ..errors import Cancelled, SippError, StorageError
from ..events import OnProgress, Status
from ..platform.http import HttpClient
from ..platform.storage import Storage, full
from .download import Download, DownloadOptions
from .installed import InstalledModel, Shelves, folder_of, lock_of, path_of
from .manifest import Manifest
from .sources import Wanted


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
            folder = folder_of(wanted.manifest)
            async with self._alone(folder):
                model = await self._shelves.model_in(folder)
                if model is None or not await self._shelves.is_whole(model):
                    model = await self._install(wanted, folder)
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

    async def _install(self, wanted: Wanted, folder: str) -> InstalledModel:
        persisted = await self._storage.persist()
        await self._make_room(wanted.manifest, folder)
        self._download = Download(
            self._storage,
            self._http,
            path_of(folder),
            wanted.manifest,
            sources=dict(wanted.local),
            options=self._options,
            report=lambda status: self._tell(folder, status),
        )
        if self._paused:
            self._download.pause()
        return await self._shelves.install(await self._download.run(), folder, persisted)

    async def _make_room(self, manifest: Manifest, folder: str) -> None:
        if manifest.size is None:
            return
        needed = manifest.size - min(manifest.size, await self._shelves.bytes_in(folder))
        estimate = await self._storage.estimate()
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
