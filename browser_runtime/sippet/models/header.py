"""What a GGUF file says about itself, as :mod:`.gguf` reads it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import InvalidModel
from ._ggml import FILE_TYPES, GGML_TYPES


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
