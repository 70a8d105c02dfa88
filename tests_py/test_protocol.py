from __future__ import annotations

import asyncio
import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_engine import HELLO, ScriptedEngine, answer, delta, engines
from sippet import ClientOptions, RuntimeConfig, TextOptions
from sippet.bridge import Bridge, python_tools
from sippet.errors import InvalidOption
from sippet.protocol import METHODS, REPLIES, camel, snake, to_page, to_python

ROOT = Path(__file__).parents[1]


def listed(name: str) -> list[str]:
    script = (ROOT / "static" / "js" / "protocol.mjs").read_text()
    found = re.search(rf"export const {name} = Object\.freeze\(\[(.*?)\]\)", script, re.DOTALL)
    assert found
    return re.findall(r'"(\w+)"', found[1])


def test_both_sides_know_the_same_methods_and_replies() -> None:
    assert tuple(listed("METHODS")) == METHODS
    assert tuple(listed("REPLIES")) == REPLIES


def test_every_method_is_served_and_sent() -> None:
    client = (ROOT / "static" / "js" / "sippet.mjs").read_text()
    for method in METHODS:
        assert hasattr(Bridge, f"_{snake(method)}"), f"the runtime serves {method}"
        if method != "environment":
            assert f'"{method}"' in client, f"the page sends {method}"
    for reply in REPLIES:
        assert f'"{reply}" in message' in client or f"message.{reply}" in client, f"the page reads {reply}"


NAMES = [
    item.name
    for cls in (TextOptions, ClientOptions, RuntimeConfig,
                *(item.default_factory for item in dataclasses.fields(RuntimeConfig)))
    for item in dataclasses.fields(cls)  # type: ignore[arg-type]
]  # fmt: skip


@pytest.mark.parametrize("name", sorted(set(NAMES)))
def test_every_option_has_a_name_in_javascript(name: str) -> None:
    assert snake(camel(name)) == name
    assert re.fullmatch(r"[a-z][A-Za-z0-9]*", camel(name))


@given(st.dictionaries(st.sampled_from(NAMES), st.none() | st.dictionaries(st.text(max_size=4), st.integers())))
def test_values_of_the_user_are_never_renamed(values: dict[str, Any]) -> None:
    kept = {name: value for name, value in values.items() if value is not None}
    assert to_python({camel(name): value for name, value in values.items()}) == kept
    assert to_page({"jsonSchema": values}) == {"jsonSchema": values}


