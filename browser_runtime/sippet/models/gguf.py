"""Reads the header of a GGUF file: what the model is, before any of its weights are touched.

    header = await read_header(source)
    check_model(header)
    header.architecture, header.quantization, header.context_length, header.file_size

The file is untrusted. Every count and length is checked before it is used, nothing is allocated from an unchecked
number, long arrays, and short ones where there are too many, are walked over and not kept, and the layout is held to
the same rules as llama.cpp's own reader (gguf.cpp), so that a file accepted here is not refused there.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

from ._ggml import GGML_TYPES
from .header import ArrayRef, GgufHeader, Scalar, Tensor, Value, invalid

MAX_HEADER = 64 << 20  # the largest real ones (262 k tokens with merges) are about 16 MB
MAX_KEYS = 1 << 16
MAX_TENSORS = 1 << 17
MAX_ARRAY = 1 << 22
MAX_STRING = 16 << 20
MAX_NAME = 63  # ggml_tensor.name holds 64 bytes with its end
MAX_DIMS = 4
MAX_ALIGNMENT = 1 << 16
KEEP_ARRAY, KEEP_IN_ALL = 1024, 1 << 18  # elements; Python needs up to 60 bytes for one

_UNSIGNED, _STRING, _ARRAY = 4, 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_SIZES = {kind: struct.calcsize("<" + code) for kind, code in _SCALARS.items()}
_FIRST_READ, _LARGEST_READ = 64 << 10, 4 << 20

_OTHER_KINDS = (
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "a gzip file"),
    (b"version https://git-lfs", "a Git LFS pointer: the model itself was not downloaded"),
    (b"<", "a web page, perhaps an error page of the server"),
    (b"{", "JSON, perhaps an error message of the server"),
    (b"ggjt", "an old GGML file, which must be converted to GGUF"),
    (b"tjgg", "an old GGML file, which must be converted to GGUF"),
    (b"lmgg", "an old GGML file, which must be converted to GGUF"),
)


class ByteSource(Protocol):
    """Bytes that can be read from any offset."""

    @property
    def size(self) -> int | None:
        """Bytes in all, or ``None`` where that is not known."""

    async def read(self, offset: int, length: int) -> bytes:
        """``length`` bytes from ``offset`` on; fewer only at the end."""


_MANY = 64
_MANY_SHORT_STRINGS = re.compile(
    b"(?:%b){%d}+" % (b"|".join(b"\\x%02x\\0{7}.{%d}" % (size, size) for size in range(128)), _MANY), re.DOTALL
)
"""So many strings of fewer than 128 bytes, each behind its length. A vocabulary has a hundred thousand strings, nearly
all of them short, and a regular expression steps over them several times as fast as a loop does."""


class BytesSource:
    """A :class:`ByteSource` over bytes in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size: int | None = len(data)

    async def read(self, offset: int, length: int) -> bytes:
        """A slice of the bytes."""
        return self._data[offset : offset + length]


