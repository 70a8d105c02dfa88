"""The models that are measured."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sippet.models.gguf import read_array, read_header
from sippet.models.header import ArrayRef

from ..errors import ConfigurationError
from ..facts import FileSource
from ..models import ModelEntry

_WORD = re.compile(r"[Ġ▁]([a-z]{2,})")
"""A token that is a word with the space before it, as byte-level BPE and as SentencePiece write it."""


@dataclass(frozen=True, eq=False)
class Weights:
    """A model file. Each is equal to itself alone.

    Attributes:
        name: the file's name without its suffix.
        path: where it is.
        sha256: of the file.
        words: what prompts are made of: tokens that are words, by number.
        adds_start: an engine that is given a text puts a token of its own before it.
    """

    name: str
    path: Path
    sha256: str
    words: Mapping[int, str]
    adds_start: bool


def read_weights(model: ModelEntry) -> Weights:
    """What a benchmark needs to know of a model.

    Raises:
        ConfigurationError: it is split into shards, or has no vocabulary of words.
    """
    if len(model.files) != 1:
        raise ConfigurationError(f"{model.id} has several files.", hint="Join its shards: sippet models join.")
    file = model.files[0]
    assert file.sha256 is not None, "the catalogue was read without hashes"
    words, adds_start = asyncio.run(_vocabulary(file.path))
    if not words:
        raise ConfigurationError(f"{model.id} has no words among its tokens.", hint="Give a language model.")
    return Weights(file.path.stem, file.path, file.sha256, words, adds_start)


async def _vocabulary(path: Path) -> tuple[dict[int, str], bool]:
    with path.open("rb") as file:
        source = FileSource(file)
        metadata = (await read_header(source)).metadata
        tokens = metadata.get("tokenizer.ggml.tokens", ())
        if isinstance(tokens, ArrayRef):
            tokens = await read_array(source, tokens)
    pieces = tokens if isinstance(tokens, tuple) else ()
    matches = ((number, _WORD.fullmatch(str(piece))) for number, piece in enumerate(pieces))
    sentence_piece = metadata.get("tokenizer.ggml.model") == "llama"
    adds_start = metadata.get("tokenizer.ggml.add_bos_token", sentence_piece) is True
    return {number: match[1] for number, match in matches if match}, adds_start
