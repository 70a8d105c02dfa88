"""Reads the header of a GGUF file: what the model is, before any of its weights are touched.

    header = await read_header(source)
    check_model(header)
    header.architecture, header.quantization, header.context_length, header.file_size

The file is untrusted. Every count and length is checked before it is used, nothing is allocated from an unchecked
number, long arrays are walked over and not kept, and the layout is held to the same rules as llama.cpp's own reader
(gguf.cpp), so that a file accepted here is not refused there.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol

from ..errors import InvalidModel, UnsupportedModel
from ._ggml import FILE_TYPES, GGML_TYPES

MAX_HEADER = 64 << 20  # the largest real ones (262 k tokens with merges) are about 16 MB
MAX_KEYS = 1 << 16
MAX_TENSORS = 1 << 17
MAX_ARRAY = 1 << 22
MAX_STRING = 16 << 20
MAX_NAME = 63  # ggml_tensor.name holds 64 bytes with its end
MAX_DIMS = 4
MAX_ALIGNMENT = 1 << 16
MAX_LAYERS = 512  # LLAMA_MAX_LAYERS
KEEP_ARRAY = 1024

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


class BytesSource:
    """A :class:`ByteSource` over bytes in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size: int | None = len(data)

    async def read(self, offset: int, length: int) -> bytes:
        """A slice of the bytes."""
        return self._data[offset : offset + length]


@dataclass(frozen=True)
class ArrayRef:
    """A long array, left in the file. :func:`read_array` reads it.

    Attributes:
        kind: GGUF's number for the type of its elements.
        count: how many there are.
        offset: where in the file the first one starts.
        nbytes: how long they are together.
    """

    kind: int
    count: int
    offset: int
    nbytes: int

    def __len__(self) -> int:
        return self.count


Scalar = int | float | bool | str
Value = Scalar | tuple[Scalar, ...] | ArrayRef


@dataclass(frozen=True)
class Tensor:
    """A tensor's place and shape.

    Attributes:
        name: its name.
        dims: elements in each dimension, the fastest first.
        kind: ggml's number for its type.
        offset: where it starts, from the start of the data.
        nbytes: its length.
    """

    name: str
    dims: tuple[int, ...]
    kind: int
    offset: int
    nbytes: int

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        product = 1
        for dim in self.dims:
            product *= dim
        return product

    @property
    def type_name(self) -> str:
        """ggml's name for its type, such as ``Q4_K``."""
        return GGML_TYPES[self.kind].name


@dataclass(frozen=True)
class GgufHeader:
    """What a GGUF file says about itself.

    Attributes:
        version: 2 or 3.
        alignment: of tensors, in bytes.
        metadata: scalars and short arrays as values, long arrays as :class:`ArrayRef`.
        tensors: in the order of the file.
        data_offset: where the tensors' bytes start.
        file_size: the least size of a whole file with this header, in bytes.
        spans: where each metadata entry (key, type and value) starts and ends in the file.
    """

    version: int
    alignment: int
    metadata: Mapping[str, Value]
    tensors: tuple[Tensor, ...] = field(repr=False)
    data_offset: int
    file_size: int
    spans: Mapping[str, tuple[int, int]] = field(repr=False)

    def text(self, key: str) -> str | None:
        """A metadata string, or ``None`` where it is missing or of another type."""
        value = self.metadata.get(key)
        return value if isinstance(value, str) else None

    def integer(self, key: str) -> int | None:
        """A metadata integer, or ``None`` where it is missing or of another type."""
        value = self.metadata.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def hyper(self, key: str) -> Value | None:
        """A metadata value under the architecture's own prefix: ``hyper("block_count")``."""
        return self.metadata.get(f"{self.architecture}.{key}")

    @property
    def architecture(self) -> str:
        """``general.architecture``, such as ``llama``; empty where the file has none."""
        return self.text("general.architecture") or ""

    @property
    def quantization(self) -> str:
        """What most of the weights are stored in: by ``general.file_type``, else by counting bytes."""
        named = FILE_TYPES.get(self.integer("general.file_type") or 0) if "general.file_type" in self.metadata else None
        if named:
            return named
        weights: Counter[str] = Counter()
        for tensor in self.tensors:
            weights[tensor.type_name] += tensor.nbytes
        return weights.most_common(1)[0][0] if weights else ""

    @property
    def context_length(self) -> int | None:
        """Tokens of context that the model was trained on."""
        return self.integer(f"{self.architecture}.context_length")

    @property
    def parameters(self) -> int:
        """How many numbers the tensors of this file hold."""
        return sum(tensor.elements for tensor in self.tensors)

    @property
    def chat_template(self) -> str | None:
        """The Jinja template of the model's chat format."""
        return self.text("tokenizer.chat_template")

    @property
    def license(self) -> str | None:
        """The licence's name as the file gives it, such as ``apache-2.0``."""
        return self.text("general.license")

    @property
    def vocabulary(self) -> int | None:
        """How many tokens the tokenizer has."""
        tokens = self.metadata.get("tokenizer.ggml.tokens")
        return len(tokens) if isinstance(tokens, (tuple, ArrayRef)) else None

    @property
    def split_number(self) -> int:
        """Which shard this is, from 0."""
        return self.integer("split.no") or 0

    @property
    def split_count(self) -> int:
        """How many shards the model has; 1 for a model in a single file."""
        return max(1, self.integer("split.count") or 0)


