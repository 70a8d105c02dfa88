"""Streams of a real engine, native llama.cpp: stop texts that are split across tokens, and cancels in between."""

from __future__ import annotations

import asyncio
import random
import threading

from llama_server import TINY
from sippet import LocalModel, SippClient

PROMPTS = ("Tell me a story.", "What is the capital of France?", "My name is Tom.", "What can you do?", "Hello!")
CASES = 500


def ask(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


async def full_texts(client: SippClient) -> dict[str, tuple[str, list[int]]]:
    """What the model says to each prompt, and where its tokens end, which a run's batches don't tell: a slow reader's
    hold several.
    """
    found = {}
    engine = client._endpoints["it"].engine
    assert engine
    for prompt in PROMPTS:
        text, ends, reason = "", [0], None
        async for chunk in engine.stream("chat", {"messages": ask(prompt), "temperature": 0, "max_tokens": 200}):
            for choice in chunk["choices"]:
                text += choice["delta"].get("content") or ""
                ends.append(len(text))
                reason = choice["finish_reason"] or reason
        assert reason == "stop"
        found[prompt] = (text, ends)
    return found


def test_a_stop_text_ends_the_stream_wherever_its_tokens_are_split() -> None:
    async def main() -> None:
        tasks = asyncio.all_tasks()
        chance = random.Random(1)
        split = stopped = cancelled = 0
        async with SippClient() as client:
            runtime = {"context": {"n_threads": 1, "n_parallel": 1}}
            await client.add("it", LocalModel(TINY, runtime=runtime))
            texts = await full_texts(client)
            for case in range(CASES):
                prompt = chance.choice(PROMPTS)
                full, ends = texts[prompt]
                start = chance.randrange(len(full))
                stop = full[start : start + chance.randint(1, 8)]
                ending = chance.choice(("complete", "complete", "never", "cancel"))
                if ending == "never":
                    stop += "§"  # what looked like a stop text and was none is told after all
                where = full.find(stop)
                expected = full if where < 0 else full[:where]
                split += where >= 0 and any(where < end < where + len(stop) for end in ends)
                run = client.chat(ask(prompt), temperature=0, max_tokens=200, emit_tokens=True, stop=stop)
                cancel_at = chance.randrange(5) if ending == "cancel" else None
                streamed = ""
                async for batch in run.tokens:
                    if batch.index == cancel_at:
                        run.cancel("enough")
                    streamed += batch.text
                result = await run
                assert result.text == streamed, (case, prompt, stop)
                if result.finish_reason == "cancelled":
                    assert cancel_at is not None and expected.startswith(streamed), (case, prompt, stop)
                    cancelled += 1
                else:
                    assert streamed == expected, (case, prompt, stop)
                    assert where < 0 or result.finish_reason == "stop"
                    stopped += where >= 0
            endpoint = client._endpoints["it"]
            assert endpoint.scheduler.idle
        assert min(split, stopped, cancelled) > CASES // 20, (split, stopped, cancelled)
        for _ in range(5):
            await asyncio.sleep(0)
        assert asyncio.all_tasks() == tasks, "no task is left over"

    before = threading.active_count()
    asyncio.run(main())
    assert threading.active_count() == before, "no thread is left over"


def test_what_may_become_a_stop_text_is_told_at_the_limit() -> None:
    async def main() -> None:
        async with SippClient() as client:
            await client.add("it", LocalModel(TINY, runtime={"context": {"n_threads": 1}}))
            for limit in range(3, 12):
                whole = await client.chat(ask("Tell me a story."), temperature=0, max_tokens=limit)
                stop = whole.text[-3:] + "§"
                run = client.chat(ask("Tell me a story."), temperature=0, max_tokens=limit, stop=stop, emit_tokens=True)
                streamed = "".join([batch.text async for batch in run.tokens])
                assert streamed == (await run).text == whole.text
                assert (await run).finish_reason == "length"
                assert (await run).usage.completion_tokens == limit

    asyncio.run(main())
