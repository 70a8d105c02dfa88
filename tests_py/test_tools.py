from __future__ import annotations

import asyncio
import functools
import itertools
import json
import types
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scripted_engine import HELLO, MODEL, ScriptedEngine, answer, delta, engines
from sippet import EngineInfo, InvalidOption, SippClient, Tool, tool_schema
from sippet._generic_tools import parsed, rewrite
from sippet.schema import mismatch
from sippet.tools import Toolbox

CIRCLE: list[Any] = []
CIRCLE.append(CIRCLE)


@dataclass
class Place:
    city: str


@dataclass
class Tree:
    name: str
    branches: list[Tree]


def weather(place: str, unit: Literal["C", "F"] = "C") -> str:
    """The weather at a place,
    as of now.

    Args:
        place: name of a city,
            with its country
        unit (str): of the temperature

    Returns:
        A sentence.
    """
    return f"21 {unit} in {place}"


async def travel(to: Place, days: int = 1) -> dict[str, Any]:
    """Book a journey."""
    await asyncio.sleep(0)
    return {"to": to, "days": days}


def fails(x: int) -> int:
    raise ValueError(f"no {x}")


def test_a_function_describes_itself() -> None:
    assert tool_schema(weather) == {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather at a place, as of now.",
            "parameters": {
                "type": "object",
                "properties": {
                    "place": {"type": "string", "description": "name of a city, with its country"},
                    "unit": {"enum": ["C", "F"], "description": "of the temperature"},
                },
                "required": ["place"],
                "additionalProperties": False,
            },
        },
    }
    parameters = tool_schema(travel)["function"]["parameters"]
    assert parameters["properties"]["to"]["properties"] == {"city": {"type": "string"}}


class Bookings:
    """Book a journey."""

    def __call__(self, to: Place, days: int) -> str:
        return f"{days} days in {to.city}"


def test_callables_of_other_kinds_describe_themselves_too() -> None:
    short = functools.partial(travel, days=2)
    for function, name, needed in ((Bookings(), "Bookings", ["to", "days"]), (short, "travel", ["to"])):
        described = tool_schema(function)["function"]
        assert (described["name"], described["description"]) == (name, "Book a journey.")
        assert list(described["parameters"]["properties"]) == described["parameters"]["required"] == needed
    box = Toolbox([Bookings(), short])
    assert asyncio.run(box.call("Bookings", '{"to": {"city": "Rome"}, "days": 3}')) == "3 days in Rome"
    assert asyncio.run(box.call("travel", '{"to": {"city": "Rome"}}')) == '{"to": {"city": "Rome"}, "days": 2}'


def test_what_a_model_could_not_call_is_refused() -> None:
    def many(*args: int) -> None: ...

    def typed(x: object) -> None: ...

    def unknown(x: Missing) -> None: ...  # type: ignore[name-defined] # noqa: F821

    wrong = (many, "args"), (typed, "type of x"), (lambda x: x, "name"), (unknown, "Missing"), (range, "signature")
    for function, why in wrong:
        with pytest.raises(InvalidOption, match=why) as caught:
            tool_schema(function)
        assert caught.value.option == "tools"
    for tools in ([], [weather, weather], [5], None, 5, "weather", weather):
        with pytest.raises(InvalidOption):
            Toolbox(tools)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        ("weather", '{"place": "Rome"}', "21 C in Rome"),
        ("travel", '{"to": {"city": "Rome"}, "days": 2}', '{"to": {"city": "Rome"}, "days": 2}'),
        ("weather", "{}", '{"error": "the value lacks place"}'),
        ("weather", '{"place": 5}', '{"error": "place is not of type string"}'),
        ("weather", '{"place": "Rome", "when": 1}', '{"error": "when is not allowed"}'),
        ("weather", "{", '{"error": "the arguments are not JSON"}'),
        ("fails", '{"x": 1}', '{"error": "ValueError: no 1"}'),
        ("nothing", "{}", '{"error": "there is no function nothing; there are weather, travel, fails"}'),
    ],
)
def test_a_call_tells_the_model_what_came_of_it(name: str, arguments: str, told: str) -> None:
    box = Toolbox([weather, travel, fails])
    assert asyncio.run(box.call(name, arguments)) == told


