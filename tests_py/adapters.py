"""A LoRA adapter for the tiny model."""

from __future__ import annotations

import random
import struct

from gguf_builder import F32, STRING, T, gguf, value


def adapter(rank: int = 4) -> bytes:
    """A LoRA adapter for the tiny model that moves the first layer's output by a lot."""
    names = ("blk.0.attn_output.weight.lora_a", "blk.0.attn_output.weight.lora_b")
    keys = {
        "general.architecture": value(STRING, "llama"),
        "general.type": value(STRING, "adapter"),
        "adapter.type": value(STRING, "lora"),
        "adapter.lora.alpha": value(F32, float(rank)),
    }
    dims = ((128, rank), (rank, 128))
    head = gguf(keys, [T(name, shape) for name, shape in zip(names, dims, strict=True)], data=False)
    chance = random.Random(5)
    return head + struct.pack(f"<{2 * 128 * rank}f", *(chance.uniform(-1, 1) for _ in range(2 * 128 * rank)))
