"""Gateways and providers against a real llama.cpp server on this machine."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from llama_server import llama_server
from sippet._remote_fields import Bearer, Header
from sippet.client import SippClient
from sippet.endpoints import Descriptor, Gateway, Provider
from sippet.errors import (
    AuthenticationFailed,
    ContextOverflow,
    InvalidOption,
    RemoteError,
    UnsupportedOperation,
    UnsupportedOption,
)
from sippet.results import TextResult

KEY = "a-key-for-the-tests"
FRANCE = [{"role": "user", "content": "What is the capital of France?"}]
STORY = [{"role": "user", "content": "Tell me a story."}]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with llama_server(api_keys=[KEY]) as url:
        yield url


@asynccontextmanager
async def client_of(descriptor: Descriptor) -> AsyncIterator[SippClient]:
    async with SippClient() as client:
        await client.add("it", descriptor)
        yield client


def gateway(url: str, **options: Any) -> Gateway:
    return Gateway("tiny", url, **{"authentication": Bearer(KEY), "server": "llama.cpp", **options})


def provider(url: str, name: Any, **options: Any) -> Provider:
    return Provider(name, "tiny", **{"api_key": KEY, "base_url": url, **options})


def every_kind(url: str) -> list[Descriptor]:
    return [gateway(url), *(provider(url, name) for name in ("openai", "openai_compatible", "anthropic"))]


def chat(descriptor: Descriptor, messages: Any = FRANCE, **options: Any) -> TextResult:
    async def main() -> TextResult:
        async with client_of(descriptor) as client:
            return await client.chat(messages, **options)

    return asyncio.run(main())


def test_every_kind_of_endpoint_gives_the_same_answer(server: str) -> None:
    for descriptor in every_kind(server):
        result = chat(descriptor, temperature=0, max_tokens=40)
        assert result.text == "The capital of France is Paris."
        assert result.finish_reason == "stop"
        assert (result.usage.prompt_tokens, result.usage.completion_tokens) == (22, 15)


def test_the_limit_of_tokens_gives_length(server: str) -> None:
    for descriptor in every_kind(server):
        result = chat(descriptor, temperature=0, max_tokens=3)
        assert result.finish_reason == "length"
        assert result.usage.completion_tokens == 3


def test_a_stop_text_ends_the_answer_and_is_not_part_of_it(server: str) -> None:
    for descriptor in every_kind(server):
        result = chat(descriptor, temperature=0, stop=" is")
        assert (result.text, result.finish_reason) == ("The capital of France", "stop")


def test_the_stream_is_the_final_text(server: str) -> None:
    async def main(descriptor: Descriptor) -> None:
        async with client_of(descriptor) as client:
            run = client.chat(STORY, emit_tokens=True, max_tokens=60, temperature=0)
            batches = [batch.text async for batch in run.tokens]
            assert "".join(batches) == (await run).text
            body = {"messages": STORY, "max_tokens": 60}
            chunks = [chunk async for chunk in client._endpoints["it"].engine.stream("chat", body)]
            assert len(chunks) > 20  # the server sent the text in pieces, whatever the run made of them

    for descriptor in every_kind(server):
        asyncio.run(main(descriptor))


def test_a_raw_prompt_is_continued(server: str) -> None:
    async def main() -> None:
        async with client_of(gateway(server)) as client:
            prompt = "<|im_start|>user\nWhat is the capital of Italy?<|im_end|>\n<|im_start|>assistant\n"
            result = await client.query(prompt, temperature=0, max_tokens=40)
            assert result.text == "The capital of Italy is Rome."

    asyncio.run(main())


def test_anthropic_takes_no_raw_prompt(server: str) -> None:
    async def main() -> None:
        async with client_of(provider(server, "anthropic")) as client:
            with pytest.raises(UnsupportedOperation):
                client.query("Hello")

    asyncio.run(main())


def test_a_prompt_beyond_the_context_is_a_context_overflow(server: str) -> None:
    for descriptor in every_kind(server):
        with pytest.raises(ContextOverflow):
            chat(descriptor, [{"role": "user", "content": "one " * 3000}])


def test_a_wrong_key_is_refused_and_not_repeated(server: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for descriptor in (
        gateway(server, authentication=Bearer("wrong-key-0815")),
        gateway(server, authentication=Header("X-Api-Key", lambda: "wrong-key-0815")),
        provider(server, "openai", api_key="wrong-key-0815"),
        provider(server, "anthropic", api_key="wrong-key-0815"),
    ):
        with pytest.raises(AuthenticationFailed) as caught:
            chat(descriptor)
        assert "0815" not in f"{caught.value}{caught.value.to_dict()}{descriptor!r}{caplog.text}"


def test_a_callback_gives_the_key_at_each_request(server: str) -> None:
    calls = []

    async def key() -> str:
        calls.append(1)
        return KEY + "\n"

    async def main() -> None:
        async with client_of(gateway(server, authentication=Header("X-Api-Key", key))) as client:
            for _ in range(2):
                assert (await client.chat(FRANCE, max_tokens=3)).usage.completion_tokens == 3

    asyncio.run(main())
    assert len(calls) == 2


def test_a_key_comes_from_the_environment(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    assert chat(provider(server, "anthropic", api_key=None), max_tokens=3).finish_reason == "length"
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    with pytest.raises(AuthenticationFailed, match="ANTHROPIC_API_KEY"):
        chat(provider(server, "anthropic", api_key=None))


def test_cancel_ends_the_computation_and_keeps_the_text(server: str) -> None:
    async def main() -> None:
        async with client_of(gateway(server)) as client:
            run = client.chat(STORY, emit_tokens=True, max_tokens=400, logit_bias={"2": -100})  # 2 ends an answer
            async for _ in run.tokens:
                run.cancel("enough")
                break
            result = await run
            assert (result.finish_reason, result.cancel_reason) == ("cancelled", "enough")
            assert result.text
            assert 0 < result.usage.completion_tokens < 400

    asyncio.run(main())


def test_options_beyond_openai_go_only_to_servers_that_have_them(server: str) -> None:
    assert chat(gateway(server), top_k=1, max_tokens=40).text == "The capital of France is Paris."
    for name in ("top_k", "min_p", "repeat_penalty"):
        with pytest.raises(UnsupportedOption, match=name):
            chat(provider(server, "openai"), **{name: 1})
    with pytest.raises(UnsupportedOption, match="seed"):
        chat(provider(server, "anthropic"), seed=1)


def test_local_only_options_are_refused_by_name() -> None:
    for name, value in {"grammar": 'root ::= "a"', "json_schema": {}}.items():
        for descriptor in every_kind("http://127.0.0.1:9"):
            with pytest.raises(UnsupportedOption, match=name):
                chat(descriptor, **{name: value})


def test_further_options_reach_the_server_but_override_nothing(server: str) -> None:
    schema = {"response_format": {"type": "json_schema", "json_schema": {"schema": {"const": "yes"}}}}
    assert chat(gateway(server), endpoint_options=schema).text == '"yes"'
    for name in ("max_tokens", "temperature", "messages", "stream", "n_predict", "grammar", "json_schema"):
        with pytest.raises(InvalidOption, match=name):
            chat(gateway(server), endpoint_options={name: 1})
    with pytest.raises(UnsupportedOption, match="provider_options"):
        chat(gateway(server), provider_options={"user": "me"})
    with pytest.raises(UnsupportedOption, match="endpoint_options"):
        chat(provider(server, "openai"), endpoint_options={"user": "me"})


def test_the_server_counts_what_came_from_its_cache(server: str) -> None:
    messages = [*FRANCE, {"role": "assistant", "content": "The capital of France is Paris."},
                {"role": "user", "content": "What is the capital of Spain?"}]  # fmt: skip
    for descriptor in every_kind(server):
        chat(descriptor, max_tokens=2)
        assert chat(descriptor, messages, max_tokens=2).usage.cached_tokens > 15


def test_tokenize_detokenize_and_the_template_work_on_llama_server(server: str) -> None:
    async def main() -> None:
        async with client_of(gateway(server)) as client:
            engine = client._endpoints["it"].engine
            tokens = (await engine.call("tokenize", {"content": "Hello there"}))["tokens"]
            assert (await engine.call("detokenize", {"tokens": tokens}))["content"] == "Hello there"
            assert "<|im_start|>user" in (await engine.call("template", {"messages": FRANCE}))["prompt"]
            with pytest.raises(UnsupportedOperation):
                await engine.call("embedding", {"input": ["a"]})

    asyncio.run(main())


def test_an_address_that_is_no_api_is_said_so(server: str) -> None:
    with pytest.raises(RemoteError, match="base_url"):
        chat(gateway(server + "/elsewhere/v1"))


def test_vectors_come_from_every_openai_shaped_server() -> None:
    async def main(url: str) -> None:
        for descriptor in (gateway(url), provider(url, "openai"), provider(url, "openai_compatible")):
            async with client_of(descriptor) as client:
                result = await client.embed(["red circle", "red circle", "Rome"])
                first, same, other = result.embeddings
                assert result.dimensions == 128 and result.usage.prompt_tokens > 0
                assert sum(a * b for a, b in zip(first, same, strict=True)) == pytest.approx(1, abs=1e-4)
                assert sum(a * b for a, b in zip(first, other, strict=True)) < 0.999
        async with client_of(provider(url, "anthropic")) as client:
            with pytest.raises(UnsupportedOperation):
                await client.embed("red circle")

    with llama_server(embedding=True, pooling="MEAN", api_keys=[KEY], n_ctx=512, n_parallel=1) as url:
        asyncio.run(main(url))
