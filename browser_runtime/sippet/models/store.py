"""The models that are installed here: added whole and verified, listed, opened, checked, repaired, removed.

store = ModelStore()
model = await store.add("https://example.org/models/tiny/manifest.json", on_progress=print)
sources = await store.open(model.id)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

from ..config import ContextConfig, RuntimeConfig
from ..errors import ModelNotFound
from ..events import OnProgress
from ..platform import current
from ..platform.base import Source
from ..platform.http import HttpClient, default_client
from ..platform.storage import Storage, default_storage, failed
from ._peek import read_headers
from .download import DownloadOptions
from .fitting import fitted_context, limit_of
from .installation import Installation
from .installed import InstalledModel, Shelves, folder_of, lock_of, not_installed, start_of
from .naming import is_name
from .plan import MemoryLimit, plan_memory
from .registry import MODELS, RegistryEntry, host_registry
from .reports import Estimate, StorageReport
from .sources import Wanted, find
from .verification import Verification, verify


class ModelStore:
    """The installed models of this browser or this user.

    As a context manager (``async with``) it closes the connections that it opened itself.

    Args:
        storage: where they are; by default this place's own.
        http: what fetches them, which stays its owner's to close; by default one of the store's own.
        options: how.
        registry: names that can be given instead of URLs; by default those of this page's host, else the built-in ones.
    """

    def __init__(
        self,
        storage: Storage | None = None,
        http: HttpClient | None = None,
        *,
        options: DownloadOptions | None = None,
        registry: Mapping[str, RegistryEntry] | None = None,
    ) -> None:
        self._storage = storage or default_storage()
        self._shelves = Shelves(self._storage)
        self._http = http or default_client()
        self._owns_http = http is None
        self._options = options
        self._known = registry

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._owns_http:
            await self._http.close()

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
            source: a URL, a list of shards, a picked file, a manifest, or a name of :meth:`registry`.
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
            return await find(await self._named(source), self._http, projector=projector, id=id, name=name)

        return Installation(
            self._storage, self._http, wanted, options=self._options, on_progress=on_progress, evict=evict
        )

    async def list(self) -> list[InstalledModel]:
        """The installed models, the latest used first. Needs no network."""
        return await self._shelves.models()

    async def get(self, id: str) -> InstalledModel:
        """The installed model with this id.

        Raises:
            ModelNotFound: it is not installed.
        """
        return await self._shelves.model(id)

    async def open(self, id: str) -> tuple[Sequence[Source], Source | None]:
        """The files of an installed model for an engine, in order, and its projector. Notes that it was used.

        Raises:
            ModelNotFound: it is not installed.
        """
        model = await self._shelves.model(id)
        await self._shelves.note_use(model)
        opened = await self._shelves.sources(model)
        count = len(model.manifest.files)
        return opened[:count], opened[count] if model.manifest.projector else None

    async def remove(self, id: str) -> int:
        """Remove a model, or what an unfinished download of it left. Returns the bytes that were freed.

        Raises:
            ModelNotFound: there is nothing of that name.
            StorageError: it is in use.
        """
        freed: list[int] = []
        for folder in await self._shelves.folders():
            model = await self._shelves.model_in(folder)
            if not (model.id == id if model else folder.startswith(start_of(id))):
                continue
            count = await self._shelves.remove(folder)
            if count is None:
                raise failed(f"{id} is being installed or repaired.", "busy", "Wait for it, or cancel it.")
            freed.append(count)
        if not freed:
            raise not_installed(id)
        return sum(freed)

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
        for folder in await self._shelves.folders():
            model = await self._shelves.model_in(folder)
            if model is not None and model.id == id:
                async with self._storage.lock(lock_of(folder)):
                    return await verify(
                        model,
                        self._storage,
                        report=on_progress or (lambda status: None),
                        http=self._http if repair else None,
                        options=self._options,
                    )
        raise not_installed(id)

    async def estimate(
        self,
        source: Any,
        *,
        projector: Any = None,
        context: ContextConfig | Mapping[str, Any] | None = None,
        limit: MemoryLimit | None = None,
    ) -> Estimate:
        """What a model would take, from its header alone: only the first bytes of each file are fetched.

        Args:
            source, projector: as for :meth:`install`, or the id of an installed model, which needs no network.
            context: the settings that it is to run with; the group ``context`` of a :class:`RuntimeConfig`.
            limit: the memory there is; by default what this place tells.
        """
        here = await self._here(source) if isinstance(source, str) else None
        wanted = here or await find(await self._named(source), self._http, projector=projector)
        headers, manifest = await read_headers(wanted, self._http)
        asked = RuntimeConfig.of({"context": {} if context is None else context}).context
        fitted = fitted_context(asked, headers[0])
        count = len(manifest.files)
        extra = sum(tensor.nbytes for header in headers[count:] for tensor in header.tensors)
        plan = plan_memory(headers[:count], fitted, limit=limit or await self.memory_limit(), extra=extra)
        storage = await self._storage.estimate()
        folder = folder_of(manifest)
        present = here is not None or await self._shelves.model_in(folder) is not None
        size = manifest.size
        there = 0 if size is None else min(size, await self._shelves.bytes_in(folder))
        missing = 0 if present else None if size is None else size - there
        room = storage.available
        return Estimate(manifest, missing, storage, room is None or missing is None or missing <= room, plan)

    async def registry(self) -> Mapping[str, RegistryEntry]:
        """The models that can be added by name, the default one first: those that this page's host offers, or where no
        host can be asked the built-in ones.
        """
        if self._known is None:
            self._known = await host_registry(self._http)
        return MODELS if self._known is None else self._known

    async def storage(self) -> StorageReport:
        """What there is, what models take, and what unfinished downloads take."""
        installed = {model.folder: model for model in await self.list()}
        folders = await self._shelves.folders()
        unfinished = {folder: await self._shelves.bytes_in(folder) for folder in folders if folder not in installed}
        estimate = await self._storage.estimate()
        return StorageReport(estimate, sum(model.size for model in installed.values()), unfinished)

    async def remove_unfinished(self) -> int:
        """Delete what downloads left that nobody works on. Returns the bytes that were freed."""
        folders = await self._shelves.folders()
        return sum([await self._shelves.remove(folder, unless_installed=True) or 0 for folder in folders])

    async def memory_limit(self) -> MemoryLimit:
        """The memory that a model may take here."""
        return limit_of(await current().environment())

    async def persist(self) -> bool:
        """Ask the browser to keep the models when space runs low. Returns whether it promises to."""
        return await self._storage.persist()

    async def _named(self, source: Any) -> Any:
        """What a name stands for; anything else as it is."""
        return (await self.registry()).get(source, source) if is_name(source) else source

    async def _here(self, id: str) -> Wanted | None:
        """An installed model as something to read the headers of."""
        try:
            model = await self._shelves.model(id)
        except ModelNotFound:
            return None
        return Wanted(model.manifest, {file.name: file for file in await self._shelves.sources(model)})
