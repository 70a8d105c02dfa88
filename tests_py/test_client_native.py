"""The client on a real model: the tiny pair in native llama.cpp. The same operations run in tabs in tests_browser."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from adapters import adapter
from llama_server import TINY
from pictures import COLOURS, SHAPES, picture
from sippet import (
    AmbiguousEndpoint,
    ContextOverflow,
    InvalidOption,
    LocalModel,
    ModelNotFound,
    SippClient,
    UnsupportedModel,
    UnsupportedOperation,
    UnsupportedOption,
)

MODELS = Path(__file__).parent / "models"
PROJECTOR = MODELS / "mmproj-tiny-f16.gguf"


def model(**options: Any) -> LocalModel:
    runtime = {"context": {"n_threads": 1, **options.pop("context", {})}, **options.pop("runtime", {})}
    return LocalModel(options.pop("source", TINY), runtime=runtime, **options)


def using(descriptor: LocalModel, work: Callable[[SippClient], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        async with SippClient() as client:
            await client.add("it", descriptor)
            return await work(client)

    return asyncio.run(main())


def ask(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


def test_the_pair_names_shapes_and_colours() -> None:
    async def work(client: SippClient) -> None:
        for colour in COLOURS:
            for shape in SHAPES:
                data = picture(shape, colour)
                said = (
                    await client.chat(ask("What is in the image?"), media=[data], temperature=0, max_tokens=30)
                ).text
                assert shape in said and colour in said, said
        parts = [{"type": "image", "image": data}, {"type": "text", "text": "What color is it?"}]
        assert colour in (await client.chat([{"role": "user", "content": parts}], temperature=0, max_tokens=20)).text
        with pytest.raises(UnsupportedOption, match="chat"):
            client.query("<__media__>What shape is it?", media=[data])
        with pytest.raises(InvalidOption, match="known kind"):
            await client.chat(ask("?"), media=[b"GARBAGE"])
        with pytest.raises(InvalidOption, match="no image at"):
            await client.chat(ask("?"), media=["/nowhere/x.png"])

    using(model(projector=PROJECTOR), work)


def test_a_context_is_not_another_keys_after_a_failure_or_a_take_over() -> None:
    talk = ask("My name is Tom.")

    async def work(client: SippClient) -> None:
        await client.chat(talk, context_key="alice", temperature=0, max_tokens=8)
        with pytest.raises(ContextOverflow):
            await client.chat(ask("word " * 2000), context_key="bob")
        other = await client.chat(talk, context_key="bob", temperature=0, max_tokens=8)
        assert other.usage.cached_tokens == 0
        taking = client.chat(talk, context_key="carol", temperature=0, max_tokens=8)
        with pytest.raises(InvalidOption, match="in memory"):
            await client.save_context("bob")  # by its turn the only slot is carol's
        assert (await taking).finish_reason
        assert (await client.chat(talk, context_key="bob", temperature=0, max_tokens=8)).usage.cached_tokens == 0

    using(model(context={"n_parallel": 1}), work)


def test_cancelling_who_reads_a_runs_text_cancels_the_run() -> None:
    async def work(client: SippClient) -> None:
        run = client.query("One", emit_tokens=True, temperature=0, max_tokens=400, ignore_eos=True)

        async def read() -> None:
            async for _ in run.tokens:
                began.set()

        began = asyncio.Event()
        reader = asyncio.ensure_future(read())
        await began.wait()
        await asyncio.sleep(0)  # it waits for more
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        assert (await run).finish_reason == "cancelled"

    using(model(), work)


def test_what_a_callback_raises_fails_no_request() -> None:
    def broken(news: object) -> None:
        raise ValueError("the program's own fault")

    async def main() -> None:
        heard: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: heard.append(context))
        async with SippClient() as client:
            client.subscribe(broken)
            await client.add("it", model(on_progress=broken))
            assert (await client.chat(ask("Hello"), max_tokens=2)).usage.completion_tokens
        assert heard and all(isinstance(context["exception"], ValueError) for context in heard)

    asyncio.run(main())


def test_a_model_is_not_unloaded_under_a_call() -> None:
    async def work(client: SippClient) -> None:
        for _ in range(3):
            assert await client.tokenize("Hello")

    using(model(runtime={"residency": {"unload_after": 0}}), work)


def test_a_request_that_names_no_endpoint_goes_to_the_only_one_that_can_serve_it() -> None:
    async def work(client: SippClient) -> None:
        await client.add("vectors", model(context={"embeddings": True, "pooling": "mean"}))
        assert (await client.embed("Hello")).endpoint == "vectors"
        assert (await client.chat(ask("Hello"), max_tokens=2)).endpoint == "it"
        await client.add("spare", model())
        with pytest.raises(AmbiguousEndpoint, match="it, spare"):
            client.chat(ask("Hello"))

    using(model(), work)


def test_an_image_can_be_a_path(tmp_path: Path) -> None:
    file = tmp_path / "red.png"
    file.write_bytes(picture("circle", "red"))

    async def work(client: SippClient) -> str:
        return (await client.chat(ask("What color is it?"), media=[file], temperature=0, max_tokens=20)).text

    assert "red" in using(model(projector=PROJECTOR), work)


def test_a_text_model_refuses_media_by_name() -> None:
    async def work(client: SippClient) -> None:
        with pytest.raises(UnsupportedOption) as caught:
            client.chat(ask("?"), media=[picture("circle", "red")])
        assert caught.value.option == "media"

    using(model(), work)


@pytest.mark.parametrize(
    ("projector", "error", "reason"),
    [(TINY, UnsupportedModel, "not_a_projector"), ("/nowhere/mmproj.gguf", ModelNotFound, None)],
)
def test_a_wrong_projector_is_refused_when_it_is_added(projector: Any, error: Any, reason: str | None) -> None:
    async def work(client: SippClient) -> None:
        pass

    with pytest.raises(error) as caught:
        using(model(projector=projector), work)
    assert caught.value.details.get("reason") == reason


def test_a_projector_alone_is_no_model() -> None:
    async def work(client: SippClient) -> None:
        pass

    with pytest.raises(UnsupportedModel, match="projector"):
        using(model(source=PROJECTOR), work)


def test_turn_two_computes_only_what_is_new_and_keys_are_apart() -> None:
    async def work(client: SippClient) -> None:
        talk = ask("My name is Tom.")
        first = await client.chat(talk, context_key="a", temperature=0, max_tokens=20)
        talk += [{"role": "assistant", "content": first.text}, *ask("What is my name?")]
        second = await client.chat(talk, context_key="a", temperature=0, max_tokens=20)
        assert second.text == "Your name is Tom."
        known = first.usage.prompt_tokens + first.usage.completion_tokens - 2
        assert second.usage.cached_tokens >= known
        other = await client.chat(talk, context_key="b", temperature=0, max_tokens=20)
        assert (other.text, other.usage.cached_tokens) == (second.text, 0), "another key sees nothing of it"
        await client.chat(talk, context_key="c", temperature=0, max_tokens=5)
        again = await client.chat(talk, context_key="b", temperature=0, max_tokens=20)
        assert again.usage.cached_tokens > 0
        dropped = await client.chat(talk, context_key="a", temperature=0, max_tokens=20)
        assert dropped.usage.cached_tokens == 0, "a was used longest ago when c came"

    using(model(context={"n_parallel": 2, "n_ctx": 1024}), work)


def test_many_runs_share_the_model() -> None:
    async def work(client: SippClient) -> None:
        runs = [client.chat(ask("What is the capital of France?"), temperature=0).response for _ in range(6)]
        assert {result.text for result in await asyncio.gather(*runs)} == {"The capital of France is Paris."}

    using(model(context={"n_parallel": 3, "n_ctx": 1536}), work)


def test_texts_become_vectors() -> None:
    async def work(client: SippClient) -> None:
        result = await client.embed(["the red circle", "the red circle", "count to ten"])
        assert (len(result.embeddings), result.dimensions, result.pooling) == (3, 128, "mean")
        a, b, c = result.embeddings
        assert math.isclose(math.hypot(*a), 1, rel_tol=1e-6)
        assert math.sumprod(a, b) > 0.9999 > math.sumprod(a, c) if hasattr(math, "sumprod") else a != c
        raw = (await client.embed("the red circle", normalize=False)).embedding
        length = math.hypot(*raw)
        assert length > 2
        assert all(math.isclose(x / length, y, abs_tol=1e-4) for x, y in zip(raw, a, strict=True))
        assert result.usage.prompt_tokens > 3
        assert (await client.chat(ask("Hello"), temperature=0, max_tokens=5)).text, "it can still chat"

    using(model(context={"embeddings": True}), work)


def test_texts_that_are_embedded_together_do_not_mix() -> None:
    """With one KV buffer for each slot, llama.cpp pools the last piece of the longer text alone."""

    async def work(client: SippClient) -> None:
        texts = ["count to ten", "a", "the red circle is in the middle"]
        together = (await client.embed(texts)).embeddings
        for text, vector in zip(texts, together, strict=True):
            alone = (await client.embed(text)).embedding
            assert sum(x * y for x, y in zip(alone, vector, strict=True)) > 0.999

    slots = {"embeddings": True, "n_parallel": 2, "n_ctx": 512}
    using(model(context=slots), work)
    with pytest.raises(InvalidOption) as caught:
        using(model(context={**slots, "kv_unified": False}), work)
    assert caught.value.option == "kv_unified"


def test_a_model_that_was_loaded_for_text_refuses_to_embed() -> None:
    async def work(client: SippClient) -> None:
        with pytest.raises(UnsupportedOperation, match="embeddings"):
            client.embed("x")
        with pytest.raises(UnsupportedOperation, match="reranker"):
            client.rerank("x", ["y"])

    using(model(), work)


def test_tokens_and_templates() -> None:
    async def work(client: SippClient) -> None:
        tokens = await client.tokenize("The capital of France")
        assert len(tokens) > 3 and await client.detokenize(tokens) == "The capital of France"
        assert len(await client.tokenize("<|im_end|>")) == 1
        assert len(await client.tokenize("<|im_end|>", parse_special=False)) > 1
        prompt = await client.apply_template(ask("Hi"))
        assert prompt == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
        answer = await client.query(prompt, temperature=0, max_tokens=20)
        assert answer.text == (await client.chat(ask("Hi"), temperature=0, max_tokens=20)).text

    using(model(), work)


@dataclass
class Person:
    name: str
    age: int


def test_a_structured_answer_is_an_object() -> None:
    async def work(client: SippClient) -> None:
        run = client.chat(ask("Give me JSON for Tom, age 7."), json_schema=Person, temperature=0, max_tokens=60)
        assert (await run).parsed == Person("Tom", 7)
        short = await client.chat(ask("Give me JSON for Tom, age 7."), json_schema=Person, temperature=0, max_tokens=3)
        assert (short.finish_reason, short.parsed) == ("length", None)

    using(model(), work)


@dataclass
class Doll:
    colour: Literal["red", "blue"]
    inside: Doll | None


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("json_schema", {"type": "string", "minLength": 10**9}),
        ("json_schema", {"type": "objekt"}),
        ("tools", [{"type": "function", "function": {"name": "f", "parameters": {"type": "objekt"}}}]),
        ("grammar", "root ::= ("),
    ],
)
def test_what_no_grammar_can_be_made_of_is_refused_by_the_options_name(option: str, value: Any) -> None:
    async def main() -> None:
        async with SippClient() as client:
            await client.add("it", LocalModel(TINY))
            with pytest.raises(InvalidOption) as caught:
                await client.chat([{"role": "user", "content": "Hello"}], max_tokens=2, **{option: value})
            assert caught.value.option == option

    asyncio.run(main())


def test_a_structured_answer_may_contain_itself() -> None:
    async def work(client: SippClient) -> None:
        for seed in range(4):  # at this temperature the model says whatever the schema allows
            options: dict[str, Any] = {"temperature": 5, "top_k": 0, "min_p": 0, "seed": seed, "max_tokens": 200}
            result = await client.chat(ask("A doll."), json_schema=Doll, **options)
            assert result.text.lstrip().startswith("{")
            if result.finish_reason == "stop":
                assert isinstance(result.parsed, Doll)
                assert result.text.count("colour") == repr(result.parsed).count("Doll(")

    using(model(), work)


def test_a_forced_tool_is_called_with_arguments_that_fit() -> None:
    called: list[str] = []

    def set_colour(colour: Literal["red", "blue"]) -> str:
        """Set the colour."""
        called.append(colour)
        return "done"

    async def work(client: SippClient) -> Any:
        return await client.run_tools(
            ask("Make it red."), [set_colour], tool_choice="required", max_steps=2, temperature=0, max_tokens=150
        )

    result = using(model(context={"n_ctx": 2048}), work)
    assert called and set(called) <= {"red", "blue"}
    assert [message["role"] for message in result.messages][:3] == ["user", "assistant", "tool"]


def test_an_installed_model_is_added_by_its_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIPPET_CACHE", str(tmp_path))

    async def main() -> None:
        async with SippClient() as client:
            installed = await client.models.add(TINY, id="mine", projector=PROJECTOR)
            assert [found.id for found in await client.models.list()] == [installed.id] == ["mine"]
            await client.add("it", LocalModel("mine", runtime={"context": {"n_threads": 1}}))
            media = [picture("square", "blue")]
            said = (await client.chat(ask("What is in the image?"), media=media, temperature=0, max_tokens=30)).text
            assert "blue" in said
            with pytest.raises(ModelNotFound, match="nothing-like-this"):
                await client.add("other", LocalModel("nothing-like-this"))

    asyncio.run(main())


def test_an_adapter_is_on_where_a_request_says_so(tmp_path: Path) -> None:
    file = tmp_path / "adapter.gguf"
    file.write_bytes(adapter())

    async def work(client: SippClient) -> list[str]:
        said = []
        for lora in (None, {0: 1.0}, None, {0: 0.0}):
            run = client.chat(ask("Tell me a story."), temperature=0, max_tokens=20, lora=lora)
            said.append((await run).text)
        with pytest.raises(InvalidOption, match="adapter 1"):
            client.chat(ask("Hi"), lora={1: 1.0})
        return said

    plain, moved, plain_again, off = using(model(lora=[file]), work)
    assert plain == plain_again == off != moved


def test_what_is_no_adapter_is_refused_when_it_is_added() -> None:
    async def work(client: SippClient) -> None:
        pass

    with pytest.raises(UnsupportedModel) as caught:
        using(model(lora=[TINY]), work)
    assert caught.value.details["reason"] == "not_an_adapter"
