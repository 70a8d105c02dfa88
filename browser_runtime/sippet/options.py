"""What a request may ask for: :class:`TextOptions` and :class:`EmbedOptions`, checked once, and their JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from . import _json
from ._fields import LOCAL, MOST, REMOTE, check, option
from .errors import InvalidOption, UnsupportedOption

Sampler = Literal["dry", "top_k", "typ_p", "top_p", "top_n_sigma", "min_p", "xtc", "temperature", "infill", "penalties"]
ToolChoice = Literal["auto", "none", "required"]


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """How the next token is chosen: for one request, or for a model as ``RuntimeConfig.sampling``."""

    temperature: float | None = option("Randomness; 0 always takes the likeliest token.", low=0, high=100)
    top_p: float | None = option("Keep the likeliest tokens whose probabilities add up to this.", low=0, high=1)
    top_k: int | None = option("Keep this many likeliest tokens; 0 keeps all.", low=0, high=MOST)
    min_p: float | None = option("Drop tokens below this share of the likeliest one's probability.", low=0, high=1)
    seed: int | None = option("Makes sampling repeatable.", low=0, high=2**32 - 2)
    repeat_penalty: float | None = option("Penalty on tokens seen lately; 1 is none.", low=0, high=10)
    presence_penalty: float | None = option("Penalty on tokens that occurred at all.", low=-2, high=2)
    frequency_penalty: float | None = option("Penalty on tokens by how often they occurred.", low=-2, high=2)
    logit_bias: Mapping[str, float] | None = option(
        "Added to the logits of these token ids (as strings).", low=-100, high=100
    )
    samplers: Sequence[Sampler] | None = option(
        "The sampler chain, in order; a sampler that is not in it has no effect.", backends=LOCAL
    )
    repeat_last_n: int | None = option(
        "How many last tokens the penalties look at; -1 is the whole context.",
        low=-1,
        high=MOST,
        unit="tokens",
        backends=LOCAL,
    )
    typical_p: float | None = option("Locally typical sampling; 1 is off.", low=0, high=1, backends=LOCAL)
    top_n_sigma: float | None = option(
        "Keep tokens within this many standard deviations of the best logit.", low=-1, backends=LOCAL
    )
    xtc_probability: float | None = option(
        "How often XTC leaves out the likeliest tokens; 0 is off.", low=0, high=1, backends=LOCAL
    )
    xtc_threshold: float | None = option("Smallest probability that XTC leaves out.", low=0, high=1, backends=LOCAL)
    dynatemp_range: float | None = option(
        "The temperature varies by this much with the entropy; 0 is off.", low=0, backends=LOCAL
    )
    dynatemp_exponent: float | None = option("Shape of the varying temperature.", low=0, backends=LOCAL)
    dry_multiplier: float | None = option("DRY penalty on repeated sequences; 0 is off.", low=0, backends=LOCAL)
    dry_base: float | None = option("DRY: base of the penalty's growth.", low=1, backends=LOCAL)
    dry_allowed_length: int | None = option(
        "DRY: repeats up to this long are free.", low=0, high=MOST, unit="tokens", backends=LOCAL
    )
    dry_penalty_last_n: int | None = option(
        "DRY: how many last tokens it looks at; -1 is the whole context.",
        low=-1,
        high=MOST,
        unit="tokens",
        backends=LOCAL,
    )
    dry_sequence_breakers: Sequence[str] | None = option("DRY: texts that end a sequence.", backends=LOCAL)
    mirostat: int | None = option(
        "Mirostat version, which replaces the chain; 0 is off.", low=0, high=2, backends=LOCAL
    )
    mirostat_tau: float | None = option("Mirostat: target entropy.", low=0, backends=LOCAL)
    mirostat_eta: float | None = option("Mirostat: learning rate.", low=0, backends=LOCAL)
    min_keep: int | None = option("Every sampler keeps at least this many tokens.", low=0, high=MOST, backends=LOCAL)
    ignore_eos: bool | None = option("Go on when the model wants to end.", backends=LOCAL)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class TextOptions(SamplingOptions):
    """Options of :meth:`SippClient.query` and :meth:`SippClient.chat`, besides the sampling ones."""

    max_tokens: int | None = option(
        "Most tokens to generate; by default up to the end of the context.", low=1, high=MOST, unit="tokens"
    )
    stop: str | Sequence[str] | None = option(
        "Text that ends the answer; it is not part of it. What only looked like its start is told; a llama-server "
        "loses it at the limit of tokens."
    )
    logprobs: int | None = option("Report this many likeliest tokens at each position.", low=1, high=20)
    emit_tokens: bool = option("Stream: `async for batch in run.tokens`.", default=False)
    tools: Sequence[Mapping[str, Any]] | None = option("Functions that the model may call, OpenAI-shaped.")
    tool_choice: ToolChoice | Mapping[str, Any] | None = option(
        "Whether a function is called: auto, none, required, or one by name."
    )
    parallel_tool_calls: bool | None = option("Allow several calls in one answer.")
    grammar: str | None = option("A GBNF grammar that the answer must match.", backends=LOCAL)
    json_schema: Any = option(
        "A JSON schema, dataclass or pydantic model that the answer must match; see `result.parsed`.", backends=LOCAL
    )
    context_key: str | None = option("Names a conversation, whose KV cache is kept for its next turn.", backends=LOCAL)
    media: Sequence[Any] | None = option(
        "Images, in order, as bytes, a path, a URL or a Blob: one for each `<__media__>` of a prompt, or added to "
        "the last user message of a chat.",
        backends=LOCAL,
    )
    lora: Mapping[int, float] | None = option(
        "Scale of each LoRA adapter by its place in `LocalModel.lora`; the others are off.", backends=LOCAL
    )
    template_kwargs: Mapping[str, Any] | None = option(
        "Variables for the model's chat template, such as enable_thinking.", backends=LOCAL
    )
    endpoint_options: Mapping[str, Any] | None = option(
        "Further fields of the request, for a gateway; they can't override an option of its own.", backends=REMOTE
    )
    provider_options: Mapping[str, Any] | None = option(
        "Further fields of the request, for a provider; they can't override an option of its own.", backends=REMOTE
    )

    def __post_init__(self) -> None:
        check(self)
        if self.context_key == "":
            raise InvalidOption("context_key", "context_key is empty.", hint="Give the conversation a name.")
        if self.stop is not None and "" in ([self.stop] if isinstance(self.stop, str) else self.stop):
            raise InvalidOption("stop", "stop has an empty text, which would end every answer at once.")
        if self.grammar is not None and self.json_schema is not None:
            raise InvalidOption("json_schema", "grammar and json_schema exclude each other.", hint="Give one of them.")
        if self.tools and (self.grammar is not None or self.json_schema is not None):
            name = "grammar" if self.grammar is not None else "json_schema"
            raise InvalidOption(name, f"tools and {name} exclude each other.", hint="Make two requests.")
        for name in ("tools", "tool_choice", "template_kwargs", "endpoint_options", "provider_options"):
            check_json(name, getattr(self, name))
        names = [check_tool(tool) for tool in self.tools or ()]
        if self.tool_choice not in (None, "none", "auto") and not self.tools:
            raise InvalidOption("tool_choice", "tool_choice asks for a function, but tools is empty.")
        if isinstance(self.tool_choice, Mapping) and is_function(self.tool_choice):
            chosen = self.tool_choice.get("function")
            if not isinstance(chosen, Mapping) or chosen.get("name") not in [name for name in names if name]:
                raise InvalidOption(
                    "tool_choice",
                    "tool_choice names no function of tools.",
                    hint='For example {"type": "function", "function": {"name": "weather"}}.',
                )


@dataclass(frozen=True, kw_only=True)
class EmbedOptions:
    """Options of :meth:`SippClient.embed`."""

    normalize: bool = option("Scale each vector to length 1.", default=True, backends=LOCAL)

    def __post_init__(self) -> None:
        check(self)


def check_json(name: str, value: Any) -> None:
    """Refuse, by the option's name, what JSON can't hold."""
    try:
        _json.plain(value)
    except ValueError as error:
        raise InvalidOption(name, f"{name} must hold JSON values only: {error}.") from error


def check_tool(tool: Mapping[str, Any]) -> str | None:
    """The name of the function that an OpenAI-shaped tool describes; ``None`` where it is a tool of another type, which
    some servers have.

    Raises:
        InvalidOption: it describes none.
    """
    if not is_function(tool):
        return None
    function = tool.get("function")
    function = function if isinstance(function, Mapping) else {}
    name, parameters = function.get("name"), function.get("parameters")
    if not isinstance(name, str) or not name:
        raise InvalidOption(
            "tools",
            "tools has one without a function's name.",
            hint='For example {"type": "function", "function": {"name": "weather", "parameters": {...}}}.',
        )
    if parameters is not None and not isinstance(parameters, Mapping):
        raise InvalidOption("tools", f"tools: the parameters of {name} are no JSON schema of an object.")
    return name


def is_function(tool: Any) -> bool:
    """Whether a tool, or a choice of one, is of the type that everyone has; a choice that is a word is."""
    return not isinstance(tool, Mapping) or tool.get("type", "function") == "function"


def refuse_other_tools(tools: Sequence[Mapping[str, Any]] | None, choice: Any, who: str) -> None:
    """Refuse tools that are no functions, for who has no others.

    Raises:
        UnsupportedOption: names ``tools`` or ``tool_choice``.
    """
    for name, found in (("tools", tools or ()), ("tool_choice", (choice,))):
        if not all(map(is_function, found)):
            raise UnsupportedOption(name, f"{who} takes functions as tools only.", hint="Use the type function.")


def to_body(options: TextOptions, defaults: SamplingOptions | None = None, *, chat: bool = True) -> dict[str, Any]:
    """The options as fields of a llama-server request (OpenAI-shaped, with llama.cpp's extensions).

    Args:
        options: the request's own options.
        defaults: the model's; the request's win.
        chat: whether it is for ``/v1/chat/completions``, which spells ``logprobs`` in another way.
    """
    body = _sampling(defaults) if defaults else {}
    body |= _sampling(options)
    of_tools = ("tools", "tool_choice", "parallel_tool_calls") if options.tools is None or options.tools else ()
    for name in ("max_tokens", "grammar", *of_tools):
        value = getattr(options, name)
        if value is not None:
            body[name] = _json.plain(value)
    if options.stop:
        body["stop"] = [options.stop] if isinstance(options.stop, str) else list(options.stop)
    if options.logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": options.logprobs} if chat else {"logprobs": options.logprobs}
    if options.lora is not None:
        body["lora"] = [{"id": number, "scale": scale} for number, scale in options.lora.items()]
    if options.template_kwargs is not None:
        body["chat_template_kwargs"] = _json.plain(options.template_kwargs)
    for bucket in ("endpoint_options", "provider_options"):
        if getattr(options, bucket) is not None:
            body[bucket] = _json.plain(getattr(options, bucket))
    return body


def _sampling(options: SamplingOptions) -> dict[str, Any]:
    names = (item.name for item in dataclasses.fields(SamplingOptions))
    values = ((name, getattr(options, name)) for name in names)
    return {name: _json.plain(value) for name, value in values if value is not None}