@pytest.mark.parametrize(
    ("result", "told"),
    [
        ({(1, 2): 3}, '{"error": "TypeError: keys must be'),
        (CIRCLE, '{"error": "ValueError: Circular'),
        ("half \ud800", "half ?"),
        (types.MappingProxyType({"a": {1}}), '{"a": [1]}'),
    ],
)
def test_a_result_without_json_is_told_as_an_error(result: Any, told: str) -> None:
    tool = Tool(tool_schema(fails), lambda x: result)
    assert asyncio.run(Toolbox([tool]).call("fails", '{"x": 1}')).startswith(told)


@pytest.mark.parametrize("schema", [None, {}, {"type": "function"}, {"type": "web_search"}, {"function": {"name": ""}}])
def test_a_tool_without_a_function_is_refused(schema: Any) -> None:
    with pytest.raises(InvalidOption, match="function"):
        Tool(schema, fails)
    with pytest.raises(InvalidOption, match="call"):
        Tool(tool_schema(fails), None)  # type: ignore[arg-type]


def test_a_call_that_was_broken_once_is_told_as_it_was() -> None:
    call = {"id": "a", "type": "function", "function": {"name": "weather", "arguments": '{"place": '}}
    messages = [*HELLO, {"role": "assistant", "content": "", "tool_calls": [call]}]
    messages.append({"role": "tool", "tool_call_id": "a", "content": [{"type": "text", "text": "broken"}]})
    _, told, result = rewrite({"messages": messages, "tools": [tool_schema(weather)]})["messages"][1:]
    assert json.loads(told["content"]) == {"tool_call": {"name": "weather", "arguments": '{"place": '}}
    assert result["content"] == "The function returned: broken"


def test_a_tool_with_a_schema_of_its_own() -> None:
    schema = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    assert (
        asyncio.run(Toolbox([Tool(schema, lambda **given: sorted(given))]).call("f", '{"b": 1, "a": 2}'))
        == '["a", "b"]'
    )


def calls(*requests: tuple[str, str], identity: str = "c") -> list[dict[str, Any]]:
    parts = [
        {"index": i, "id": identity and f"{identity}{i}", "function": {"name": name, "arguments": arguments}}
        for i, (name, arguments) in enumerate(requests)
    ]
    return [{"choices": [{"delta": {"tool_calls": parts}, "finish_reason": "tool_calls"}]}]


def templated(template: str) -> EngineInfo:
    return EngineInfo("wasm", "cpu", engine="wllama", metadata={"tokenizer.chat_template": template})


GENERIC = templated("none")
"""A model whose chat template knows no tools."""


def loop(script: Any, template: str = "has tools", **options: Any) -> tuple[Any, ScriptedEngine]:
    engine = ScriptedEngine(script, templated(template))

    async def main() -> Any:
        with engines(engine):
            async with SippClient() as client:
                await client.add("it", MODEL)
                return await client.run_tools(HELLO, [weather, travel], **options)

    return asyncio.run(main()), engine


def results(body: Any) -> list[str]:
    return [message["content"] for message in body["messages"] if message["role"] == "tool"]


def test_the_loop_calls_and_answers() -> None:
    def script(body: Any) -> Any:
        if results(body):
            return answer("It is ", *results(body))
        return calls(("weather", '{"place": "Rome"}'), ("weather", '{"place": "Oslo", "unit": "F"}'))

    steps: list[Any] = []
    tokens: list[str] = []
    result, engine = loop(script, on_step=steps.append, on_tokens=lambda batch: tokens.append(batch.text))
    assert result.text == "It is 21 C in Rome21 F in Oslo" == "".join(tokens)
    assert result.finish_reason == "stop"
    assert [message["role"] for message in result.messages] == ["user", "assistant", "tool", "tool", "assistant"]
    assert result.messages[1:] == steps
    assert [message["tool_call_id"] for message in result.messages[2:4]] == ["c0", "c1"]
    assert len(result.steps) == 2
    assert result.usage.completion_tokens == sum(step.usage.completion_tokens for step in result.steps)
    assert [tool["function"]["name"] for tool in engine.bodies[0]["tools"]] == ["weather", "travel"]


def test_the_loop_ends_at_its_limit_with_the_calls_unanswered() -> None:
    result, engine = loop(lambda body: calls(("weather", '{"place": "Rome"}')), max_steps=3)
    assert len(engine.bodies) == 3
    assert result.finish_reason == "tool_calls"
    assert result.messages[-1]["tool_calls"]


def test_a_call_without_an_id_gets_one() -> None:
    result, _ = loop(
        lambda body: answer("done") if results(body) else calls(("weather", '{"place": "a"}'), identity="")
    )
    assert result.messages[1]["tool_calls"][0]["id"] == result.messages[2]["tool_call_id"] != ""


