"""Files that go with a model: its image projector, and LoRA adapters."""

from __future__ import annotations

from ..errors import UnsupportedModel
from .header import GgufHeader

POOLING = {1: "mean", 2: "cls", 3: "last", 4: "rank"}
"""``pooling_type`` in a model file, as llama.cpp numbers it."""


def pooling_of(header: GgufHeader) -> str | None:
    """How a model that was made for embedding or reranking pools; ``None`` for any other model."""
    value = header.hyper("pooling_type")
    return POOLING.get(value) if isinstance(value, int) else None


def check_projector(projector: GgufHeader, model: GgufHeader) -> None:
    """Refuse a file that is no image projector, or one of another model.

    Raises:
        UnsupportedModel: ``details["reason"]`` is ``not_a_projector`` or ``projector_mismatch``.
    """
    if projector.architecture != "clip":
        raise UnsupportedModel(
            "The projector's file is not an image projector.",
            hint="Give the model's mmproj file as projector=, and the model itself as source.",
            details={"reason": "not_a_projector", "architecture": projector.architecture},
        )
    made = projector.integer("clip.vision.projection_dim")
    wanted = model.integer(f"{model.architecture}.embedding_length")
    if made is not None and made != wanted:
        raise UnsupportedModel(
            f"The projector makes vectors of {made} numbers, and the model takes {wanted}: they are not a pair.",
            hint="Give the projector that was published with this model.",
            details={"reason": "projector_mismatch", "projector": made, "model": wanted},
        )


def check_adapter(adapter: GgufHeader, model: GgufHeader) -> None:
    """Refuse a file that is no LoRA adapter, or one for another architecture.

    Raises:
        UnsupportedModel: ``details["reason"]`` is ``not_an_adapter`` or ``adapter_mismatch``.
    """
    if adapter.text("general.type") != "adapter" or adapter.text("adapter.type") != "lora":
        raise UnsupportedModel(
            "A file in lora= is not a LoRA adapter.",
            hint="Convert the adapter with llama.cpp's convert_lora_to_gguf.py.",
            details={"reason": "not_an_adapter"},
        )
    if adapter.architecture != model.architecture:
        raise UnsupportedModel(
            f"A LoRA adapter is for {adapter.architecture}, and the model is {model.architecture}.",
            hint="Give an adapter of this very model.",
            details={"reason": "adapter_mismatch"},
        )
