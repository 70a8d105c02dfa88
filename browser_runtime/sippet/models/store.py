"""The models that are installed here: added whole and verified, listed, opened, checked, repaired, removed.

    store = ModelStore()
    model = await store.add("https://example.org/models/tiny/manifest.json", on_progress=print)
    sources = await store.open(model.id)

A model is one folder of the storage. It counts as installed from the moment its ``installed.json`` is there, which is
written last; without it, what lies in the folder is a download that can go on. One tab or process at a time works on a
folder; others wait, and see its progress.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
import time
from collections.abc import AsyncIterator, Callable, Generator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from ..config import ContextConfig
from ..errors import Cancelled, ModelNotFound, SippError, StorageError
from ..events import OnProgress, Status
from ..platform import current
from ..platform.base import Source
from ..platform.http import HttpClient, default_client
from ..platform.storage import Storage, StorageEstimate, default_storage, failed, full
from ._peek import read_headers
from .download import Download, DownloadOptions
from .manifest import Manifest, slug
from .plan import MemoryLimit, MemoryPlan, memory_limit, plan_memory
from .registry import MODELS, RegistryEntry
from .sources import Wanted, find

VERSION = 1
_ROOT = "models"
_RECORDS = ("installed.json", "installed-copy.json")


@dataclass(frozen=True)
class InstalledModel:
    """A model that is here whole.

    Attributes:
        manifest: its files, their hashes, and what it is.
        installed: when, in seconds since 1970.
        used: when it was last opened.
        persisted: whether the browser promised to keep it; ``False`` means that it may be deleted when space runs low.
    """

    manifest: Manifest
    installed: float
    used: float
    persisted: bool
    folder: str = dataclasses.field(repr=False)

    @property
    def id(self) -> str:
        """Its name here."""
        return self.manifest.id

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return self.manifest.size or 0

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            **self.manifest.to_dict(),
            "size": self.size,
            "installed": self.installed,
            "used": self.used,
            "persisted": self.persisted,
        }


@dataclass(frozen=True)
class Estimate:
    """What adding a model would take.

    Attributes:
        manifest: what is known of it.
        download: bytes that are still to be fetched; ``None`` where the server doesn't say.
        storage: what there is.
        enough_storage: whether they fit.
        memory: the plan of its memory.
    """

    manifest: Manifest
    download: int | None
    storage: StorageEstimate
    enough_storage: bool
    memory: MemoryPlan


@dataclass(frozen=True)
class StorageReport:
    """What the models take.

    Attributes:
        estimate: of the whole storage.
        models: bytes of installed models.
        unfinished: bytes of downloads that have not ended, by folder.
    """

    estimate: StorageEstimate
    models: int
    unfinished: Mapping[str, int]


@dataclass(frozen=True)
class Verification:
    """What :meth:`ModelStore.verify` found.

    Attributes:
        chunks: how many were checked.
        bad: file name and index of those that were wrong.
        repaired: whether they were fetched again and are right now.
    """

    chunks: int
    bad: tuple[tuple[str, int], ...]
    repaired: bool

    @property
    def sound(self) -> bool:
        """Whether the model is right now."""
        return not self.bad or self.repaired


class Installation:
    """A model on its way. Await it for the :class:`InstalledModel`.

    Attributes:
        status: the latest report.
    """

    def __init__(
        self, store: ModelStore, wanted: Callable[[], Any], on_progress: OnProgress | None, evict: bool
    ) -> None:
        self.status = Status("idle")
        self._on_progress = on_progress
        self._download: Download | None = None
        self._paused = False
        self._task: asyncio.Task[InstalledModel] = asyncio.ensure_future(store._install(self, wanted, evict))

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
        """Give up; what has arrived is kept for the next attempt. :meth:`ModelStore.remove` deletes it."""
        self._task.cancel()

    def _begin(self, download: Download) -> None:
        self._download = download
        if self._paused:
            download.pause()

    def _report(self, status: Status) -> None:
        self.status = status
        if self._on_progress is not None:
            self._on_progress(status)


class ModelStore:
    """The installed models of this browser or this user.

    Args:
        storage: where they are; by default this place's own.
        http: what fetches them.
        options: how.
        registry: names that can be given instead of URLs.
    """

    def __init__(
        self,
        storage: Storage | None = None,
        http: HttpClient | None = None,
        *,
        options: DownloadOptions | None = None,
        registry: Mapping[str, RegistryEntry] = MODELS,
    ) -> None:
        self._storage = storage or default_storage()
        self._http = http or default_client()
        self._options = options
        self._registry = registry

    async def add(
        self,
        source: Any,
        *,
        id: str | None = None,
        name: str | None = None,
        projector: Any = None,
        on_progress: OnProgress | None = None,
        evict: bool = False,
    ) -> InstalledModel:
        """Install a model and wait for it; see :meth:`install`."""
        return await self.install(source, id=id, name=name, projector=projector, on_progress=on_progress, evict=evict)

    def install(
        self,
        source: Any,
        *,
        id: str | None = None,
        name: str | None = None,
        projector: Any = None,
        on_progress: OnProgress | None = None,
        evict: bool = False,
    ) -> Installation:
        """Begin to install a model; goes on with what an earlier attempt left.

        Args:
            source: a URL, a list of shards, a picked file, a manifest or a registered name; see ``sources.find``.
            id, name: what to call it; by default as its manifest or its file says.
            projector: its image projector.
            on_progress: called with every :class:`~sippet.events.Status`.
            evict: whether the least recently used models may be removed to make room.

        Raises (when awaited):
            ModelNotFound, RemoteUnavailable, RemoteError: the server.
            InvalidModel, UnsupportedModel: the file.
            StorageError: no room, or not allowed.
            Cancelled: :meth:`Installation.cancel` was called.
        """

        async def wanted() -> Wanted:
            return await find(source, self._http, projector=projector, id=id, name=name, registry=self._registry)

        return Installation(self, wanted, on_progress, evict)

    async def list(self) -> list[InstalledModel]:
        """The installed models, the latest used first. Needs no network."""
        newest: dict[str, InstalledModel] = {}
        for folder in await self._folders():
            model = await self._read(folder)
            if model is not None and await self._is_whole(model):
                other = newest.get(model.id)
                if other is None or other.installed < model.installed:
                    newest[model.id] = model
        return sorted(newest.values(), key=lambda model: -model.used)

    async def get(self, id: str) -> InstalledModel:
        """The installed model with this id.

        Raises:
            ModelNotFound: it is not installed.
        """
        for model in await self.list():
            if model.id == id:
                return model
        raise ModelNotFound(f"No model {id!r} is installed.", hint="Add it first; models.list() shows what there is.")

    async def open(self, id: str) -> tuple[Sequence[Source], Source | None]:
        """The files of an installed model for an engine, in order, and its projector. Notes that it was used.

        Raises:
            ModelNotFound: it is not installed.
        """
        model = await self.get(id)
        await self._storage.save(f"{_ROOT}/{model.folder}/used.json", json.dumps({"used": time.time()}).encode())
        opened = []
        for file in model.manifest.all_files:
            source = await self._storage.source(f"{_ROOT}/{model.folder}/data/{file.name}")
            if source is None:
                raise failed(f"{file.name} is missing.", "damaged", "Call models.verify() to repair the model.")
            opened.append(source)
        count = len(model.manifest.files)
        return opened[:count], opened[count] if model.manifest.projector else None

    async def remove(self, id: str) -> int:
        """Remove a model, or what an unfinished download of it left. Returns the bytes that were freed.

        Raises:
            ModelNotFound: there is nothing of that name.
            StorageError: it is in use.
        """
        freed, found = 0, False
        for folder in await self._folders():
            model = await self._read(folder)
            if not (model.id == id if model else folder.startswith(_folder_start(id))):
                continue
            async with self._storage.lock(f"model-{folder}", wait=False) as held:
                if not held:
                    raise failed(f"{id} is being installed or repaired.", "busy", "Wait for it, or cancel it.")
                found = True
                freed += await self._bytes_in(folder)
                await self._storage.delete(f"{_ROOT}/{folder}/data")
                await self._storage.delete(f"{_ROOT}/{folder}")
        if not found:
            raise ModelNotFound(f"No model {id!r} is installed.", hint="models.list() shows what there is.")
        return freed

    async def verify(self, id: str, *, repair: bool = True, on_progress: OnProgress | None = None) -> Verification:
        """Hold every chunk of an installed model against its hash, and fetch the wrong ones again.

        Args:
            id: which model.
            repair: whether to fetch; else only report.
            on_progress: called with every status.

        Raises:
            ModelNotFound: it is not installed.
            StorageError: it is damaged and has no URL to repair it from, or is in use.
            RemoteUnavailable: the server could not be reached for the repair.
        """
        report = on_progress or (lambda status: None)
        for folder in await self._folders():
            model = await self._read(folder)
            if model is None or model.id != id:
                continue
            async with self._storage.lock(f"model-{folder}"):
                return await self._verify(model, repair, report)
        raise ModelNotFound(f"No model {id!r} is installed.", hint="models.list() shows what there is.")

    async def estimate(
        self,
        source: Any,
        *,
        projector: Any = None,
        context: ContextConfig | None = None,
        limit: MemoryLimit | None = None,
    ) -> Estimate:
        """What a model would take, from its header alone: only the first bytes of each file are fetched.

        Args:
            source, projector: as for :meth:`install`.
            context: the settings that it is to run with.
            limit: the memory there is; by default what this place tells.
        """
        wanted = await find(source, self._http, projector=projector, registry=self._registry)
        headers, manifest = await read_headers(wanted, self._http)
        count = len(manifest.files)
        extra = sum(tensor.nbytes for header in headers[count:] for tensor in header.tensors)
        if limit is None:
            place = await current().environment()
            limit = memory_limit(
                device_memory=place.device_memory, memory64=place.memory64, wasm=place.name == "browser"
            )
        plan = plan_memory(headers[:count], context, limit=limit, extra=extra)
        storage = await self._storage.estimate()
        folder = _folder(manifest)
        present = await self._read(folder) is not None
        size = manifest.size
        there = 0 if size is None else min(size, await self._bytes_in(folder))
        missing = 0 if present else None if size is None else size - there
        room = storage.available
        return Estimate(manifest, missing, storage, room is None or missing is None or missing <= room, plan)

    async def storage(self) -> StorageReport:
        """What there is, what models take, and what unfinished downloads take."""
        installed = {model.folder: model for model in await self.list()}
        unfinished = {
            folder: await self._bytes_in(folder) for folder in await self._folders() if folder not in installed
        }
        estimate = await self._storage.estimate()
        return StorageReport(estimate, sum(model.size for model in installed.values()), unfinished)

    async def persist(self) -> bool:
        """Ask the browser to keep the models when space runs low. Returns whether it promises to."""
        return await self._storage.persist()

    # Installing.

    async def _install(self, run: Installation, find_wanted: Callable[[], Any], evict: bool) -> InstalledModel:
        try:
            run._report(Status("checking", "Looking for the model."))
            wanted: Wanted = await find_wanted()
            folder = _folder(wanted.manifest)

            def report(status: Status) -> None:
                run._report(status)
                self._storage.broadcast(f"model-{folder}", dataclasses.asdict(status))

            async with self._alone(folder, run._report):
                model = await self._read(folder)
                if model is None or not await self._is_whole(model):
                    model = await self._download(run, wanted, folder, evict, report)
            report(Status("ready", f"{model.manifest.name} is installed.", model.size, model.size))
            return model
        except SippError as error:
            run._report(dataclasses.replace(run.status, state="error", text=str(error)))
            raise

    async def _download(
        self, run: Installation, wanted: Wanted, folder: str, evict: bool, report: Callable[[Status], None]
    ) -> InstalledModel:
        persisted = await self._storage.persist()
        await self._make_room(wanted.manifest, folder, evict)
        download = Download(
            self._storage,
            self._http,
            f"{_ROOT}/{folder}",
            wanted.manifest,
            sources=dict(wanted.local),
            options=self._options,
            report=report,
        )
        run._begin(download)
        manifest = await download.run()
        return await self._commit(manifest, folder, persisted)

    @asynccontextmanager
    async def _alone(self, folder: str, report: Callable[[Status], None]) -> AsyncIterator[None]:
        """Work on a folder alone. While somebody else does, report what they report."""
        topic = f"model-{folder}"
        async with AsyncExitStack() as stack:
            if not await stack.enter_async_context(self._storage.lock(topic, wait=False)):
                end = self._storage.listen(topic, lambda message: report(_joined(message)))
                try:
                    report(Status("downloading", "Another tab is fetching this model."))
                    await stack.enter_async_context(self._storage.lock(topic))
                finally:
                    end()
            yield

    async def _make_room(self, manifest: Manifest, folder: str, evict: bool) -> None:
        if manifest.size is None:
            return
        needed = manifest.size - min(manifest.size, await self._bytes_in(folder))
        estimate = await self._storage.estimate()
        if evict and estimate.available is not None:
            for model in reversed(await self.list()):
                if needed <= (estimate.available or 0):
                    break
                if model.folder != folder:
                    try:
                        await self.remove(model.id)
                    except StorageError:
                        continue  # in use
                    estimate = await self._storage.estimate()
        if estimate.available is not None and needed > estimate.available:
            raise full(needed, estimate)

    async def _commit(self, manifest: Manifest, folder: str, persisted: bool) -> InstalledModel:
        now = time.time()
        model = InstalledModel(manifest, now, now, persisted, folder)
        for name in reversed(_RECORDS):
            await self._storage.save(f"{_ROOT}/{folder}/{name}", _record(model))
        for leftover in ("journal", "begun.json"):
            await self._storage.delete(f"{_ROOT}/{folder}/{leftover}")
        for other in await self._folders():  # an older version under the same id has served
            if other != folder and (old := await self._read(other)) and old.id == model.id:
                await self._storage.delete(f"{_ROOT}/{other}")
        return model

    # Reading.

    async def _folders(self) -> Sequence[str]:
        return [name for name, size in (await self._storage.entries(_ROOT)).items() if size < 0]

    async def _read(self, folder: str) -> InstalledModel | None:
        """The record of a folder; a damaged one is written anew from its copy."""
        found = [_parse(await self._storage.load(f"{_ROOT}/{folder}/{name}"), folder) for name in _RECORDS]
        model = next((item for item in found if item is not None), None)
        if model is None:
            return None
        for name, item in zip(_RECORDS, found, strict=True):
            if item is None:
                await self._storage.save(f"{_ROOT}/{folder}/{name}", _record(model))
        try:
            used = float(json.loads(await self._storage.load(f"{_ROOT}/{folder}/used.json") or b"")["used"])
        except (ValueError, KeyError, TypeError):
            used = model.installed
        return dataclasses.replace(model, used=used)

    async def _is_whole(self, model: InstalledModel) -> bool:
        sizes = await self._storage.entries(f"{_ROOT}/{model.folder}/data")
        return all(sizes.get(file.name) == file.size for file in model.manifest.all_files)

    async def _bytes_in(self, folder: str) -> int:
        return sum(size for size in (await self._storage.entries(f"{_ROOT}/{folder}/data")).values() if size > 0)

    async def _verify(self, model: InstalledModel, repair: bool, report: Callable[[Status], Any]) -> Verification:
        manifest, checked, done = model.manifest, 0, 0
        block = self._storage.block(manifest.chunk_size)
        bad: list[tuple[int, int]] = []
        for index, file in enumerate(manifest.all_files):
            for chunk, expected in enumerate(file.chunks):
                block.clear()
                try:
                    name = f"{_ROOT}/{model.folder}/data/{file.name}"
                    await self._storage.read_block(name, chunk * block.capacity, block)
                except StorageError:
                    block.clear()
                if await block.sha256() != expected:
                    bad.append((index, chunk))
                checked, done = checked + 1, done + block.filled
                report(Status("checking", f"Checking {manifest.name}.", done, model.size))
        names = tuple((manifest.all_files[index].name, chunk) for index, chunk in bad)
        if not bad or not repair:
            return Verification(checked, names, False)
        if not all(manifest.all_files[index].url for index, _ in bad):
            raise failed(
                f"{manifest.name} is damaged, and it was added from a file: it can't be fetched again.",
                "damaged",
                "Add the file again.",
            )
        download = Download(
            self._storage, self._http, f"{_ROOT}/{model.folder}", manifest, options=self._options, report=report
        )
        await download.repair(bad)
        return Verification(checked, names, True)


def _folder_start(id: str) -> str:
    return f"{slug(id)[:60]}-{hashlib.sha256(id.encode()).hexdigest()[:8]}-"


def _folder(manifest: Manifest) -> str:
    """The folder of exactly this content under this id: another version gets another one."""
    identity = [[file.name, file.sha256 or file.chunks or [file.url, file.size]] for file in manifest.all_files]
    content = hashlib.sha256(json.dumps([identity, manifest.chunk_size]).encode()).hexdigest()[:8]
    return _folder_start(manifest.id) + content


def _record(model: InstalledModel) -> bytes:
    body = {
        "version": VERSION,
        "manifest": model.manifest.to_dict(),
        "installed": model.installed,
        "persisted": model.persisted,
    }
    text = json.dumps(body, sort_keys=True)
    return json.dumps({"check": hashlib.sha256(text.encode()).hexdigest(), "body": body}, sort_keys=True).encode()


def _parse(data: bytes | None, folder: str) -> InstalledModel | None:
    """A record; ``None`` where it is missing, damaged, or of a version that this Sippet doesn't know."""
    try:
        values = json.loads(data or b"")
        body = values["body"]
        if values["check"] != hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest():
            return None
        if body["version"] != VERSION:
            return None
        manifest = Manifest.from_dict(body["manifest"])
        installed = float(body["installed"])
        return InstalledModel(manifest, installed, installed, bool(body["persisted"]), folder)
    except (ValueError, KeyError, TypeError, SippError):
        return None


def _joined(message: Mapping[str, Any]) -> Status:
    known = {item.name for item in dataclasses.fields(Status)}
    return Status(**{key: value for key, value in message.items() if key in known})
