"""Conversations that outlive their engine, on native llama.cpp. The same runs in a tab in tests_browser."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from adapters import adapter
from llama_server import TINY
from scripted_engine import MODEL, ScriptedEngine, answer, engines
from sippet import InvalidOption, LocalModel, SippClient, TextResult, UnsupportedOperation

NAME = [{"role": "user", "content": "My name is Tom."}]
ASK = {"role": "user", "content": "What is my name?"}
RUNTIME = {"n_threads": 1, "n_parallel": 2, "n_ctx": 512}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SIPPET_CACHE", str(tmp_path))
    return tmp_path


def saved(cache: Path) -> list[Path]:
    return [path for path in cache.rglob("contexts/*/*") if path.is_file()]


async def begin(client: SippClient, key: str = "tom") -> TextResult:
    return await client.chat(NAME, context_key=key, temperature=0, max_tokens=20)


async def go_on(client: SippClient, first: TextResult, key: str = "tom") -> TextResult:
    talk = [*NAME, {"role": "assistant", "content": first.text}, ASK]
    return await client.chat(talk, context_key=key, temperature=0, max_tokens=20)


def conversation(cache: Path, *, between: Any = lambda: None, key: str = "tom", **changed: Any) -> TextResult:
    """Two turns, each with an engine of its own; the second result. ``changed`` is of the second one's context."""

    async def main() -> TextResult:
        async with SippClient() as client:
            await client.add("it", LocalModel(TINY, runtime={"context": RUNTIME}))
            first = await begin(client)
            assert await client.save_context("tom") == sum(path.stat().st_size for path in saved(cache)) > 1000
        between()
        async with SippClient() as client:
            await client.add("it", LocalModel(TINY, runtime={"context": {**RUNTIME, **changed}}))
            second = await go_on(client, first, key)
            known = first.usage.prompt_tokens + first.usage.completion_tokens - 2
            assert second.usage.cached_tokens == 0 or second.usage.cached_tokens >= known
            return second

    return asyncio.run(main())


def test_a_saved_conversation_goes_on_where_it_was(cache: Path) -> None:
    second = conversation(cache)
    assert second.text == "Your name is Tom."
    assert 0 < second.usage.prompt_tokens - second.usage.cached_tokens < 20, "only what is new is computed"


def test_more_threads_find_it_too(cache: Path) -> None:
    assert conversation(cache, n_threads=2).usage.cached_tokens > 0


@pytest.mark.parametrize("changed", [{"rope_freq_base": 9000.0}, {"cache_type_k": "q8_0"}, {"n_ctx": 1024}])
def test_another_configuration_does_not_find_it(cache: Path, changed: dict[str, Any]) -> None:
    assert conversation(cache, **changed).usage.cached_tokens == 0


def test_another_key_does_not_find_it(cache: Path) -> None:
    assert conversation(cache, key="tim").usage.cached_tokens == 0


def test_a_damaged_one_is_computed_anew_and_deleted(cache: Path) -> None:
    def damage() -> None:
        (path,) = saved(cache)
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)

    second = conversation(cache, between=damage)
    assert (second.text, second.usage.cached_tokens) == ("Your name is Tom.", 0)
    assert saved(cache) == []


def test_a_forgotten_one_is_gone(cache: Path) -> None:
    async def main() -> None:
        async with SippClient() as client:
            await client.add("it", LocalModel(TINY, runtime={"context": RUNTIME}))
            await begin(client)
            await client.save_context("tom")
            assert saved(cache)
            await client.forget_context("tom")
            await client.forget_context("tim")
            assert not saved(cache)

    asyncio.run(main())


def test_it_is_forgotten_with_models_that_are_not_loaded_too(cache: Path) -> None:
    async def main() -> None:
        for size in (512, 1024):
            async with SippClient() as client:
                await client.add("it", LocalModel(TINY, runtime={"context": {**RUNTIME, "n_ctx": size}}))
                for key in ("tom", "tim"):
                    await begin(client, key)
                    await client.save_context(key)
        async with SippClient() as client:
            await client.add("it", LocalModel(TINY, runtime={"context": RUNTIME}))
            assert len(saved(cache)) == 4
            await client.forget_context("tom", endpoint="it")
            assert len(saved(cache)) == 3, "with this model only"
        async with SippClient() as client:
            await client.forget_context("tom")
        assert len(saved(cache)) == 2, "what was kept of the other conversation stays"

    asyncio.run(main())


def test_a_conversation_that_lost_its_slot_comes_back(cache: Path) -> None:
    async def main() -> None:
        async with SippClient() as client:
            await client.add("it", LocalModel(TINY, runtime={"context": {**RUNTIME, "n_parallel": 1}}))
            first = await begin(client)
            await client.save_context("tom")
            await begin(client, "tim")
            assert (await go_on(client, first)).usage.cached_tokens > 0

    asyncio.run(main())


def test_what_is_not_in_memory_can_not_be_saved() -> None:
    async def main() -> None:
        async with SippClient() as client:
            await client.add("it", LocalModel(TINY, runtime={"context": RUNTIME}))
            with pytest.raises(InvalidOption, match="in memory") as caught:
                await client.save_context("tom")
            assert caught.value.option == "key"
            with pytest.raises(InvalidOption):
                await client.forget_context(5)  # type: ignore[arg-type]

    asyncio.run(main())


def test_adapters_and_engines_without_slots_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "adapter.gguf"
    file.write_bytes(adapter())

    async def main() -> None:
        async with SippClient() as client:
            await client.add("it", LocalModel(TINY, lora=[file], runtime={"context": RUNTIME}))
            await begin(client)
            with pytest.raises(UnsupportedOperation, match="save"):
                await client.save_context("tom")
        with engines(ScriptedEngine(lambda body: answer("Hi."))):
            async with SippClient() as client:
                await client.add("it", MODEL)
                await begin(client)
                with pytest.raises(UnsupportedOperation, match="save"):
                    await client.save_context("tom")
                await client.forget_context("tom")

    asyncio.run(main())
