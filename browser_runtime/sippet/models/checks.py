"""Whether a sound GGUF file is a model that can be run, and whether several files are one model."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ..errors import UnsupportedModel
from .header import GgufHeader, invalid

MAX_LAYERS = 512  # LLAMA_MAX_LAYERS
MAX_SHARDS = 0xFFFF  # llama.cpp writes split.count in 16 bits


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
        InvalidModel: ``details["reason"]`` is ``shard_missing``, ``shard_order``, ``corrupt`` or ``absurd_header``.
    """
    first = headers[0]
    count = first.split_count
    if count > MAX_SHARDS:
        raise invalid("absurd_header", f"split.count is {count}; the most is {MAX_SHARDS}.")
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
