"""A model beyond 2 GiB that says what a tiny one says: layers of zeros, which change nothing, and then the tiny one's,
as wide as those and zeros where they were narrower.

Its file is sparse: zeros take no room on the disk. All of the tiny one's weights lie behind 2 GiB, so that an offset
that is cut to 31 bits changes the text.
"""

from __future__ import annotations

import math
from pathlib import Path

from sippet.models.header import GgufHeader, Tensor

from gguf_builder import U32, T, gguf, tensor_bytes, value  # isort: skip  (hosting makes tests_py importable)

LAYERS, WIDTH = 30, 98_304
"""Layers of zeros, and the width of every layer's feed-forward part: each takes 72 MiB in 16-bit floats."""


def write_large_model(tiny: Path, header: GgufHeader, target: Path) -> None:
    """Write it.

    Args:
        tiny: a model of the architecture ``llama``.
        header: its header.
        target: the file to make.
    """
    data = tiny.read_bytes()
    layers, width = header.hyper("block_count"), header.hyper("feed_forward_length")
    assert isinstance(layers, int)
    keys = {key: data[start + 8 + len(key) : end] for key, (start, end) in header.spans.items()}
    keys["llama.block_count"] = value(U32, LAYERS + layers)
    keys["llama.feed_forward_length"] = value(U32, WIDTH)

    def widened(tensor: Tensor, name: str) -> T:
        return T(name, [WIDTH if dim == width else dim for dim in tensor.dims], tensor.kind)

    first = [tensor for tensor in header.tensors if tensor.name.startswith("blk.0.")]
    zeros = [widened(tensor, f"blk.{layer}.{tensor.name[6:]}") for layer in range(LAYERS) for tensor in first]
    moved = [widened(tensor, _behind(tensor.name)) for tensor in header.tensors]
    with target.open("wb") as file:
        file.write(gguf(keys, [*zeros, *moved], data=False))
        file.seek(sum(map(tensor_bytes, zeros)), 1)  # all of them end at a multiple of the alignment
        for source, tensor in zip(header.tensors, moved, strict=True):
            place, start = file.tell(), header.data_offset + source.offset
            row, wide_row = (
                nbytes // math.prod(dims[1:])
                for nbytes, dims in ((source.nbytes, source.dims), (tensor_bytes(tensor), tensor.dims))
            )
            for number in range(source.nbytes // row):
                file.seek(place + number * wide_row)
                file.write(data[start + number * row : start + (number + 1) * row])
            file.seek(place + tensor_bytes(tensor))
        file.truncate()


def _behind(name: str) -> str:
    """The name of a tensor whose layer comes after those of zeros."""
    if not name.startswith("blk."):
        return name
    _, layer, rest = name.split(".", 2)
    return f"blk.{LAYERS + int(layer)}.{rest}"
