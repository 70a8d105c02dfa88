"""What is installed: a folder of the storage for each model, whose record says that the model is whole.

A model counts as installed from the moment its ``installed.json`` is there, which is written last; without it, what
lies in the folder is a download that can go on. Of the record there are two copies: a damaged one is written anew.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import itertools
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .. import _json
from ..errors import ModelNotFound, SippError
from ..platform.base import Source
from ..platform.http import display_url
from ..platform.storage import Storage, failed
from .manifest import Manifest, slug

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


class Shelves:
    """The folders of all models, installed or on their way.

    Args:
        storage: where they are.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    # What there is.

    async def folders(self) -> Sequence[str]:
        """All of them."""
        return [name for name, size in (await self._storage.entries(_ROOT)).items() if size < 0]

    async def models(self) -> list[InstalledModel]:
        """Those that are installed, the latest used first."""
        newest: dict[str, InstalledModel] = {}
        for folder in await self.folders():
            model = await self.model_in(folder)
            if model is not None and await self.is_whole(model):
                other = newest.get(model.id)
                if other is None or other.installed < model.installed:
                    newest[model.id] = model
        return sorted(newest.values(), key=lambda model: -model.used)

    async def model(self, id: str) -> InstalledModel:
        """The installed model with this id.

        Raises:
            ModelNotFound: it is not installed.
        """
        for model in await self.models():
            if model.id == id:
                return model
        raise not_installed(id)

    async def model_in(self, folder: str) -> InstalledModel | None:
        """What the record of a folder says; ``None`` where there is none."""
        loaded = await asyncio.gather(*[self._storage.load(f"{path_of(folder)}/{name}") for name in _RECORDS])
        parsed = {data: _parse(data, folder) for data in set(loaded)}  # copies of one record, unless one is damaged
        found = [parsed[data] for data in loaded]
        model = next((item for item in found if item is not None), None)
        if model is None:
            return None
        for name, item in zip(_RECORDS, found, strict=True):
            if item is None:
                await self._storage.save(f"{path_of(folder)}/{name}", _record(model))
        try:
            used = float(_json.loads(await self._storage.load(f"{path_of(folder)}/used.json") or b"")["used"])
        except (ValueError, KeyError, TypeError):
            used = model.installed
        return dataclasses.replace(model, used=used)

    async def is_whole(self, model: InstalledModel) -> bool:
        """Whether its files have the sizes that they should have."""
        sizes = await self._storage.entries(f"{path_of(model.folder)}/data")
        return all(sizes.get(file.name) == file.size for file in model.manifest.all_files)

    async def bytes_in(self, folder: str) -> int:
        """Bytes of the model's files that are there."""
        return sum(size for size in (await self._storage.entries(f"{path_of(folder)}/data")).values() if size > 0)

    async def sources(self, model: InstalledModel) -> list[Source]:
        """Its files, in order, with the projector at the end.

        Raises:
            StorageError: one is missing.
        """
        opened = []
        for file in model.manifest.all_files:
            source = await self._storage.source(f"{path_of(model.folder)}/data/{file.name}")
            if source is None:
                raise failed(f"{file.name} is missing.", "damaged", "Call models.verify() to repair the model.")
            opened.append(source)
        return opened

    # What changes.

    async def install(self, manifest: Manifest, folder: str, persisted: bool) -> InstalledModel:
        """Write the record of a model whose files are all there, in place of an older version with its id."""
        now = time.time()
        model = InstalledModel(manifest, now, now, persisted, folder)
        await asyncio.gather(*[self._storage.save(f"{path_of(folder)}/{name}", _record(model)) for name in _RECORDS])
        await asyncio.gather(*[self._storage.delete(f"{path_of(folder)}/{name}") for name in ("journal", "begun.json")])
        for other in await self.folders():
            if other != folder and (old := await self.model_in(other)) and old.id == model.id:
                await self._storage.delete(path_of(other))
        return model

    async def with_free_id(self, manifest: Manifest, folder: str) -> Manifest:
        """The manifest with a number behind its id where another model than an older version of it has that: one from
        another address, with other bytes."""
        others = [await self.model_in(other) for other in await self.folders() if other != folder]
        taken = {model.id: model.manifest for model in others if model is not None}
        for number in itertools.count(1):
            id = manifest.id if number == 1 else f"{manifest.id}-{number}"
            if id not in taken or _replaces(manifest, taken[id]):
                break
        return dataclasses.replace(manifest, id=id)

    async def note_use(self, model: InstalledModel) -> None:
        """It is used now."""
        await self._storage.save(f"{path_of(model.folder)}/used.json", json.dumps({"used": time.time()}).encode())

    async def remove(self, folder: str, *, unless_installed: bool = False) -> int | None:
        """Delete a folder that nobody works on.

        Args:
            unless_installed: leave a model that is installed.

        Returns:
            the bytes that were freed; ``None`` where somebody works on it.
        """
        async with self._storage.lock(lock_of(folder), wait=False) as held:
            if not held:
                return None
            if unless_installed and await self.model_in(folder) is not None:
                return 0
            freed = await self.bytes_in(folder)
            await self._storage.delete(f"{path_of(folder)}/data")  # first: it is what may be in use
            await self._storage.delete(path_of(folder))
            return freed


def folder_of(manifest: Manifest) -> str:
    """The folder of exactly this content under this id: another version gets another one."""
    identity = [[file.name, file.sha256 or file.chunks or [file.url, file.size]] for file in manifest.all_files]
    content = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:8]
    return start_of(manifest.id) + content


def _replaces(manifest: Manifest, other: Manifest) -> bool:
    """Whether two manifests with one id are of one model: by its addresses (without queries), or byte for byte."""
    places = [[display_url(file.url) for file in item.all_files] for item in (manifest, other)]
    hashes = [[file.chunks for file in item.all_files] for item in (manifest, other)]
    return places[0] == places[1] or hashes[0] == hashes[1]


def start_of(id: str) -> str:
    """What the names of all folders of an id begin with."""
    return f"{slug(id)[:60]}-{hashlib.sha256(id.encode()).hexdigest()[:8]}-"


def path_of(folder: str) -> str:
    """Where in the storage a folder is."""
    return f"{_ROOT}/{folder}"


def lock_of(folder: str) -> str:
    """The lock of who works on a folder, and the topic under which they tell how far they are."""
    return f"model-{folder}"


def not_installed(id: str) -> ModelNotFound:
    """There is no such model here."""
    return ModelNotFound(f"No model {id!r} is installed.", hint="Add it first; models.list() shows what there is.")


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
        values = _json.loads(data or b"")
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
