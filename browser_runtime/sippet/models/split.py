"""Splits a GGUF file into shards, and joins shards into a file, as ``llama-gguf-split`` does.

Shards are named ``PREFIX-00001-of-00003.gguf``. All metadata is in the first; each carries ``split.no``,
``split.count`` and ``split.tensors.count``. Joining leaves these out, so that a file that was split and joined is the
same again, byte for byte.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from ..errors import InvalidOption
from ..platform.base import Source
from .checks import check_shards
from .gguf import read_header
from .header import GgufHeader, Tensor, invalid
from .manifest import shard_stem

MAX_SHARDS = 1 << 16  # split.count is 16 bits wide
_SPLIT_KEYS = ("split.no", "split.count", "split.tensors.count")
_UINT16, _INT32 = 2, 5
_PIECE = 4 << 20


def shard_name(prefix: str, number: int, count: int) -> str:
    """llama.cpp's name of a shard; ``number`` counts from 0."""
    return f"{prefix}-{number + 1:05d}-of-{count:05d}.gguf"


async def split_model(
    source: Source,
    folder: Path,
    *,
    prefix: str | None = None,
    max_bytes: int | None = None,
    max_tensors: int | None = None,
    first_empty: bool = False,
    on_bytes: Callable[[int], object] = lambda done: None,
) -> list[Path]:
    """Split a file into shards.

    Args:
        source: the file.
        folder: where the shards go; existing ones are replaced.
        prefix: of their names; by default the file's own name.
        max_bytes: most bytes of tensors in a shard. A larger tensor gets a shard of its own.
        max_tensors: most tensors in a shard. One of the two limits must be given.
        first_empty: put only the metadata into the first shard, so that it is small.
        on_bytes: called with the bytes written so far.

    Returns:
        the shards, in order.

    Raises:
        InvalidModel: the file is not sound, or is a shard already.
        InvalidOption: no limit, or both, or more shards than the format can count, or one that would replace the file.
    """
    if (max_bytes is None) == (max_tensors is None) or (max_bytes or max_tensors or 0) < 1:
        raise InvalidOption("max_bytes", "Give either max_bytes or max_tensors, at least 1.")
    header = await read_header(source)
    if header.split_count > 1:
        raise invalid("shard", "The file is a shard already.", "Join its shards first.")
    groups = _groups(header, max_bytes, max_tensors)
    if first_empty:
        groups.insert(0, [])
    if len(groups) >= MAX_SHARDS:
        raise InvalidOption("max_bytes", f"That would make {len(groups)} shards.", hint="Allow larger shards.")
    stem, count, done = prefix or shard_stem(source.name), len(groups), 0
    paths = [folder / shard_name(stem, number, count) for number in range(count)]
    for path in paths:
        _refuse_target(path, [source])
    for number, (path, tensors) in enumerate(zip(paths, groups, strict=True)):
        keys = await _keys(source, header) if number == 0 else []
        keys += [
            _key("split.no", _UINT16, "<H", number),
            _key("split.count", _UINT16, "<H", count),
            _key("split.tensors.count", _INT32, "<i", len(header.tensors)),
        ]
        async with _replacing(path) as file:
            async for written in _write(file, keys, [(source, header, tensor) for tensor in tensors], header.alignment):
                done += written
                on_bytes(done)
    return paths


async def join_model(
    sources: Sequence[Source], target: Path, *, on_bytes: Callable[[int], object] = lambda done: None
) -> Path:
    """Join shards into one file.

    Args:
        sources: all shards, in order.
        target: the file to write; an existing one is replaced.
        on_bytes: called with the bytes written so far.

    Raises:
        InvalidModel: a shard is missing, out of order or not sound.
        InvalidOption: the target is one of them, or no file.
    """
    _refuse_target(target, sources)
    headers = [await read_header(source) for source in sources]
    check_shards(headers)
    first, done = headers[0], 0
    tensors = [
        (source, header, tensor) for source, header in zip(sources, headers, strict=True) for tensor in header.tensors
    ]
    async with _replacing(target) as file:
        async for written in _write(file, await _keys(sources[0], first), tensors, first.alignment):
            done += written
            on_bytes(done)
    return target


def _groups(header: GgufHeader, max_bytes: int | None, max_tensors: int | None) -> list[list[Tensor]]:
    """The tensors of each shard; their order stays."""
    groups: list[list[Tensor]] = [[]]
    size = 0
    for tensor in header.tensors:
        padded = _padded(tensor.nbytes, header.alignment)
        too_large = max_bytes is not None and size + padded > max_bytes
        too_many = max_tensors is not None and len(groups[-1]) >= max_tensors
        if groups[-1] and (too_large or too_many):
            groups.append([])
            size = 0
        groups[-1].append(tensor)
        size += padded
    return groups


async def _keys(source: Source, header: GgufHeader) -> list[bytes]:
    """The metadata entries as they stand in the file, without those of the split."""
    return [
        await source.read(start, end - start) for key, (start, end) in header.spans.items() if key not in _SPLIT_KEYS
    ]


def _key(name: str, kind: int, code: str, value: int) -> bytes:
    return struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", kind) + struct.pack(code, value)


async def _write(
    file: BinaryIO, keys: Sequence[bytes], tensors: Sequence[tuple[Source, GgufHeader, Tensor]], alignment: int
) -> AsyncIterator[int]:
    """Write a file; yields how many bytes each step wrote."""
    offset, infos = 0, []
    for _, _, tensor in tensors:
        infos.append(_info(replace(tensor, offset=offset)))
        offset += _padded(tensor.nbytes, alignment)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)) + b"".join(keys) + b"".join(infos)
    head += bytes(-len(head) % alignment)
    file.write(head)
    yield len(head)
    for source, header, tensor in tensors:
        start = header.data_offset + tensor.offset
        for at in range(0, tensor.nbytes, _PIECE):
            wanted = min(_PIECE, tensor.nbytes - at)
            piece = await source.read(start + at, wanted)
            if len(piece) != wanted:
                raise invalid("truncated", f"{source.name} has become shorter.", "Choose the file again.")
            file.write(piece)
            yield wanted
        padding = -tensor.nbytes % alignment
        file.write(bytes(padding))
        yield padding


def _info(tensor: Tensor) -> bytes:
    name = tensor.name.encode()
    dims = struct.pack(f"<I{len(tensor.dims)}Q", len(tensor.dims), *tensor.dims)
    return struct.pack("<Q", len(name)) + name + dims + struct.pack("<IQ", tensor.kind, tensor.offset)


def _padded(size: int, alignment: int) -> int:
    return size + -size % alignment


def _refuse_target(path: Path, sources: Sequence[Source]) -> None:
    """Refuse to write over what is read, or in the place of a folder or a device."""
    if not path.exists():
        return
    if not path.is_file():
        raise InvalidOption("target", f"{path} is there and is no file.", hint="Write to another place.")
    for source in sources:
        read = getattr(source, "path", None)
        if read is not None and path.samefile(read):
            raise InvalidOption("target", f"{path} would replace what it is made of.", hint="Write to another place.")


@asynccontextmanager
async def _replacing(path: Path) -> AsyncIterator[BinaryIO]:
    """A file that takes its name only once it is whole."""
    temporary = path.with_name(f".{path.name}.part")
    file = _open(temporary)
    try:
        with file:
            yield file
        _rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            _delete(temporary)
        raise


def _open(path: Path) -> BinaryIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("wb")


def _rename(path: Path, target: Path) -> None:
    path.replace(target)


def _delete(path: Path) -> None:
    path.unlink(missing_ok=True)
