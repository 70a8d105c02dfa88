"""BERT in a few lines of numpy: the reference that the engines' vectors and scores are held against. Devlin et al.,
https://arxiv.org/abs/1810.04805; no code or arithmetic is shared with llama.cpp."""

from __future__ import annotations

import math
import re

import numpy
from encoders import EPSILON, HEADS, Array, Encoder

_erf = numpy.vectorize(math.erf, otypes=[numpy.float32])


def tokens_of(encoder: Encoder, text: str) -> list[int]:
    """The tokens of an English text without accents, by WordPiece: the longest known piece first."""
    known = {piece: number for number, piece in enumerate(encoder.vocabulary)}
    found = []
    for word in re.findall(r"\w+|[^\w\s]", text.lower()):
        rest, mark = word, ""
        while rest:
            size = next(size for size in range(len(rest), 0, -1) if mark + rest[:size] in known)
            found.append(known[mark + rest[:size]])
            rest, mark = rest[size:], "##"
    return found


def vector_of(encoder: Encoder, text: str) -> Array:
    """A text's vector of length 1: the mean of its tokens' vectors, as sentence-transformers has it."""
    mean = _hidden(encoder, [_framed(encoder, text)]).mean(axis=0)
    return numpy.asarray(mean / numpy.linalg.norm(mean))


def score_of(encoder: Encoder, query: str, document: str) -> float:
    """How well a document answers a query: the classifier over the pooled first token."""
    second = _framed(encoder, document)[1:]
    pooled = numpy.tanh(_linear(encoder, "pooler.dense", _hidden(encoder, [_framed(encoder, query), second])[0]))
    return float(_linear(encoder, "classifier", pooled)[0])


def _framed(encoder: Encoder, text: str) -> list[int]:
    first, last = (encoder.vocabulary.index(mark) for mark in ("[CLS]", "[SEP]"))
    return [first, *tokens_of(encoder, text), last]


def _hidden(encoder: Encoder, segments: list[list[int]]) -> Array:
    """The last layer's vectors, one row a token."""
    tensors = encoder.tensors
    tokens = [token for segment in segments for token in segment]
    types = [number for number, segment in enumerate(segments) for _ in segment]
    state = (
        tensors["embeddings.word_embeddings.weight"][tokens]
        + tensors["embeddings.position_embeddings.weight"][: len(tokens)]
        + tensors["embeddings.token_type_embeddings.weight"][types]
    )
    state = _norm(encoder, "embeddings.LayerNorm", state)
    for layer in range(encoder.layers):
        block = f"encoder.layer.{layer}"
        seen = _attention(encoder, f"{block}.attention.self", state)
        seen = _linear(encoder, f"{block}.attention.output.dense", seen)
        state = _norm(encoder, f"{block}.attention.output.LayerNorm", state + seen)
        inner = _linear(encoder, f"{block}.intermediate.dense", state)
        inner = inner * (1 + _erf(inner / math.sqrt(2))) / 2  # GELU
        state = _norm(encoder, f"{block}.output.LayerNorm", state + _linear(encoder, f"{block}.output.dense", inner))
    return state


def _attention(encoder: Encoder, name: str, state: Array) -> Array:
    size = state.shape[1] // HEADS
    query, key, value = (
        _linear(encoder, f"{name}.{part}", state).reshape(-1, HEADS, size).swapaxes(0, 1)
        for part in ("query", "key", "value")
    )
    weights = query @ key.swapaxes(1, 2) / math.sqrt(size)
    weights = numpy.exp(weights - weights.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return numpy.asarray((weights @ value).swapaxes(0, 1).reshape(state.shape))


def _linear(encoder: Encoder, name: str, values: Array) -> Array:
    return numpy.asarray(values @ encoder.tensors[f"{name}.weight"].T + encoder.tensors[f"{name}.bias"])


def _norm(encoder: Encoder, name: str, values: Array) -> Array:
    spread = numpy.sqrt(values.var(axis=-1, keepdims=True) + EPSILON)
    centred = (values - values.mean(axis=-1, keepdims=True)) / spread
    return numpy.asarray(centred * encoder.tensors[f"{name}.weight"] + encoder.tensors[f"{name}.bias"])
