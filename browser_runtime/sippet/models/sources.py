"""What a model can come from: a URL, a list of shards, a user's file, a manifest, an entry of the registry."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from .. import platform
from .._fields import check_text
from ..errors import InvalidOption
from ..platform.base import Source
from ..platform.http import HttpClient
from ._transfer import refusal
from .header import invalid
from .manifest import Manifest, ModelFile, shard_stem, slug, with_single_chunks
from .registry import RegistryEntry

_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.gguf)", re.IGNORECASE)
_MANIFEST_LIMIT = 16 << 20
_MAX_SHARDS = 1000


@dataclass(frozen=True)
class Wanted:
    """What is to be installed.

    Attributes:
        manifest: with absolute URLs.
        local: files that are read here instead of fetched, by name.
        named_after_file: whether nothing else gave it its id, so that another model may have the same.
    """

    manifest: Manifest
    local: Mapping[str, Source] = field(default_factory=dict)
    named_after_file: bool = False


async def find(
    source: Any,
    http: HttpClient,
    *,
    projector: Any = None,
    id: str | None = None,
    name: str | None = None,
) -> Wanted:
    """Work out what a source stands for. Only a manifest is fetched; nothing of the model is.

    Args:
        source: a URL (of a ``.gguf`` file, of a first shard, or of a manifest), a :class:`RegistryEntry`, a
            :class:`Manifest`, a path or a picked file, or a list of shards of one kind.
        http: what fetches manifests.
        projector: the image projector, from the same kinds of source.
        id, name: instead of those that the source gives.

    Raises:
        InvalidOption: it is none of these, or the id or the name can't be one.
    """
    for option, text in (("id", id), ("name", name)):
        if text is not None and not 0 < len(check_text(option, text)) <= 500:
            raise InvalidOption(option, f"{option} must be a text of 1 to 500 characters.")
    wanted = await _find(source, http)
    if projector is not None:
        wanted = _with_projector(wanted, await _find_files([projector], http))
    manifest = wanted.manifest
    manifest = with_single_chunks(replace(manifest, id=id or manifest.id, name=name or manifest.name))
    return replace(wanted, manifest=manifest, named_after_file=wanted.named_after_file and id is None)


async def _find(source: Any, http: HttpClient) -> Wanted:
    if isinstance(source, RegistryEntry):
        source = await _full_manifest(source, http) if source.address else source.manifest
    if isinstance(source, Manifest):
        return Wanted(_absolute(source, http))
    if isinstance(source, str) and (url := http.resolve(source)) and urlsplit(url).path.endswith(".json"):
        return Wanted(_absolute(await fetch_manifest(url, http), http))
    sources = list(source) if isinstance(source, Sequence) and not isinstance(source, (str, bytes)) else [source]
    if not sources:
        raise InvalidOption("source", "The list of sources is empty.", hint="Give the model's files, in order.")
    return await _find_files(sources, http)


async def _full_manifest(entry: RegistryEntry, http: HttpClient) -> Manifest:
    """The manifest at an entry's address, which must be of the very files that the entry names."""
    url = http.resolve(entry.address)
    manifest = entry.manifest if url is None else await fetch_manifest(url, http)
    files = list(manifest.files)
    for index, (known, told) in enumerate(zip(entry.manifest.files, manifest.files, strict=False)):
        if known.sha256 and known.sha256 != told.sha256:
            raise invalid(
                "bad_manifest",
                f"The manifest at {url} is not that of {entry.id}: the SHA-256 of {known.name} differs.",
                "Tell whoever runs the server, or use another source.",
            )
        if known.sha256:  # the same bytes: the entry's own addresses of them serve as well
            more = (address for address in known.addresses if address and address not in told.addresses)
            files[index] = replace(told, mirrors=(*told.mirrors, *more))
    return replace(manifest, id=entry.id, files=tuple(files))


async def _find_files(sources: Sequence[Any], http: HttpClient) -> Wanted:
    urls = [http.resolve(item) if isinstance(item, str) else None for item in sources]
    if all(urls):
        files = [ModelFile(_file_name(url), None, url) for url in _all_shards([url for url in urls if url])]
        return Wanted(_manifest(files), named_after_file=True)
    if any(urls):
        raise InvalidOption("source", "A model's files are either all URLs or all files.")
    place = platform.current()
    opened = [await place.open_source(item, lambda done, total: None) for item in sources]
    files = [ModelFile(item.name, item.size) for item in opened]
    manifest = _manifest(files)
    local = {file.name: item for file, item in zip(manifest.files, opened, strict=True)}
    return Wanted(manifest, local, named_after_file=True)


def _manifest(files: Sequence[ModelFile]) -> Manifest:
    named: list[ModelFile] = []
    for file in files:
        taken = {other.name.casefold() for other in named}
        name = file.name if file.name.casefold() not in taken else f"{len(named) + 1}-{file.name}"
        named.append(replace(file, name=name))
    stem = shard_stem(named[0].name)
    return Manifest(slug(stem), stem, tuple(named))


def _with_projector(wanted: Wanted, projector: Wanted) -> Wanted:
    (file,) = projector.manifest.files
    taken = {other.name.casefold() for other in wanted.manifest.files}
    known = replace(file, name=f"projector-{file.name}") if file.name.casefold() in taken else file
    local = dict.fromkeys([known.name], next(iter(projector.local.values()))) if projector.local else {}
    return replace(wanted, manifest=replace(wanted.manifest, projector=known), local={**wanted.local, **local})


def _absolute(manifest: Manifest, http: HttpClient) -> Manifest:
    def absolute(file: ModelFile) -> ModelFile:
        url = http.resolve(file.url)
        if url is None:
            raise InvalidOption(
                "source",
                f"{file.name} has no address that works here ({file.url or 'none'}).",
                hint="Give the model's URL or file; a relative address works only in a page of a host that serves it.",
            )
        mirrors = [found for mirror in file.mirrors if (found := http.resolve(mirror))]
        return replace(file, url=url, mirrors=tuple(mirrors))

    projector = absolute(manifest.projector) if manifest.projector else None
    return replace(manifest, files=tuple(map(absolute, manifest.files)), projector=projector)


async def fetch_manifest(url: str, http: HttpClient) -> Manifest:
    """Fetch and read a manifest.

    Raises:
        InvalidModel: it is not one.
        ModelNotFound, RemoteError: the server refused.
    """
    async with http.request("GET", url) as response:
        if not response.ok:
            raise refusal(response, url)
        return Manifest.from_json(await response.read(_MANIFEST_LIMIT), response.url)


def _file_name(url: str) -> str:
    name = re.sub(r"[^A-Za-z0-9._ ()+@-]", "_", unquote(urlsplit(url).path.rstrip("/").rpartition("/")[2])).strip(". ")
    return name[-150:] or "model.gguf"


def _all_shards(urls: list[str]) -> list[str]:
    """The first of a model's shards stands for all of them."""
    parts = urlsplit(urls[0])
    match = _SHARD.fullmatch(parts.path)
    if len(urls) > 1 or match is None or int(match["number"]) != 1 or not 1 < int(match["count"]) <= _MAX_SHARDS:
        return urls
    paths = [
        f"{match['stem']}-{number:05d}-of-{match['count']}{match['suffix']}"
        for number in range(1, int(match["count"]) + 1)
    ]
    return [urlunsplit(parts._replace(path=path)) for path in paths]
