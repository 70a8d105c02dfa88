"""What a GGUF file says about itself, for listings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from sippet.config import ContextConfig
from sippet.errors import InvalidModel
from sippet.models.fitting import fitted_context
from sippet.models.gguf import read_header
from sippet.models.header import GgufHeader
from sippet.models.plan import memory_limit, plan_memory

from .errors import NotAModel

# llama.cpp's LLAMA_POOLING_TYPE_RANK: the model scores pairs of texts.
_POOLING_RANK = 4
PROJECTOR = "projector"


@dataclass(frozen=True)
class Facts:
    """What a listing shows of a model; the fields are those of `ModelEntry`."""

    quantization: str | None
    license: str | None
    context: int | None
    parameters: int | None
    capabilities: tuple[str, ...]
    memory: int | None


def read_facts(shards: Sequence[Path]) -> Facts:
    """Reads the headers of a model's files, in order.

    Raises:
        NotAModel: one of them isn't sound GGUF.
        OSError: one of them can't be read.
    """
    headers = [_read(path) for path in shards]
    first = headers[0]
    return Facts(
        quantization=first.quantization or None,
        license=first.license,
        context=first.context_length,
        parameters=sum(header.parameters for header in headers),
        capabilities=_capabilities(first),
        memory=_memory(headers),
    )


def _memory(headers: Sequence[GgufHeader]) -> int | None:
    """Bytes that the model takes with its default context; ``None`` for what is no model by itself."""
    if headers[0].context_length is None:
        return None
    context = fitted_context(ContextConfig(), headers[0])
    return plan_memory(headers, context, limit=memory_limit(wasm=False)).total


def _capabilities(header: GgufHeader) -> tuple[str, ...]:
    if header.architecture == "clip":
        return (PROJECTOR,)
    pooling = header.hyper("pooling_type")
    if pooling == _POOLING_RANK:
        return ("rerank",)
    if pooling:
        return ("embedding",)
    return ("chat", "completion") if header.chat_template else ("completion",)


class FileSource:
    """A file as the header reader wants its bytes. Its coroutines never wait."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = file.seek(0, 2)

    async def read(self, offset: int, length: int) -> bytes:
        self._file.seek(offset)
        return self._file.read(length)


def _read(path: Path) -> GgufHeader:
    with path.open("rb") as file:
        reading = read_header(FileSource(file))
        try:
            # The source answers at once, so that the coroutine runs to its end without an event loop.
            reading.send(None)
        except StopIteration as result:
            header: GgufHeader = result.value
            return header
        except InvalidModel as error:
            raise NotAModel(f"{path.name}: {error.message}", hint=error.hint) from error
        finally:
            reading.close()
    raise AssertionError("a header reader waited for a file")