def test_a_cancelled_loop_stops_the_engine() -> None:
    async def main() -> None:
        engine = ScriptedEngine(lambda body: [asyncio.Event().wait()])
        with engines(engine):
            async with SippClient() as client:
                await client.add("it", MODEL)
                task = asyncio.ensure_future(client.run_tools(HELLO, [weather]))
                for _ in range(10):
                    await asyncio.sleep(0)
                assert engine.running
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert not engine.running

    asyncio.run(main())


@pytest.mark.parametrize("options", [{"max_steps": 0}, {"max_steps": True}, {"emit_tokens": True}, {"bogus": 1}])
def test_a_wrong_option_of_the_loop_is_named(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption) as caught:
        loop(lambda body: answer("x"), **options)
    assert caught.value.option in options


def test_a_template_without_tools_gets_them_in_words() -> None:
    def script(body: Any) -> Any:
        assert "tools" not in body
        if any("returned" in message["content"] for message in body["messages"]):
            return answer('{"response":', ' "It is warm."}')
        return answer('{"tool_call": {"name": "weather", ', '"arguments": {"place": "Rome"}}}')

    tokens: list[str] = []
    result, engine = loop(script, template="none", on_tokens=lambda batch: tokens.append(batch.text))
    assert result.text == "It is warm." == "".join(tokens)
    first, second = engine.bodies
    assert "weather" in first["messages"][0]["content"] and first["messages"][0]["role"] == "system"
    assert len(first["json_schema"]["anyOf"]) == 2
    assert json.loads(second["messages"][2]["content"])["tool_call"]["name"] == "weather"
    assert second["messages"][3] == {"role": "user", "content": "weather returned: 21 C in Rome"}


def test_a_forced_call_is_constrained_to_be_one() -> None:
    tools = [tool_schema(weather), tool_schema(travel)]
    body = {"messages": [{"role": "system", "content": "Be kind."}, *HELLO], "tools": tools, "max_tokens": 5}
    forced = rewrite({**body, "tool_choice": "required"})
    assert list(forced["json_schema"]["properties"]) == ["tool_call"]
    assert forced["messages"][0]["content"].startswith("Be kind.\n\n")
    assert forced["max_tokens"] == 5
    named = rewrite({**body, "tool_choice": {"type": "function", "function": {"name": "travel"}}})
    assert named["json_schema"]["properties"]["tool_call"]["properties"]["name"] == {"const": "travel"}
    declined = rewrite({**body, "tool_choice": "none"})
    assert "json_schema" not in declined and len(declined["messages"]) == 2


def test_a_template_without_tools_gets_several_calls_at_once_where_they_are_allowed() -> None:
    wanted = [
        {"name": "weather", "arguments": {"place": "Rome"}},
        {"name": "travel", "arguments": {"to": {"city": "A"}}},
    ]

    def script(body: Any) -> Any:
        if any("returned" in message["content"] for message in body["messages"]):
            return answer('{"response": "It is warm."}')
        return answer(json.dumps({"tool_calls": wanted}))

    result, engine = loop(script, template="none", parallel_tool_calls=True)
    assert result.text == "It is warm."
    first, second = engine.bodies
    assert "parallel_tool_calls" not in first
    (several, _) = first["json_schema"]["anyOf"]
    assert mismatch({"tool_calls": wanted}, several) is None
    assert mismatch({"tool_calls": []}, several)
    assert json.loads(second["messages"][2]["content"]) == {"tool_calls": wanted}
    assert [message["content"].split()[0] for message in second["messages"][3:]] == ["weather", "travel"]


@pytest.mark.parametrize("allowed", [False, None])
def test_a_template_without_tools_gets_one_call_at_a_time_otherwise(allowed: bool | None) -> None:
    body = {"messages": HELLO, "tools": [tool_schema(weather)], "parallel_tool_calls": allowed}
    one, _ = rewrite(body)["json_schema"]["anyOf"]
    assert list(one["properties"]) == ["tool_call"]


