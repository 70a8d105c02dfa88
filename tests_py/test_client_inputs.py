"""Whatever is given to the client, what it raises is an error of Sippet's own, and the next request is answered."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import reprlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from llama_server import TINY
from sippet import (
    Bearer,
    ChatMessage,
    ClientOptions,
    Gateway,
    Header,
    LocalModel,
    Provider,
    RuntimeConfig,
    SippClient,
    SippError,
    TextOptions,
    Tool,
)
from sippet._remote_fields import RemoteFields

HELLO = [{"role": "user", "content": "Hello"}]
CIRCLE: list[Any] = []
CIRCLE.append(CIRCLE)
DEEP: Any = "x"
for _ in range(5000):
    DEEP = [DEEP]

JUNK: list[Any] = [
    None, True, 0, -1, 10**40, 1.5, math.nan, math.inf, -math.inf, "", " ", "\0", "x", "\ud800", "🙂", b"", b"x",
    bytearray(b"x"), object(), int, print, (), [], {}, {1}, [None], [0], [-1], [10**40], [math.nan], [""], ["\ud800"],
    [b"x"], [object()], [[]], [{}], {"a": 1}, {"\ud800": 1}, {1: 2}, {(1, 2): 3}, {"a": math.nan}, {"a": object()},
    {"a": CIRCLE}, CIRCLE, DEEP, ["x"] * 20_000, [0] * 20_000, range(3), iter([1]), ChatMessage("user", "x"),
    Exception("x"),
]  # fmt: skip


def nested(*wraps: Callable[[Any], Any]) -> Iterator[Any]:
    """The junk in each of these wrappings."""
    return (wrap(item) for wrap in wraps for item in JUNK)


def function(**fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", **fields}}


def user(content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


MESSAGES = [
    *JUNK,
    *nested(
        lambda x: [x],
        user,
        lambda x: user([x]),
        lambda x: user([{"type": x}]),
        lambda x: user([{"type": "text", "text": x}]),
        lambda x: user([{"type": "image", "image": x}]),
        lambda x: user([{"type": "image_url", "image_url": x}]),
        lambda x: user([{"type": "image_url", "image_url": {"url": x}}]),
        lambda x: [{"role": x, "content": "x"}],
        lambda x: [{**HELLO[0], "name": x}],
        lambda x: [{**HELLO[0], "more": x}],
        lambda x: [*HELLO, {"role": "assistant", "tool_calls": x}],
        lambda x: [*HELLO, {"role": "assistant", "tool_calls": [x]}],
        lambda x: [*HELLO, {"role": "assistant", "tool_calls": [{"id": x, **function(arguments="{}")}]}],
        lambda x: [*HELLO, {"role": "assistant", "tool_calls": [function(arguments=x)]}],
        lambda x: [*HELLO, {"role": "tool", "tool_call_id": x, "content": "x"}],
        lambda x: [ChatMessage(x, x)],
    ),
]

CALLS: dict[str, Callable[[SippClient, Any], Any]] = {
    "query": lambda client, x: client.query(x, max_tokens=1),
    "embed": lambda client, x: client.embed(x),
    "embed an item": lambda client, x: client.embed(["x", x]),
    "rerank": lambda client, x: client.rerank(x, ["x"]),
    "rerank documents": lambda client, x: client.rerank("x", x),
    "rerank top_n": lambda client, x: client.rerank("x", ["x"], top_n=x),
    "tokenize": lambda client, x: client.tokenize(x),
    "tokenize add_special": lambda client, x: client.tokenize("x", add_special=x),
    "tokenize parse_special": lambda client, x: client.tokenize("x", parse_special=x),
    "detokenize": lambda client, x: client.detokenize(x),
    "detokenize an item": lambda client, x: client.detokenize([x]),
    "save_context": lambda client, x: client.save_context(x),
    "run_tools": lambda client, x: client.run_tools(HELLO, x, max_tokens=1),
    "run_tools an item": lambda client, x: client.run_tools(HELLO, [x], max_tokens=1),
    "run_tools a Tool": lambda client, x: client.run_tools(HELLO, [Tool(x, x)], max_tokens=1),
    "run_tools max_steps": lambda client, x: client.run_tools(HELLO, [print], max_steps=x),
    "endpoint": lambda client, x: client.chat(HELLO, max_tokens=1, endpoint=x),
    "remove": lambda client, x: client.remove(x),
    "add id": lambda client, x: client.add(x, x),
    "add": lambda client, x: client.add("new", x),
    "LocalModel": lambda client, x: client.add("new", LocalModel(x)),
    "LocalModel of a list": lambda client, x: client.add("new", LocalModel([x])),
    "projector": lambda client, x: client.add("new", LocalModel(TINY, projector=[x])),
    "run_tools on_tokens": lambda client, x: client.run_tools(HELLO, [print], on_tokens=x, on_step=x, max_tokens=1),
    "subscribe": lambda client, x: client.subscribe(x)(),
    "a tool": lambda client, x: client.chat(HELLO, tools=[x], max_tokens=1),
    "a tool's name": lambda client, x: client.chat(HELLO, tools=[function(name=x)], max_tokens=1),
    "a tool's parameters": lambda client, x: client.chat(HELLO, tools=[function(parameters=x)], max_tokens=1),
    "tool_choice": lambda client, x: client.chat(HELLO, tools=[function()], tool_choice=x, max_tokens=1),
    "tool_choice's type": lambda client, x: client.chat(
        HELLO, tools=[function()], tool_choice={"type": x}, max_tokens=1
    ),
    "a tool's type": lambda client, x: client.chat(HELLO, tools=[{**function(), "type": x}], max_tokens=1),
    "tool_choice's name": lambda client, x: client.chat(
        HELLO, tools=[function()], tool_choice=function(name=x), max_tokens=1
    ),
    "a property of json_schema": lambda client, x: client.chat(
        HELLO, json_schema={"type": "object", "properties": {"a": x}}, max_tokens=4
    ),
    "Bearer": lambda client, x: Gateway("x", "https://x", authentication=Bearer(x)),
    "Header": lambda client, x: Gateway("x", "https://x", authentication=Header(x, x)),
    "Provider": lambda client, x: Provider("openai_compatible", x, api_key=x, base_url="https://x"),
    "Gateway": lambda client, x: Gateway(x, "https://x"),
    "base_url": lambda client, x: Gateway("x", x),
    "headers": lambda client, x: Gateway("x", "https://x", headers={"X": x}),
    "a header's name": lambda client, x: Gateway("x", "https://x", headers={x if x.__hash__ else (): "x"}),
    **{
        f"chat {item.name}": lambda client, x, name=item.name: client.chat(HELLO, **{"max_tokens": 1, name: x})
        for item in dataclasses.fields(TextOptions)
    },
    **{
        f"RuntimeConfig.{item.name}": lambda client, x, name=item.name: RuntimeConfig.of({name: x})
        for item in dataclasses.fields(RuntimeConfig)
    },
    **{
        f"ClientOptions.{item.name}": lambda client, x, name=item.name: SippClient(**{name: x})
        for item in dataclasses.fields(ClientOptions)
    },
    **{
        f"Gateway {item.name}": lambda client, x, name=item.name: Gateway("x", "https://x", **{name: x})
        for item in dataclasses.fields(RemoteFields)
    },
}


def raw_exceptions(work: Callable[[SippClient], Awaitable[list[Any]]], **context: Any) -> list[Any]:
    async def main() -> list[Any]:
        async with SippClient() as client:
            runtime = {"context": {"n_threads": 1, "n_ctx": 256, **context}}
            await client.add("it", LocalModel(TINY, runtime=runtime))
            found = await work(client)
            await client.tokenize("It goes on.", endpoint="it")
            return found

    return asyncio.run(main())


async def tried(what: Callable[[], Any], name: str, given: Any) -> list[Any]:
    """The exception, if it is none of Sippet's."""
    try:
        made = what()
        if isinstance(made, Awaitable):
            await made
    except SippError as error:
        assert str(error) and error.to_dict()
    except Exception as error:
        return [(name, reprlib.repr(given), repr(error)[:200])]
    return []


@pytest.mark.parametrize("name", CALLS)
def test_a_wrong_argument_is_refused_by_an_error_of_sippets_own(name: str, tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("SIPPET_CACHE", str(tmp_path))

    async def work(client: SippClient) -> list[Any]:
        return [found for junk in JUNK for found in await tried(lambda x=junk: CALLS[name](client, x), name, junk)]

    embeds = {"embeddings": True, "pooling": "mean"} if name.startswith("embed") else {}
    assert raw_exceptions(work, **embeds) == []


@pytest.mark.parametrize("method", ["chat", "apply_template"])
def test_wrong_messages_are_refused_by_an_error_of_sippets_own(method: str) -> None:
    async def work(client: SippClient) -> list[Any]:
        options = {"max_tokens": 1} if method == "chat" else {}
        wrong = [lambda x=messages: getattr(client, method)(x, **options) for messages in MESSAGES]
        return [
            found
            for call, messages in zip(wrong, MESSAGES, strict=True)
            for found in await tried(call, method, messages)
        ]

    assert raw_exceptions(work) == []
