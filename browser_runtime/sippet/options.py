"""What a request may ask for: :class:`TextOptions`, checked once, and translated to llama-server's JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ._fields import LOCAL, REMOTE, Backend, check, option
from .errors import UnsupportedOption


@dataclass(frozen=True, kw_only=True)
class TextOptions:
    """Options of :meth:`SippClient.query` and :meth:`SippClient.chat`."""

    max_tokens: int | None = option(
        "Most tokens to generate; by default up to the end of the context.", low=1, unit="tokens"
    )
    temperature: float | None = option("Randomness; 0 always takes the likeliest token.", low=0, high=100)
    top_p: float | None = option("Keep the likeliest tokens whose probabilities add up to this.", low=0, high=1)
    top_k: int | None = option("Keep this many likeliest tokens; 0 keeps all.", low=0)
    min_p: float | None = option("Drop tokens below this share of the likeliest one's probability.", low=0, high=1)
    seed: int | None = option("Makes sampling repeatable.", low=0, high=2**32 - 2)
    stop: str | Sequence[str] | None = option("Text that ends the answer; it is not part of it.")
    repeat_penalty: float | None = option("Penalty on tokens seen lately; 1 is none.", low=0, high=10)
    presence_penalty: float | None = option("Penalty on tokens that occurred at all.", low=-2, high=2)
    frequency_penalty: float | None = option("Penalty on tokens by how often they occurred.", low=-2, high=2)
    logit_bias: Mapping[str, float] | None = option(
        "Added to the logits of these token ids (as strings).", low=-100, high=100
    )
    logprobs: int | None = option("Report this many likeliest tokens at each position.", low=0, high=20)
    emit_tokens: bool = option("Stream: `async for batch in run.tokens`.", default=False)
    grammar: str | None = option("A GBNF grammar that the answer must match.", backends=LOCAL)
    endpoint_options: Mapping[str, Any] | None = option(
        "Further fields of the request, for a gateway; they can't override an option of its own.", backends=REMOTE
    )
    provider_options: Mapping[str, Any] | None = option(
        "Further fields of the request, for a provider; they can't override an option of its own.", backends=REMOTE
    )
    json_schema: Any = option("A JSON schema that the answer must match.", backends=LOCAL)

    def __post_init__(self) -> None:
        check(self)


DEFAULT_SAMPLING: Mapping[str, Any] = {}
"""Nothing: an option that isn't given is the engine's or the model's choice."""

_WIRE = {
    "max_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "repeat_penalty", "presence_penalty",
    "frequency_penalty", "grammar", "logit_bias",
}  # fmt: skip


def to_body(options: TextOptions) -> dict[str, Any]:
    """The options as fields of a llama-server request (the OpenAI-shaped one)."""
    body: dict[str, Any] = {}
    for item in dataclasses.fields(options):
        value = getattr(options, item.name)
        if value is None:
            continue
        if item.name in _WIRE:
            body[item.name] = dict(value) if isinstance(value, Mapping) else value
        elif item.name in ("endpoint_options", "provider_options"):
            body[item.name] = dict(value)
        elif item.name == "stop":
            body["stop"] = [value] if isinstance(value, str) else list(value)
        elif item.name == "json_schema":
            body["json_schema"] = value
    return body


def refuse_unsupported(group: Any, backend: Backend, where: str) -> None:
    """Refuse, by name, a given option that ``backend`` does not honour."""
    for item in dataclasses.fields(group):
        backends = item.metadata.get("backends")
        if backends is None or backend in backends or getattr(group, item.name) == item.default:
            continue
        raise UnsupportedOption(
            item.name,
            f"{where} does not support {item.name}: it works only on {' and '.join(backends)} endpoints.",
            hint="Leave it out, or send the request to another endpoint.",
        )