def test_a_parameter_that_contains_itself_is_described_and_built() -> None:
    def plant(tree: Tree, copies: int = 1) -> str:
        """Plant a tree."""
        return f"{copies} x {tree.name} with {tree.branches[0].name}"

    tree = {"name": "oak", "branches": [{"name": "twig", "branches": []}]}
    schema = tool_schema(plant)
    assert mismatch({"tree": tree}, schema["function"]["parameters"]) is None
    assert asyncio.run(Toolbox([plant]).call("plant", json.dumps({"tree": tree}))) == "1 x oak with twig"
    wrong = {"tree": {**tree, "branches": [{}]}}
    told = asyncio.run(Toolbox([plant]).call("plant", json.dumps(wrong)))
    assert told == '{"error": "tree.branches[0] lacks name"}'
    # Told in words, the references still find their definitions.
    body = {"messages": HELLO, "tools": [schema, tool_schema(weather)]}
    rewritten = rewrite(body)["json_schema"]
    call = {"name": "plant", "arguments": {"tree": tree}}
    assert mismatch({"tool_call": call}, rewritten) is None
    assert mismatch({"tool_call": {**call, "arguments": wrong}}, rewritten)


def cut(text: str, places: list[int]) -> list[str]:
    """The text in pieces."""
    ends = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    return [text[a:b] for a, b in itertools.pairwise(ends)]


def said_in_words(pieces: list[str], finish: str = "stop") -> tuple[str, str]:
    """The text and the end of an answer that a model wrote in the JSON of generic tools."""

    async def main() -> tuple[str, str]:
        async def written() -> AsyncGenerator[dict[str, Any], None]:
            for chunk in answer(*pieces, finish=finish):
                yield chunk

        found = [chunk["choices"][0] async for chunk in parsed(written()) if chunk["choices"]]
        return "".join(choice["delta"]["content"] for choice in found), found[-1]["finish_reason"]

    return asyncio.run(main())


@given(
    text=st.text(st.characters() | st.sampled_from('\n\t"\\/u🙂é\ud83d\ude00')),
    ascii=st.booleans(),
    spaces=st.sampled_from(["", " ", "\n  "]),
    places=st.lists(st.integers(0, 999)),
)
@example(text="\ud83d🙂", ascii=True, spaces="", places=[*range(60)])
def test_a_text_is_read_out_of_its_json_however_that_is_cut(
    text: str, ascii: bool, spaces: str, places: list[int]
) -> None:
    encoded = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # what can be told of it
    written = json.dumps(text if ascii else encoded, ensure_ascii=ascii)
    whole = f'{{{spaces}"response"{spaces}:{spaces}{written}{spaces}}}'
    assert said_in_words(cut(whole, places)) == (encoded, "stop")
    for end in places[:3]:
        told, reason = said_in_words(cut(whole[: end % len(whole)], places), "length")
        assert encoded.startswith(told.rstrip("\ufffd") if ascii else told)
        assert reason == "length"


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ('{"respon', ""),
        ('{"response": "He said \\"', 'He said "'),
        ('{"response": "a \\', "a "),
        ('{"response": "a \\ud83d\\ude0', "a "),
        ('{"response": "\\ud83d\\ude00', "\U0001f600"),
        ('{"tool_call": {"name": "weather", "argu', ""),
    ],
)
def test_an_answer_in_words_that_is_cut_off_is_told_without_its_json(written: str, told: str) -> None:
    assert said_in_words(list(written), "length") == (told, "length")
    tokens: list[str] = []
    result, _ = loop(
        lambda body: answer(*written, finish="length"), template="none", on_tokens=lambda b: tokens.append(b.text)
    )
    assert (result.text, "".join(tokens), result.finish_reason) == (told, told, "length")


def test_an_answer_in_words_ends_at_a_stop_text_or_a_cancel() -> None:
    async def main() -> None:
        wrote = ['{"response": "On', "e\\n", "two.", " three"]

        def script(body: Any) -> Any:
            return [*map(delta, wrote), asyncio.get_running_loop().create_future()]

        engine = ScriptedEngine(script, GENERIC)
        with engines(engine):
            async with SippClient() as client:
                await client.add("it", MODEL)
                for stop, told in (("\ntwo", "One"), ('"', None), ("response", None)):
                    run = client.chat(HELLO, tools=[tool_schema(weather)], stop=stop, emit_tokens=True)
                    text = ""
                    async for batch in run.tokens:
                        text += batch.text
                        if text.endswith("three"):
                            run.cancel()
                    result = await run
                    assert result.text == text == (told or "One\ntwo. three")
                    assert result.finish_reason == ("stop" if told else "cancelled")

    asyncio.run(main())


def test_tool_choice_holds_for_the_first_step_only() -> None:
    def script(body: Any) -> Any:
        if "json_schema" in body and "anyOf" not in body["json_schema"]:
            return answer('{"tool_call": {"name": "weather", "arguments": {"place": "Rome"}}}')
        return answer("Warm.")

    result, _ = loop(script, tool_choice="required")
    assert result.text == "Warm."
    assert len(result.steps) == 2
