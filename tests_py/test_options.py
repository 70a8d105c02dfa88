from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sippet import ClientOptions, EmbedOptions, InvalidOption, TextOptions, UnsupportedOption
from sippet._fields import BACKENDS, build, describe
from sippet.capabilities import ENGINES, LIMITS, refuse_unsupported, table
from sippet.options import SamplingOptions, to_body

# One sound value for each request option, other than its default.
SOUND: dict[str, Any] = {
    "max_tokens": 5, "temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.1, "seed": 1, "stop": ["."],
    "repeat_penalty": 1.1, "presence_penalty": 0.5, "frequency_penalty": 0.5, "logit_bias": {"5": -1.0},
    "logprobs": 2, "emit_tokens": True, "grammar": 'root ::= "a"', "json_schema": {"type": "object"},
    "tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "none", "parallel_tool_calls": True,
    "context_key": "a", "media": [b""], "lora": {0: 1.0}, "template_kwargs": {"enable_thinking": False},
    "endpoint_options": {"x": 1}, "provider_options": {"x": 1}, "samplers": ["top_k"], "repeat_last_n": 8,
    "typical_p": 0.9, "top_n_sigma": 1.0, "xtc_probability": 0.5, "xtc_threshold": 0.1, "dynatemp_range": 0.5,
    "dynatemp_exponent": 1.0, "dry_multiplier": 0.8, "dry_base": 1.75, "dry_allowed_length": 2,
    "dry_penalty_last_n": -1, "dry_sequence_breakers": ["\n"], "mirostat": 2, "mirostat_tau": 5.0,
    "mirostat_eta": 0.1, "min_keep": 1, "ignore_eos": True,
}  # fmt: skip
CIRCLE: list[Any] = []
CIRCLE.append(CIRCLE)
NOT_SENT = {"emit_tokens", "context_key", "media", "json_schema"}
"""What the client itself acts on."""


def names(group: type) -> set[str]:
    return {item.name for item in dataclasses.fields(group)}


def test_every_option_is_documented() -> None:
    for group in (TextOptions, EmbedOptions, ClientOptions):
        for item in dataclasses.fields(group):
            assert item.metadata["doc"].endswith("."), f"{group.__name__}.{item.name}"
            assert set(item.metadata["backends"]) <= set(BACKENDS)