class _Cursor:
    """A position in a source, with a window of it that grows in steps and never holds all of the header."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self._window = b""
        self._base = 0
        self._step = _FIRST_READ
        self.position = 0
        self.kept = 0  # elements of arrays

    async def need(self, length: int) -> int:
        """Make the next ``length`` bytes available. Returns their index in the window."""
        end, size = self.position + length, self._source.size
        if end > MAX_HEADER:
            raise invalid("absurd_header", f"The file's header claims more than {MAX_HEADER >> 20} MiB.")
        if size is not None and end > size:
            raise invalid("truncated", f"The file ends inside its header, at {size} bytes.", size=size)
        index = self.position - self._base
        if end <= self._base + len(self._window):
            return index
        pieces = [self._window[index:]] if index < len(self._window) else []
        have = sum(map(len, pieces))
        while have < length:
            wanted = max(length - have, self._step)
            if size is not None:
                wanted = min(wanted, size - self.position - have)
            piece = (await self._source.read(self.position + have, wanted))[:wanted]
            if not piece:
                at = self.position + have
                raise invalid("truncated", f"The file ends inside its header, at {at} bytes.", size=at)
            pieces.append(piece)
            have += len(piece)
            self._step = min(self._step * 2, _LARGEST_READ)
        self._window, self._base = b"".join(pieces), self.position
        return 0

    async def opening(self) -> bytes:
        """The first bytes, fewer where the file is shorter: enough to tell what else it may be."""
        start = b""
        while len(start) < 24 and (piece := await self._source.read(len(start), 24 - len(start))):
            start += piece
        return start[:24]

    async def take(self, length: int) -> bytes:
        index = await self.need(length)
        self.position += length
        return self._window[index : index + length]

    async def unpack(self, code: str) -> Any:
        return struct.unpack("<" + code, await self.take(struct.calcsize("<" + code)))

    async def string(self, limit: int, what: str) -> bytes:
        (length,) = await self.unpack("Q")
        if length > limit:
            raise invalid("absurd_header", f"{what} claims {length} bytes; the most is {limit}.")
        return await self.take(length)

    async def skip_strings(self, count: int) -> None:
        """Step over strings: only their lengths are looked at, those of short ones many at a time."""
        while count:
            index = self.position - self._base
            if count >= _MANY and (short := _MANY_SHORT_STRINGS.match(self._window, index)):
                self.position = self._base + short.end()
                count -= _MANY
            else:
                await self._skip_any_strings(min(count, _MANY))
                count -= min(count, _MANY)
        await self.need(0)

    async def _skip_any_strings(self, count: int) -> None:
        unpack = struct.Struct("<Q").unpack_from
        window, index = self._window, self.position - self._base
        last = len(window) - 8
        for _ in range(count):  # names are local here, for their speed
            if index > last:
                self.position = self._base + index
                index = await self.need(8)
                window = self._window
                last = len(window) - 8
            length = unpack(window, index)[0]
            if length > MAX_STRING:
                raise invalid("absurd_header", f"A string claims {length} bytes; the most is {MAX_STRING}.")
            index += 8 + length
        self.position = self._base + index


async def read_header(source: ByteSource) -> GgufHeader:
    """Read and check a GGUF header.

    Only the header is read, in growing steps from 64 KiB to 4 MiB.

    Raises:
        InvalidModel: with ``details["reason"]``: ``not_gguf``, ``wrong_version``, ``big_endian``, ``truncated``,
            ``corrupt`` or ``absurd_header``.
    """
    cursor = _Cursor(source)
    version, n_tensors, n_keys = await _read_preamble(cursor)
    metadata: dict[str, Value] = {}
    spans: dict[str, tuple[int, int]] = {}
    for _ in range(n_keys):
        start = cursor.position
        key = _utf8(await cursor.string(MAX_STRING, "A key"), "A key")
        if not key or key in metadata:
            raise invalid("corrupt", f"The file's header has the key {key!r} twice." if key else "A key is empty.")
        metadata[key] = await _read_value(cursor, key)
        spans[key] = (start, cursor.position)
    alignment = _alignment(metadata)
    tensors = await _read_tensors(cursor, n_tensors, alignment)
    data_offset = _pad(cursor.position, alignment) if tensors else cursor.position
    end = max((data_offset + t.offset + t.nbytes for t in tensors), default=data_offset)
    if source.size is not None and end > source.size:
        raise invalid(
            "truncated",
            f"The file has {source.size} bytes; its header describes {end}.",
            "Download it again: the end is missing.",
            size=source.size,
            needed=end,
        )
    return GgufHeader(
        version, alignment, MappingProxyType(metadata), tensors, data_offset, end, MappingProxyType(spans)
    )


async def _read_preamble(cursor: _Cursor) -> tuple[int, int, int]:
    start = await cursor.opening()
    if not start:
        raise invalid("truncated", "The file is empty.", size=0)
    if len(start) < 4 and b"GGUF".startswith(start):
        raise invalid("truncated", f"The file ends after {len(start)} bytes.", size=len(start))
    if start[:4] != b"GGUF":
        kind = next((what for magic, what in _OTHER_KINDS if start.lstrip().startswith(magic)), None)
        raise invalid(
            "not_gguf",
            f"This is not a GGUF file{f'; it looks like {kind}' if kind else ''}.",
            "Choose a file that ends in .gguf.",
        )
    (_, version) = await cursor.unpack("4sI")
    if version & 0xFFFF == 0 and version:
        raise invalid("big_endian", "The file is in big-endian byte order.", "Convert the model to little-endian.")
    if version not in (2, 3):
        raise invalid(
            "wrong_version", f"The file is GGUF version {version}; versions 2 and 3 can be read.", version=version
        )
    n_tensors, n_keys = await cursor.unpack("QQ")
    for count, limit, what in ((n_tensors, MAX_TENSORS, "tensors"), (n_keys, MAX_KEYS, "metadata keys")):
        if count > limit:
            raise invalid("absurd_header", f"The file's header claims {count} {what}; the most is {limit}.")
    return version, n_tensors, n_keys


async def _read_value(cursor: _Cursor, key: str) -> Value:
    (kind,) = await cursor.unpack("I")
    if kind == _STRING:
        return (await cursor.string(MAX_STRING, f"{key!r}")).decode("utf-8", "replace")
    if kind in _SCALARS:
        return (await cursor.unpack(_SCALARS[kind]))[0]  # type: ignore[no-any-return]
    if kind != _ARRAY:
        raise invalid("corrupt", f"{key!r} has the unknown type {kind}.")
    kind, count = await cursor.unpack("IQ")
    if kind != _STRING and kind not in _SCALARS:
        what = "an array of arrays" if kind == _ARRAY else f"an array of the unknown type {kind}"
        raise invalid("corrupt", f"{key!r} is {what}.")
    if count > MAX_ARRAY:
        raise invalid("absurd_header", f"{key!r} claims {count} elements; the most is {MAX_ARRAY}.")
    offset = cursor.position
    if count <= KEEP_ARRAY and cursor.kept + count <= KEEP_IN_ALL:
        cursor.kept += count
        if kind == _STRING:
            texts = [await cursor.string(MAX_STRING, f"{key!r}") for _ in range(count)]
            return tuple(text.decode("utf-8", "replace") for text in texts)
        return tuple(await cursor.unpack(f"{count}{_SCALARS[kind]}"))
    if kind == _STRING:
        await cursor.skip_strings(count)
    else:
        cursor.position += count * _SIZES[kind]
        await cursor.need(0)
    return ArrayRef(kind, count, offset, cursor.position - offset)


def _alignment(metadata: Mapping[str, Value]) -> int:
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or isinstance(alignment, bool):
        raise invalid("corrupt", "general.alignment is not a whole number.")
    if alignment <= 0 or alignment & (alignment - 1):
        raise invalid("corrupt", f"general.alignment is {alignment}; it must be a power of two.")
    if alignment > MAX_ALIGNMENT:
        raise invalid("absurd_header", f"general.alignment is {alignment}; the most is {MAX_ALIGNMENT}.")
    return alignment


async def _read_tensors(cursor: _Cursor, count: int, alignment: int) -> tuple[Tensor, ...]:
    tensors: list[Tensor] = []
    names: set[str] = set()
    expected = 0
    for _ in range(count):
        name = _utf8(await cursor.string(MAX_NAME, "A tensor's name"), "A tensor's name")
        if name in names:
            raise invalid("corrupt", f"The file has two tensors named {name!r}.")
        names.add(name)
        (n_dims,) = await cursor.unpack("I")
        if n_dims > MAX_DIMS:
            raise invalid("corrupt", f"Tensor {name!r} claims {n_dims} dimensions; the most is {MAX_DIMS}.")
        dims = await cursor.unpack(f"{n_dims}Q")
        kind, offset = await cursor.unpack("IQ")
        nbytes = _tensor_bytes(name, dims, kind)
        if offset != expected:
            raise invalid("corrupt", f"Tensor {name!r} lies at {offset}, where {expected} was due.")
        expected = _pad(offset + nbytes, alignment)
        if expected >= 1 << 62:
            raise invalid("absurd_header", "The tensors claim more bytes than any file can have.")
        tensors.append(Tensor(name, dims, kind, offset, nbytes))
    return tuple(tensors)


def _tensor_bytes(name: str, dims: Sequence[int], kind: int) -> int:
    if kind not in GGML_TYPES:
        raise invalid("corrupt", f"Tensor {name!r} has the unknown type {kind}.", type=kind)
    elements = 1
    for dim in dims:
        elements *= dim
        if dim >= 1 << 62 or elements >= 1 << 62:
            raise invalid("absurd_header", f"Tensor {name!r} claims more elements than any file can hold.")
    block = GGML_TYPES[kind]
    row = dims[0] if dims else 1
    if row % block.block_elements:
        raise invalid("corrupt", f"Tensor {name!r} has rows of {row}, not whole blocks of {block.block_elements}.")
    return elements // block.block_elements * block.block_bytes


def _utf8(raw: bytes, what: str) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise invalid("corrupt", f"{what} is not UTF-8.") from error


def _pad(offset: int, alignment: int) -> int:
    return (offset + alignment - 1) // alignment * alignment


async def read_array(source: ByteSource, array: ArrayRef) -> tuple[Scalar, ...]:
    """The elements of a long array that :func:`read_header` left in the file."""
    data = await source.read(array.offset, array.nbytes)
    if len(data) < array.nbytes:
        raise invalid("truncated", "The file has become shorter since its header was read.")
    if array.kind != _STRING:
        return struct.unpack(f"<{array.count}{_SCALARS[array.kind]}", data)
    texts, index = [], 0
    for _ in range(array.count):
        (length,) = struct.unpack_from("<Q", data, index)
        texts.append(data[index + 8 : index + 8 + length].decode("utf-8", "replace"))
        index += 8 + length
    return tuple(texts)