class Page:
    """The page's side of a bridge."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.bridge = Bridge(self.messages.append)
        self._last = 0

    def send(self, method: str, **params: Any) -> int:
        self._last += 1
        self.bridge.receive({"id": self._last, "method": method, "params": params})
        return self._last

    async def ask(self, method: str, **params: Any) -> dict[str, Any]:
        return await self.answer(self.send(method, **params))

    async def answer(self, number: int) -> dict[str, Any]:
        async with asyncio.timeout(5):
            while True:
                for message in self.messages:
                    if message.get("id") == number and ("result" in message or "error" in message):
                        return message
                await asyncio.sleep(0)

    def of(self, number: int, kind: str) -> list[Any]:
        return [message[kind] for message in self.messages if message.get("id") == number and kind in message]


async def opened(page: Page) -> None:
    await page.ask("open")
    reply = await page.ask("add", id="it", descriptor={"source": "model.gguf", "runtime": {"context": {"nCtx": 64}}})
    assert reply["result"]["id"] == "it"


def test_a_page_streams_and_cancels() -> None:
    async def main() -> None:
        page = Page()
        with engines(ScriptedEngine(lambda body: [delta("Hi"), delta(" you"), asyncio.Event().wait()])):
            await opened(page)
            number = page.send("chat", messages=HELLO, options={"emitTokens": True, "maxTokens": 5})
            for _ in range(30):
                await asyncio.sleep(0)
            await page.ask("cancel", request=number, reason="enough")
            result = (await page.answer(number))["result"]
            assert (result["text"], result["finishReason"], result["cancelReason"]) == ("Hi you", "cancelled", "enough")
            assert "".join(batch["text"] for batch in page.of(number, "tokens")) == "Hi you"
            await page.ask("close")

    asyncio.run(main())


@pytest.mark.parametrize(
    ("method", "params", "code", "option"),
    [
        ("chat", {"messages": HELLO, "options": {"maxTokenz": 5}}, "invalid_option", "max_tokenz"),
        ("chat", {"messages": HELLO, "endpoint": "other"}, "endpoint_not_found", None),
        ("chat", {}, "invalid_option", "messages"),
        ("query", {}, "invalid_option", "prompt"),
        ("embed", {"input": 5}, "invalid_option", "input"),
        ("tokenize", {"text": 5}, "invalid_option", "text"),
        ("detokenize", {"tokens": "5"}, "invalid_option", "tokens"),
        ("runTools", {"messages": HELLO}, "invalid_option", "tools"),
        ("runTools", {"messages": HELLO, "python": "def f(:"}, "invalid_option", "python"),
        ("add", {"id": "x", "descriptor": {"kind": "cloud"}}, "invalid_option", "kind"),
        ("add", {"id": "x", "descriptor": {"sauce": "x"}}, "invalid_option", "sauce"),
        ("frobnicate", {}, "usage", None),
    ],
)
def test_errors_cross_with_their_code(method: str, params: dict[str, Any], code: str, option: str | None) -> None:
    async def main() -> None:
        page = Page()
        with engines(ScriptedEngine(lambda body: answer("x"))):
            await opened(page)
            error = (await page.ask(method, **params))["error"]
            assert error["code"] == code
            assert error["details"].get("option") == option
            await page.ask("close")

    asyncio.run(main())


def test_a_load_that_is_cancelled_says_so() -> None:
    async def main() -> None:
        async def never() -> Any:
            await asyncio.Event().wait()

        page = Page()
        with engines(never):
            await page.ask("open")
            number = page.send("add", id="it", descriptor={"source": "model.gguf"})
            for _ in range(5):
                await asyncio.sleep(0)
            page.send("cancel", request=number)
            assert (await page.answer(number))["error"]["code"] == "cancelled"
            await page.ask("close")

    asyncio.run(main())


def call_of(name: str, arguments: str) -> list[dict[str, Any]]:
    call = {"index": 0, "id": "c1", "function": {"name": name, "arguments": arguments}}
    return [{"choices": [{"delta": {"tool_calls": [call]}, "finish_reason": "tool_calls"}]}]


def told(body: Any) -> list[str]:
    return [message["content"] for message in body["messages"] if message["role"] == "tool"]


def test_the_pages_own_functions_are_tools() -> None:
    async def main() -> None:
        page = Page()
        engine = ScriptedEngine(lambda body: answer(*told(body)) if told(body) else call_of("add", '{"a": 2}'))
        with engines(engine):
            await opened(page)
            schema = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
            number = page.send("runTools", messages=HELLO, tools=[schema])
            for _ in range(50):
                await asyncio.sleep(0)
            (call,) = page.of(number, "call")
            assert (call["name"], call["arguments"]) == ("add", {"a": 2})
            await page.ask("callResult", call=call["call"], content=5)
            result = (await page.answer(number))["result"]
            assert (result["text"], result["finishReason"]) == ("5", "stop")
            assert [message["role"] for message in page.of(number, "step")] == ["assistant", "tool", "assistant"]
            await page.ask("close")

    asyncio.run(main())


def test_tools_written_in_python_run_in_the_runtime() -> None:
    async def main() -> None:
        page = Page()
        engine = ScriptedEngine(lambda body: answer(*told(body)) if told(body) else call_of("double", '{"x": 21}'))
        source = "import math\ndef double(x: int) -> int:\n    '''Twice x.'''\n    return _twice(x)\n" \
                 "def _twice(x):\n    return 2 * x\n"  # fmt: skip
        with engines(engine):
            await opened(page)
            assert (await page.ask("runTools", messages=HELLO, python=source))["result"]["text"] == "42"
            await page.ask("close")

    asyncio.run(main())


def test_python_tools_are_the_public_functions() -> None:
    assert [tool.__name__ for tool in python_tools("from math import sqrt\ndef a(): ...\ndef _b(): ...\nc = 5")] == [
        "a"
    ]
    with pytest.raises(InvalidOption, match="ZeroDivisionError"):
        python_tools("1 / 0")
