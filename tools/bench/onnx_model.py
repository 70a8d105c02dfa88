#!/usr/bin/env python3
"""Make an ONNX model of a GGUF one, with the same weights, for transformers.js: `onnx_model.py MODEL.gguf FOLDER`

Needs `pip install gguf onnx`. For models of the llama architecture in Q4_0, Q4_1, Q8_0, F16 or F32. The folder gets
`<name of the file>/config.json` and `onnx/model.onnx`; give it to `sippet bench --onnx`. Both engines then compute with
the same numbers. Quantised matrices become floats: ONNX Runtime's WebAssembly decodes about ten times slower with
`--blocks`, which keeps their blocks, scales and offsets as they are (`MatMulNBits`). The rest of the graph is what it
is fastest with too: its fused attention with a KV cache, and logits of the last token only.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
from gguf import GGUFReader, ReaderTensor
from gguf.quants import dequantize
from onnx import TensorProto, helper, numpy_helper, save_model

BLOCK = 32
MICROSOFT = "com.microsoft"
FLOAT, INT64, INT32 = TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT32
CONTEXT = 2048
"""Positions that the tables of rotations hold."""


@dataclass(frozen=True)
class Shape:
    """The hyperparameters."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    head: int
    vocabulary: int
    epsilon: float
    base: float


