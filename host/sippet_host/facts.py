"""What a GGUF file says about itself, for listings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from sippet.config import ContextConfig
from sippet.errors import SippError, UnsupportedModel
from sippet.models.checks import check_model
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
        NotAModel: one of them isn't sound GGUF, or says of itself what no model is.
        OSError: one of them can't be read.
    """
    headers = [read_file_header(path) for path in shards]
    first = headers[0]
    with _refused(shards[0]):
        memory = _memory(headers)
    return Facts(
        quantization=first.quantization or None,
        license=first.license,
        context=first.context_length,
        parameters=sum(header.parameters for header in headers),
        capabilities=_capabilities(first),
        memory=memory,
    )


@contextmanager
def _refused(path: Path) -> Iterator[None]:
    try:
        yield
    except SippError as error:
        raise NotAModel(f"{path.name}: {error.message}", hint=error.hint) from error


def _memory(headers: Sequence[GgufHeader]) -> int | None:
    """Bytes that the model takes with its default context; ``None`` for what is no model by itself.

    Raises:
        InvalidModel: its hyperparameters are absurd.
    """
    first = headers[0]
    if first.context_length is None:
        return None
    try:
        check_model(first)  # the plan counts on bounds
    except UnsupportedModel:
        return None
    return plan_memory(headers, fitted_context(ContextConfig(), first), limit=memory_limit(wasm=False)).total


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


def read_file_header(path: Path) -> GgufHeader:
    """The header of a file on disk.

    Raises:
        NotAModel: it isn't sound GGUF.
        OSError: it can't be read.
    """
    with path.open("rb") as file, _refused(path):
        reading = read_header(FileSource(file))
        try:
            # The source answers at once, so that the coroutine runs to its end without an event loop.
            reading.send(None)
        except StopIteration as result:
            header: GgufHeader = result.value
            return header
        finally:
            reading.close()
    raise AssertionError("a header reader waited for a file")
