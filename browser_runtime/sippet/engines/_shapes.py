"""What the answers of servers must look like, so that a wrong one is told as the server's fault."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ..errors import RemoteError

Shape = type | Mapping[str, Any] | list[Any]

_LOGPROB: Mapping[str, Shape] = {"token!": str, "logprob!": float}
_PIECE: Mapping[str, Shape] = {
    "content": str,
    "text": str,
    "reasoning_content": str,
    "tool_calls": [{"index": int, "id": str, "function": {"name": str, "arguments": str}}],
}
CHUNK: Shape = {
    "choices": [
        {
            **_PIECE,
            "delta": _PIECE,
            "finish_reason": str,
            "logprobs": {"content": [{**_LOGPROB, "id": int, "top_logprobs": [_LOGPROB]}]},
        }
    ],
    "usage": {"prompt_tokens": float, "completion_tokens": float, "prompt_tokens_details": {"cached_tokens": float}},
    "timings": dict.fromkeys(
        (
            "cache_n", "prompt_n", "predicted_n", "prompt_ms", "predicted_ms", "prompt_per_second",
            "predicted_per_second",
        ),
        float,
    ),
}  # fmt: skip
"""What is read of a chunk, and its types. All of it may be missing or ``null`` but for what has a ``!``."""


def fits(value: Any, shape: Shape) -> bool:
    """Whether a value has a shape. ``float`` stands for any finite number."""
    if value is None:
        return True
    if isinstance(shape, Mapping):
        return isinstance(value, dict) and all(
            fits(value.get(name.rstrip("!")), part) and not (name.endswith("!") and value.get(name[:-1]) is None)
            for name, part in shape.items()
        )
    if isinstance(shape, list):
        return isinstance(value, list) and all(item is not None and fits(item, shape[0]) for item in value)
    if isinstance(value, bool):
        return shape is bool
    return math.isfinite(value) if shape is float and isinstance(value, (int, float)) else isinstance(value, shape)


@contextmanager
def understood() -> Iterator[None]:
    """Around what reads an answer.

    Raises:
        RemoteError: the answer has not the shape of its API.
    """
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise misunderstood() from error


def text_of(value: Any) -> str:
    """A text of an answer.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(value, str):
        raise TypeError("no text")
    return value


def misunderstood(message: str = "The server's answer has not the shape that its API promises.") -> RemoteError:
    """The error for an answer that can't be read."""
    return RemoteError(
        message, hint="Check that base_url is an API of the kind that was named.", details={"reason": "protocol"}
    )