class Graph:
    """Nodes and weights as they come."""

    def __init__(self, tensors: dict[str, ReaderTensor], shape: Shape, floats: bool) -> None:
        self.floats = floats
        self.tensors = tensors
        self.shape = shape
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def constant(self, name: str, value: numpy.ndarray) -> str:
        """A weight."""
        self.weights.append(numpy_helper.from_array(numpy.ascontiguousarray(value), name))
        return name

    def node(self, kind: str, inputs: list[str], outputs: str | list[str], domain: str = "", **attributes: Any) -> str:
        """An operation; the name of its first output."""
        outputs = [outputs] if isinstance(outputs, str) else outputs
        self.nodes.append(helper.make_node(kind, inputs, outputs, domain=domain, **attributes))
        return outputs[0]

    def norm(self, source: str, name: str) -> str:
        """RMS normalisation with the scale of that name."""
        scale = self.constant(name, _floats(self.tensors[name]))
        out = f"{name}.out"
        return self.node("SimplifiedLayerNormalization", [source, scale], out, axis=-1, epsilon=self.shape.epsilon)

    def matrix(self, source: str, name: str, out: str) -> str:
        """A product with the matrix of that name."""
        tensor = self.tensors[name]
        columns, rows = (int(size) for size in tensor.shape)
        if self.floats or tensor.tensor_type.name not in _UNPACK:
            return self.node("MatMul", [source, self.constant(name, _floats(tensor).T)], out)
        bits, values, scales, zeros = _UNPACK[tensor.tensor_type.name](tensor.data.reshape(-1))
        inputs = [source, self.constant(name, values.reshape(rows, columns // BLOCK, -1))]
        inputs.append(self.constant(f"{name}.scales", scales.reshape(-1)))
        if zeros is not None:
            inputs.append(self.constant(f"{name}.zeros", zeros.reshape(rows, columns // BLOCK)))
        sizes = {"K": columns, "N": rows, "bits": bits, "block_size": BLOCK}
        return self.node("MatMulNBits", inputs, out, MICROSOFT, accuracy_level=4, **sizes)

    def layer(self, number: int, source: str) -> str:
        """One transformer block."""
        at = f"blk.{number}."
        normed = self.norm(source, f"{at}attn_norm.weight")
        query, key, value = (self.matrix(normed, f"{at}attn_{part}.weight", f"{at}{part}") for part in "qkv")
        cache = [f"past_key_values.{number}.{part}" for part in ("key", "value")]
        attended = self.node(
            "GroupQueryAttention",
            [query, key, value, *cache, "lengths", "total", "cosines", "sines"],
            [f"{at}attended", f"present.{number}.key", f"present.{number}.value"],
            MICROSOFT,
            num_heads=self.shape.heads,
            kv_num_heads=self.shape.kv_heads,
            do_rotary=1,
            rotary_interleaved=1,  # GGUF has llama's rows in the order of pairs
        )
        projected = self.matrix(attended, f"{at}attn_output.weight", f"{at}projected")
        middle = self.node("Add", [source, projected], f"{at}middle")
        normed = self.norm(middle, f"{at}ffn_norm.weight")
        gate, up = (self.matrix(normed, f"{at}ffn_{part}.weight", f"{at}{part}") for part in ("gate", "up"))
        weight = self.node("Sigmoid", [gate], f"{at}sigmoid")
        active = self.node("Mul", [self.node("Mul", [gate, weight], f"{at}silu"), up], f"{at}active")
        return self.node("Add", [middle, self.matrix(active, f"{at}ffn_down.weight", f"{at}down")], f"{at}out")

    def build(self) -> Any:
        """The whole graph."""
        shape = self.shape
        inverse = shape.base ** (-numpy.arange(0, shape.head, 2) / shape.head)
        angles = numpy.outer(numpy.arange(CONTEXT), inverse)
        self.constant("cosines", numpy.cos(angles).astype(numpy.float32))
        self.constant("sines", numpy.sin(angles).astype(numpy.float32))
        self.constant("one", numpy.array([1], numpy.int64))
        self.constant("axis", numpy.array([1], numpy.int64))
        counted = self.node("ReduceSum", ["attention_mask", "axis"], "counted", keepdims=0)
        self.node("Cast", [self.node("Sub", [counted, "one"], "before")], "lengths", to=INT32)
        self.constant("second", numpy.array(1, numpy.int64))
        size = self.node("Shape", ["attention_mask"], "mask_shape")
        self.node("Cast", [self.node("Gather", [size, "second"], "mask_length")], "total", to=INT32)
        table = self.constant("embeddings", _floats(self.tensors["token_embd.weight"]))
        state = self.node("Gather", [table, "input_ids"], "embedded")
        for number in range(shape.layers):
            state = self.layer(number, state)
        for name, value in (("last", -1), ("end", 2**62)):
            self.constant(name, numpy.array([value], numpy.int64))
        state = self.node("Slice", [state, "last", "end", "axis"], "last_state")
        state = self.norm(state, "output_norm.weight")
        if "output.weight" in self.tensors:
            self.matrix(state, "output.weight", "logits")
        elif self.floats:  # the table of embeddings itself: no second copy
            flat = self.node("Squeeze", [state, "axis"], "flat_state")
            self.node("Unsqueeze", [self.node("Gemm", [flat, table], "flat_logits", transB=1), "axis"], "logits")
        else:
            self.matrix(state, "token_embd.weight", "logits")
        caches = [f"{number}.{part}" for number in range(shape.layers) for part in ("key", "value")]
        past = ["batch_size", shape.kv_heads, "past_sequence_length", shape.head]
        present = ["batch_size", shape.kv_heads, "total_sequence_length", shape.head]
        value = helper.make_tensor_value_info
        inputs = [
            value("input_ids", INT64, ["batch_size", "sequence_length"]),
            value("attention_mask", INT64, ["batch_size", "total_sequence_length"]),
            *(value(f"past_key_values.{name}", FLOAT, past) for name in caches),
        ]
        outputs = [
            value("logits", FLOAT, ["batch_size", 1, shape.vocabulary]),
            *(value(f"present.{name}", FLOAT, present) for name in caches),
        ]
        graph = helper.make_graph(self.nodes, "llama", inputs, outputs, self.weights)
        domains = [helper.make_opsetid("", 17), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=domains, ir_version=9)


def _floats(tensor: ReaderTensor) -> numpy.ndarray:
    return dequantize(tensor.data, tensor.tensor_type).astype(numpy.float32)


def _scales(blocks: numpy.ndarray, at: int) -> numpy.ndarray:
    return blocks[:, at : at + 2].copy().view(numpy.float16).astype(numpy.float32)


def _nibbles(blocks: numpy.ndarray) -> numpy.ndarray:
    """GGUF puts the second half of a block into the high nibbles, ONNX every second value."""
    values = numpy.concatenate([blocks & 15, blocks >> 4], axis=1)
    packed: numpy.ndarray = values[:, 0::2] | values[:, 1::2] << 4
    return packed


def _q4_0(data: numpy.ndarray) -> tuple[int, numpy.ndarray, numpy.ndarray, numpy.ndarray | None]:
    blocks = data.reshape(-1, 18)
    return 4, _nibbles(blocks[:, 2:]), _scales(blocks, 0), None  # without offsets they are 8, as in Q4_0


def _q4_1(data: numpy.ndarray) -> tuple[int, numpy.ndarray, numpy.ndarray, numpy.ndarray | None]:
    blocks = data.reshape(-1, 20)
    scales, least = _scales(blocks, 0), _scales(blocks, 2)
    flat = scales == 0  # all values of the block are alike
    scales = numpy.where(flat, numpy.float32(1e-30), scales)
    return 4, _nibbles(blocks[:, 4:]), scales, -least / scales


def _q8_0(data: numpy.ndarray) -> tuple[int, numpy.ndarray, numpy.ndarray, numpy.ndarray | None]:
    blocks = data.reshape(-1, 34)
    return 8, blocks[:, 2:] ^ 128, _scales(blocks, 0), None  # without offsets they are 128


_UNPACK = {"Q4_0": _q4_0, "Q4_1": _q4_1, "Q8_0": _q8_0}


def convert(source: Path, folder: Path, floats: bool) -> Path:
    """Writes the model; its folder."""
    reader = GGUFReader(source)

    def field(name: str) -> Any:
        return reader.fields[f"llama.{name}"].contents()

    heads, width = int(field("attention.head_count")), int(field("embedding_length"))
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    shape = Shape(
        layers=int(field("block_count")),
        width=width,
        heads=heads,
        kv_heads=int(field("attention.head_count_kv")),
        head=width // heads,
        vocabulary=int(tensors["token_embd.weight"].shape[1]),
        epsilon=float(field("attention.layer_norm_rms_epsilon")),
        base=float(field("rope.freq_base")),
    )
    target = folder / source.stem
    (target / "onnx").mkdir(parents=True, exist_ok=True)
    save_model(Graph(tensors, shape, floats).build(), target / "onnx" / "model.onnx")
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head,
        "vocab_size": shape.vocabulary,
        "max_position_embeddings": CONTEXT,
    }
    (target / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (target / "generation_config.json").write_text("{}\n")
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--blocks", action="store_true", help="keep the matrices quantised")
    options = parser.parse_args()
    print(convert(options.source, options.folder, not options.blocks))


if __name__ == "__main__":
    main()