def invalid(reason: str, message: str, hint: str | None = None, **details: Any) -> InvalidModel:
    """An :class:`~sippet.errors.InvalidModel` with its reason."""
    default = "Fetch the file again, or convert the model again." if hint is None else hint
    return InvalidModel(message, hint=default, details={"reason": reason, **details})


class _Cursor:
    """A position in a source, with a window of it that grows in steps and never holds all of the header."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self._window = b""
        self._base = 0
        self._step = _FIRST_READ
        self.position = 0

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
        """Step over strings: only their lengths are looked at."""
        unpack = struct.Struct("<Q").unpack_from
        for _ in range(count):
            index = self.position - self._base
            if index + 8 > len(self._window):
                index = await self.need(8)
            (length,) = unpack(self._window, index)
            if length > MAX_STRING:
                raise invalid("absurd_header", f"A string claims {length} bytes; the most is {MAX_STRING}.")
            self.position += 8 + length
        await self.need(0)


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
    if count <= KEEP_ARRAY:
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


def check_model(header: GgufHeader, architectures: Collection[str] | None = None) -> None:
    """Refuse a sound file that can't be a language model, or that the engine doesn't know.

    Args:
        header: the header of the only file, or of the first shard.
        architectures: what the engine can run; ``None`` takes any.

    Raises:
        InvalidModel: ``corrupt`` or ``absurd_header`` hyperparameters, ``no_tokenizer``, ``no_tensors``,
            ``shard_order`` for a shard that is not the first.
        UnsupportedModel: ``details["reason"]`` is ``projector``, ``adapter`` or ``architecture``.
    """
    if header.split_number:
        raise invalid(
            "shard_order", f"This is shard {header.split_number + 1} of {header.split_count}.", "Give the first shard."
        )
    architecture = header.architecture
    if not architecture:
        raise invalid("corrupt", "The file does not name its architecture.")
    kind = header.text("general.type") or "model"
    if architecture == "clip" or kind == "mmproj":
        raise UnsupportedModel(
            "This file is an image projector, not a language model.",
            hint="Give it as the projector of a vision model.",
            details={"reason": "projector"},
        )
    if kind == "adapter":
        raise UnsupportedModel(
            "This file is a LoRA adapter, not a language model.",
            hint="Give its base model.",
            details={"reason": "adapter"},
        )
    if architectures is not None and architecture not in architectures:
        raise UnsupportedModel(
            f"The engine does not know the architecture {architecture!r}.",
            hint="Choose another model, or a newer Sippet.",
            details={"reason": "architecture", "architecture": architecture},
        )
    limits = {"block_count": MAX_LAYERS, "embedding_length": 1 << 20, "context_length": 1 << 30}
    for name, most in limits.items():
        value = header.integer(f"{architecture}.{name}")
        if value is None or value < 1:
            raise invalid("corrupt", f"The file does not give a usable {architecture}.{name}.")
        if value > most:
            raise invalid("absurd_header", f"{architecture}.{name} is {value}; the most is {most}.")
    if not header.tensors and header.split_count == 1:
        raise invalid("no_tensors", "The file has no tensors: it holds only a vocabulary.", "Choose a whole model.")
    if header.text("tokenizer.ggml.model") is None:
        raise invalid("no_tokenizer", "The file has no tokenizer.", "Convert the model again with its tokenizer.")


def check_shards(headers: Sequence[GgufHeader]) -> None:
    """Refuse a list of shards that is incomplete, out of order or mixed.

    Args:
        headers: one for each file that was given, in the order in which they were given.

    Raises:
        InvalidModel: ``details["reason"]`` is ``shard_missing``, ``shard_order`` or ``corrupt``.
    """
    first = headers[0]
    count = first.split_count
    numbers = [header.split_number for header in headers]
    if len(headers) != count or any(header.split_count != count for header in headers):
        missing = sorted(set(range(count)) - set(numbers))
        names = ", ".join(f"{number + 1}" for number in missing)
        raise invalid(
            "shard_missing",
            f"The model has {count} file{'s' if count > 1 else ''}; {len(headers)} were given"
            + (f", and shard {names} is missing." if missing and len(missing) < 20 else "."),
            "Give all of its files, in order.",
            count=count,
            missing=missing[:100],
        )
    if numbers != list(range(count)):
        raise invalid("shard_order", "The model's files are not in order.", "Give them in order.", order=numbers)
    names_seen = [tensor.name for header in headers for tensor in header.tensors]
    claimed = first.integer("split.tensors.count")
    if len(set(names_seen)) != len(names_seen) or (claimed is not None and claimed != len(names_seen)):
        raise invalid("corrupt", "The files do not belong to one model.", "Fetch all of its files again.")
