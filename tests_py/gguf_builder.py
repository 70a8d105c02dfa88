"""Makes GGUF files, sound and unsound, byte by byte."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

U8, U32, I32, F32, BOOL, STRING, ARRAY, U64 = 0, 4, 5, 6, 7, 8, 9, 10
_CODES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


class T(NamedTuple):
    """A tensor to write; ``offset`` and ``nbytes`` are worked out where they are ``None``."""

    name: str
    dims: Sequence[int] = (32,)
    kind: int = 0
    offset: int | None = None
    nbytes: int | None = None


def string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def value(kind: int, data: Any) -> bytes:
    """A value with its type; ``ARRAY`` takes ``(kind, [elements])``."""
    head = struct.pack("<I", kind)
    if kind == STRING:
        return head + string(data)
    if kind == ARRAY:
        inner, items = data
        body = b"".join(string(i) if inner == STRING else struct.pack("<" + _CODES[inner], i) for i in items)
        return head + struct.pack("<IQ", inner, len(items)) + body
    return head + struct.pack("<" + _CODES[kind], data)


MODEL: dict[str, bytes] = {
    "general.architecture": value(STRING, "llama"),
    "general.license": value(STRING, "cc0-1.0"),
    "llama.block_count": value(U32, 2),
    "llama.embedding_length": value(U32, 64),
    "llama.context_length": value(U32, 128),
    "llama.attention.head_count": value(U32, 4),
    "llama.attention.head_count_kv": value(U32, 2),
    "llama.feed_forward_length": value(U32, 128),
    "tokenizer.ggml.model": value(STRING, "gpt2"),
    "tokenizer.ggml.tokens": value(ARRAY, (STRING, ["a", "b", "c"])),
}
"""The least metadata that passes for a model."""

TENSORS = (T("token_embd.weight", (64, 3), 1), T("output.weight", (64, 3), 8), T("output_norm.weight", (64,), 0))


def gguf(
    keys: dict[str, bytes] | Sequence[tuple[str, bytes]] = (),
    tensors: Sequence[T] = (),
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    n_keys: int | None = None,
    n_tensors: int | None = None,
    alignment: int = 32,
    data: bool = True,
) -> bytes:
    """A file. The counts and offsets are the true ones unless given."""
    pairs = list(keys.items()) if isinstance(keys, dict) else list(keys)
    out = magic + struct.pack("<I", version)
    out += struct.pack(
        "<QQ", len(tensors) if n_tensors is None else n_tensors, len(pairs) if n_keys is None else n_keys
    )
    out += b"".join(string(key) + raw for key, raw in pairs)
    offset, body = 0, b""
    for tensor in tensors:
        nbytes = tensor_bytes(tensor)
        out += string(tensor.name) + struct.pack("<I", len(tensor.dims))
        out += struct.pack(f"<{len(tensor.dims)}Q", *tensor.dims)
        out += struct.pack("<IQ", tensor.kind, offset if tensor.offset is None else tensor.offset)
        offset += nbytes + -nbytes % alignment
        if data:
            body += bytes(nbytes) + bytes(-nbytes % alignment)
    return out + bytes(-len(out) % alignment) + body


def tensor_bytes(tensor: T) -> int:
    if tensor.nbytes is not None:
        return tensor.nbytes
    from sippet.models._ggml import GGML_TYPES

    elements = 1
    for dim in tensor.dims:
        elements *= dim
    kind = GGML_TYPES.get(tensor.kind)
    return elements // kind.block_elements * kind.block_bytes if kind else 0
