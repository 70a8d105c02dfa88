"""What a run gives back. All counts are the engine's own counts of tokens; all times are milliseconds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

FinishReason = Literal["stop", "length", "tool_calls", "cancelled", "error"]


@dataclass(frozen=True)
class Usage:
    """Tokens of one run. ``cached_tokens`` of the prompt were taken from the cache instead of being computed."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True)
class Timings:
    """Where the time went, in milliseconds (rates in tokens per second); ``None`` where the endpoint doesn't say."""

    prefill_ms: float | None = None
    time_to_first_token_ms: float | None = None
    decode_ms: float | None = None
    total_ms: float | None = None
    prefill_tokens_per_second: float | None = None
    tokens_per_second: float | None = None


@dataclass(frozen=True)
class TextResult:
    """The outcome of :meth:`SippClient.query` or :meth:`SippClient.chat`."""

    text: str
    finish_reason: FinishReason
    usage: Usage
    timings: Timings
    endpoint: str
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    reasoning: str = ""
    cancel_reason: str | None = None


@dataclass(frozen=True)
class TokenBatch:
    """Text that arrived together. All batches of a run, concatenated, are the result's text."""

    text: str
    reasoning: str = ""
    index: int = 0
