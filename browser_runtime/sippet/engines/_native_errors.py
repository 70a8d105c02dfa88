"""What llama.cpp says when something fails, as Sippet's errors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..errors import (
    ContextOverflow,
    EngineError,
    InvalidModel,
    ModelTooLarge,
    SippError,
    UnsupportedModel,
    UnsupportedOperation,
)
from ._overflow import is_overflow
from ._refused import refused

_MARKS = re.compile(r"^[\d.]+ [A-Z] +(?:srv +|slot +|cmn +)?(?:\w+: +)?")
_MEMORY = ("out of memory", "bad_alloc", "failed to allocate", "unable to allocate", "cannot allocate")
_UNSUPPORTED = ("unknown model architecture", "unsupported", "unknown projector")


def memory_is_out(log: Iterable[str]) -> bool:
    """Whether the log says that memory didn't suffice."""
    return any(sign in line.lower() for line in log for sign in _MEMORY)


def load_error(log: Iterable[str]) -> SippError:
    """Why a load failed.

    Args:
        log: the last lines that the worker wrote.
    """
    log = list(log)
    reason, details = _reason(log), {"log": log}
    if memory_is_out(log):
        return ModelTooLarge(
            f"The model does not fit into this machine's memory: {reason}",
            hint="Take a smaller model or quantisation, or a smaller RuntimeConfig.context.n_ctx.",
            details=details,
        )
    if any(sign in line.lower() for line in log for sign in _UNSUPPORTED):
        return UnsupportedModel(
            f"The engine can't run this model: {reason}", hint="Take another model.", details=details
        )
    return InvalidModel(
        f"The model file can't be loaded: {reason}",
        hint="The file may be damaged: download it again, or take another one.",
        details={"reason": "engine", **details},
    )


def request_error(error: Mapping[str, Any]) -> SippError:
    """An error object of llama-server's, or the worker's."""
    message = str(error.get("message", error))
    kind = error.get("type") or error.get("kind")
    if kind == "exceed_context_size_error" or is_overflow(message):
        return ContextOverflow(message, details={k: error[k] for k in ("n_prompt_tokens", "n_ctx") if k in error})
    if kind == "not_supported_error":
        return UnsupportedOperation(
            f"This model has no such operation: {message}",
            hint="Embedding and reranking need a model for it, loaded with context.embeddings=True.",
        )
    if kind in ("invalid_request_error", "ValueError") or message.startswith("Failed to parse messages"):
        return refused(message)
    return EngineError(f"The engine failed: {message}")


def _reason(log: Sequence[str]) -> str:
    """The last errors of the log, without the log's own marks."""
    errors = [line for line in log if re.match(r"^[\d.]+ E ", line)] or log[-1:]
    told = [_MARKS.sub("", line).strip() for line in errors]
    told = [line for line in told if line and not line.startswith("exiting due to")]
    return "; ".join(dict.fromkeys(told[-3:])) or "no reason was given"
