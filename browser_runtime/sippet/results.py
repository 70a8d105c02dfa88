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
class TokenLogprob:
    """One generated token, its log-probability, and those of the likeliest ones in its place.

    Attributes:
        token: its text; part of a character where a character has several tokens.
        logprob: natural logarithm of its probability.
        top: text and log-probability of the likeliest tokens, best first.
        id: its number in the vocabulary, where the endpoint says.
    """

    token: str
    logprob: float
    top: list[tuple[str, float]]
    id: int | None = None


@dataclass(frozen=True)
class TextResult:
    """The outcome of :meth:`SippClient.query` or :meth:`SippClient.chat`.

    Attributes:
        text: the answer, without reasoning and without the stop string.
        finish_reason: ``stop`` (the model or a stop string ended it), ``length`` (``max_tokens`` or the context did),
            ``tool_calls``, ``cancelled``, or ``error`` (a server withheld the rest).
        usage: counts of tokens.
        timings: where the time went.
        endpoint: id of the endpoint that answered.
        tool_calls: OpenAI-shaped calls that the model wants made.
        reasoning: what a reasoning model thought before the answer.
        cancel_reason: what was given to ``cancel``.
        parsed: with ``json_schema``: the answer as a value of that schema; ``None`` where it was cut off.
        logprobs: with ``logprobs``: one entry a generated token.
    """

    text: str
    finish_reason: FinishReason
    usage: Usage
    timings: Timings
    endpoint: str
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    reasoning: str = ""
    cancel_reason: str | None = None
    parsed: Any = None
    logprobs: list[TokenLogprob] = field(default_factory=list)


@dataclass(frozen=True)
class TokenBatch:
    """Text that arrived together. All batches of a run, concatenated, are the result's text."""

    text: str
    reasoning: str = ""
    index: int = 0


@dataclass(frozen=True)
class EmbedResult:
    """The outcome of :meth:`SippClient.embed`.

    Attributes:
        embeddings: one vector for each input, in order.
        dimensions: numbers in a vector.
        pooling: how token vectors became one: ``mean``, ``cls``, ``last``; ``None`` where the endpoint doesn't say.
        normalized: whether each vector has length 1.
        usage: counts of tokens.
        endpoint: id of the endpoint that answered.
    """

    embeddings: list[list[float]]
    dimensions: int
    pooling: str | None
    normalized: bool
    usage: Usage
    endpoint: str

    @property
    def embedding(self) -> list[float]:
        """The first vector: the only one where one text was given."""
        return self.embeddings[0]


@dataclass(frozen=True)
class RankedDocument:
    """A document and how well it answers the query. ``index`` is its place in the list that was given."""

    index: int
    score: float
    document: str


@dataclass(frozen=True)
class RerankResult:
    """The outcome of :meth:`SippClient.rerank`: the best document first. Of scores, only the order counts."""

    ranking: list[RankedDocument]
    usage: Usage
    endpoint: str


@dataclass(frozen=True)
class ToolsResult:
    """The outcome of :meth:`SippClient.run_tools`.

    Attributes:
        text: the last answer's text.
        finish_reason: the last answer's; ``tool_calls`` where the step limit came before an answer.
        messages: the whole conversation, with the calls, what the functions returned, and the last answer.
        steps: each answer of the model.
        usage: tokens of all steps together.
        endpoint: id of the endpoint that answered.
    """

    text: str
    finish_reason: FinishReason
    messages: list[dict[str, Any]]
    steps: list[TextResult]
    usage: Usage
    endpoint: str