def test_an_unknown_option_is_named_with_the_nearest_one() -> None:
    with pytest.raises(InvalidOption) as caught:
        build(TextOptions, {"temprature": 1}, "chat()")
    assert caught.value.option == "temprature"
    assert "'temperature'" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", 0), ("max_tokens", 1.5), ("max_tokens", True), ("max_tokens", "5"), ("temperature", -0.1),
        ("temperature", float("nan")), ("temperature", float("inf")), ("top_p", 1.1), ("top_p", "x"),
        ("seed", -1), ("stop", 5), ("stop", [5]), ("stop", ["a", ""]), ("stop", ""), ("logit_bias", {"a": "b"}),
        ("logit_bias", {5: 1.0}), ("logprobs", 0), ("logprobs", True), ("emit_tokens", 1), ("context_key", ""),
        ("context_key", 7), ("samplers", ["temprature"]), ("samplers", "top_k"), ("tools", {}), ("tool_choice", "any"),
        ("media", b"bytes"), ("lora", [1]), ("mirostat", 3), ("grammar", 1),
        ("max_tokens", 2**31), ("logit_bias", {"5": 1e9}), ("logit_bias", {"5": float("nan")}), ("stop", "\ud800"),
        ("lora", {0: float("inf")}), ("grammar", "\udfff"), ("tools", [{"type": "function"}]), ("tools", [{}]),
        ("tools", [{"type": "function", "function": {"name": 5}}]), ("tools", [{"function": {"name": "\ud800"}}]),
        ("tools", [{"type": "function", "function": {"name": "f", "parameters": []}}]),
        ("endpoint_options", {"a": float("nan")}), ("template_kwargs", {"a": {(1, 2): 3}}),
        ("template_kwargs", {"a": CIRCLE}),
        ("template_kwargs", {"a": object}), ("endpoint_options", {"a": b""}),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(InvalidOption) as caught:
        TextOptions(**{name: value})
    assert caught.value.option == name
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"grammar": "g", "json_schema": {}}, "json_schema"),
        ({"tools": SOUND["tools"], "grammar": "g"}, "grammar"),
        ({"tools": SOUND["tools"], "json_schema": {}}, "json_schema"),
        ({"tool_choice": "required"}, "tool_choice"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        TextOptions(**options)
    assert caught.value.option == named


def test_the_samples_cover_every_option() -> None:
    assert set(SOUND) == names(TextOptions)


@pytest.mark.parametrize("name", sorted(SOUND))
@pytest.mark.parametrize("engine", ENGINES)
def test_an_option_is_sent_or_refused_on_every_engine(engine: str, name: str) -> None:
    backend = ENGINES[engine]
    options = TextOptions(**{name: SOUND[name]})
    refused = dict(table(TextOptions))[name][engine]
    if refused:
        with pytest.raises(UnsupportedOption) as caught:
            refuse_unsupported(options, engine, backend, "chat()")
        assert caught.value.option == name
        return
    refuse_unsupported(options, engine, backend, "chat()")
    body = to_body(options)
    assert bool(body) != (name in NOT_SENT), f"{name} is sent, or the client acts on it"


def test_the_limits_name_engines_and_options_that_exist() -> None:
    from sippet.config import RuntimeConfig

    known = names(TextOptions) | names(EmbedOptions)
    for item in dataclasses.fields(RuntimeConfig):
        known |= names(item.default_factory)  # type: ignore[arg-type]
    for engine, limits in LIMITS.items():
        assert engine in ENGINES
        assert set(limits) <= known


def test_a_default_is_never_refused() -> None:
    for engine, backend in ENGINES.items():
        refuse_unsupported(TextOptions(), engine, backend, "chat()")
        refuse_unsupported(EmbedOptions(), engine, backend, "embed()")


def test_a_request_without_options_asks_for_nothing() -> None:
    assert to_body(TextOptions()) == {}


def test_the_request_wins_over_the_model() -> None:
    body = to_body(TextOptions(temperature=0.5), SamplingOptions(temperature=1.0, top_k=3))
    assert body == {"temperature": 0.5, "top_k": 3}


def test_what_is_empty_asks_for_nothing() -> None:
    assert to_body(TextOptions(tools=[], tool_choice="auto", parallel_tool_calls=True, stop=[])) == {}


def test_a_request_can_turn_off_what_the_model_turns_on() -> None:
    on = SamplingOptions(ignore_eos=True)
    assert to_body(TextOptions(), on) == {"ignore_eos": True}
    assert to_body(TextOptions(ignore_eos=False), on) == {"ignore_eos": False}


@pytest.mark.parametrize(
    "choice", [{}, {"type": "function"}, {"type": "function", "function": {"name": "g"}}, {"function": 5}, "required"]
)
def test_a_choice_that_names_no_tool_is_refused(choice: Any) -> None:
    with pytest.raises(InvalidOption) as caught:
        TextOptions(tools=None if choice == "required" else SOUND["tools"], tool_choice=choice)
    assert caught.value.option == "tool_choice"


def test_keys_of_a_bias_are_texts_as_the_message_says() -> None:
    with pytest.raises(InvalidOption, match="a mapping of a string to a number"):
        TextOptions(logit_bias={5: 1.0})  # type: ignore[dict-item]


def test_logprobs_are_spelt_as_each_operation_does() -> None:
    options = TextOptions(logprobs=3)
    assert to_body(options, chat=True) == {"logprobs": True, "top_logprobs": 3}
    assert to_body(options, chat=False) == {"logprobs": 3}


def test_stop_is_a_list_on_the_wire() -> None:
    assert to_body(TextOptions(stop="a"))["stop"] == ["a"]
    assert to_body(TextOptions(stop=("a", "b")))["stop"] == ["a", "b"]


@given(st.dictionaries(st.sampled_from(sorted(SOUND)), st.one_of(st.none(), st.integers(), st.text(), st.booleans())))
def test_any_value_is_taken_or_refused_by_name(values: dict[str, Any]) -> None:
    try:
        build(TextOptions, values, "chat()")
    except InvalidOption as error:
        assert error.option in SOUND


def test_types_are_described_in_words() -> None:
    hints = TextOptions.__annotations__
    assert hints["max_tokens"] == "int | None"

    @dataclass
    class Sample:
        pass

    assert describe(int | None) == "a whole number or None"
    assert describe(Sample) == "Sample"


def test_module_and_wasm_go_together() -> None:
    with pytest.raises(InvalidOption) as caught:
        ClientOptions(module_url="/a.mjs")
    assert caught.value.option == "wasm_url"
    with pytest.raises(InvalidOption) as caught:
        ClientOptions(wasm_url="/a.wasm")
    assert caught.value.option == "module_url"
