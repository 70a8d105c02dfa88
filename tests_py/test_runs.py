from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from leftovers import nothing_left
from scripted_engine import HELLO, MODEL, ScriptedEngine, answer, delta, engines
from sippet import Cancelled, EngineCrashed, EngineError, SchemaMismatch, SippClient, SippError, UsageError
from sippet.runs import Run

TEXTS = st.lists(st.text(alphabet="aß語🙂 .\n", max_size=6), max_size=30)


@settings(max_examples=500, deadline=None)
@given(pieces=TEXTS, cancel_at=st.none() | st.integers(0, 40), slow=st.booleans(), seed=st.integers(0, 9))
def test_the_stream_is_the_final_text_whenever_it_is_cancelled(
    pieces: list[str], cancel_at: int | None, slow: bool, seed: int
) -> None:
    async def main() -> None:
        engine = ScriptedEngine(lambda body: answer(*pieces))
        with engines(engine):
            async with SippClient() as client:
                await client.add("it", MODEL)
                run = client.chat(HELLO, emit_tokens=True)
                chance = random.Random(seed)

                async def cancel() -> None:
                    for _ in range(cancel_at or 0):
                        await asyncio.sleep(0)
                    run.cancel("enough")

                canceller = asyncio.ensure_future(cancel()) if cancel_at is not None else None
                streamed, indexes = "", []
                async for batch in run.tokens:
                    assert batch.text
                    streamed += batch.text
                    indexes.append(batch.index)
                    if slow:
                        for _ in range(chance.randrange(5)):
                            await asyncio.sleep(0)
                result = await run
                assert result.text == streamed
                assert indexes == list(range(len(indexes)))
                assert "".join(pieces).startswith(streamed)
                if result.finish_reason == "stop":
                    assert streamed == "".join(pieces)
                    assert result.cancel_reason is None
                else:
                    assert (result.finish_reason, result.cancel_reason) == ("cancelled", "enough")
                assert await run is result, "awaiting again gives the same result"
                if canceller:
                    await canceller
                assert engine.running == []
                assert client._endpoints["it"].scheduler.idle
        await nothing_left()

    asyncio.run(main())


def chat_of(*chunks: Any, **options: Any) -> Any:
    """The result of one chat whose engine plays ``chunks``."""

    async def main() -> Any:
        with engines(ScriptedEngine(lambda body: chunks)):
            async with SippClient() as client:
                await client.add("it", MODEL)
                return await client.chat(HELLO, **options)

    return asyncio.run(main())


def test_a_result_has_the_engines_counts() -> None:
    result = chat_of(
        delta("Hi"),
        delta(finish="length", timings={"prompt_ms": 5.0, "predicted_per_second": 50.0}),
        {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 2,
                                  "prompt_tokens_details": {"cached_tokens": 4}}},
    )  # fmt: skip
    assert result.finish_reason == "length"
    assert (result.usage.prompt_tokens, result.usage.cached_tokens, result.usage.completion_tokens) == (9, 4, 2)
    assert result.usage.total_tokens == 11
    assert (result.timings.prefill_ms, result.timings.tokens_per_second) == (5.0, 50.0)
    assert 0 <= result.timings.time_to_first_token_ms <= result.timings.total_ms


def test_counts_of_a_cancelled_run_come_from_its_last_timings() -> None:
    async def main() -> Any:
        wait = asyncio.Event()
        chunks = [delta("Hi", timings={"prompt_n": 4, "cache_n": 2, "predicted_n": 1}), wait.wait()]
        with engines(ScriptedEngine(lambda body: chunks)):
            async with SippClient() as client:
                await client.add("it", MODEL)
                run = client.chat(HELLO, emit_tokens=True)
                async for _ in run.tokens:
                    run.cancel()
                return await run

    usage = asyncio.run(main()).usage
    assert (usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens) == (6, 2, 1)


def test_timings_are_fractions_where_the_engine_wrote_whole_numbers() -> None:
    whole = {"prompt_ms": 12, "predicted_ms": 30, "prompt_per_second": 500, "predicted_per_second": 90}
    timings = chat_of(*answer("Yes."), {"choices": [], "timings": whole}).timings
    found = (timings.prefill_ms, timings.decode_ms, timings.prefill_tokens_per_second, timings.tokens_per_second)
    assert found == (12.0, 30.0, 500.0, 90.0)
    assert {type(value) for value in found} == {float}


def test_reasoning_is_apart_from_the_text() -> None:
    thought = {"choices": [{"delta": {"reasoning_content": "Hm."}, "finish_reason": None}]}
    result = chat_of(thought, *answer("Yes."))
    assert (result.reasoning, result.text) == ("Hm.", "Yes.")


def test_a_tool_call_is_put_together_from_its_parts() -> None:
    def part(**function: str) -> dict[str, Any]:
        return {"choices": [{"delta": {"tool_calls": [{"index": 0, "id": "a", "function": function}]}}]}

    result = chat_of(part(name="f"), part(arguments='{"x":'), part(arguments=" 1}"), delta(finish="tool_calls"))
    assert result.finish_reason == "tool_calls"
    assert result.tool_calls == [
        {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    ]  # fmt: skip


def test_log_probabilities_are_typed() -> None:
    entry = {"token": "Hi", "id": 5, "logprob": -0.1, "top_logprobs": [{"token": "Hi", "logprob": -0.1}]}
    chunk = {"choices": [{"delta": {"content": "Hi"}, "logprobs": {"content": [entry]}}]}
    (found,) = chat_of(chunk, *answer(), logprobs=1).logprobs
    assert (found.token, found.id, found.logprob, found.top) == ("Hi", 5, -0.1, [("Hi", -0.1)])


def test_an_answer_that_ends_without_a_reason_is_an_error() -> None:
    with pytest.raises(EngineError, match="without saying why"):
        chat_of(delta("Hi"))


def test_a_structured_answer_is_parsed_where_it_is_whole() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    assert chat_of(*answer('{"a": 1}'), json_schema=schema).parsed == {"a": 1}
    assert chat_of(*answer('{"a"', finish="length"), json_schema=schema).parsed is None
    with pytest.raises(SchemaMismatch) as caught:
        chat_of(*answer('{"b": 1}'), json_schema=schema)
    assert caught.value.details["text"] == '{"b": 1}'


def test_tokens_need_emit_tokens() -> None:
    async def main() -> None:
        with engines(ScriptedEngine(lambda body: answer("Hi"))):
            async with SippClient() as client:
                await client.add("it", MODEL)
                run = client.chat(HELLO)
                with pytest.raises(UsageError, match="emit_tokens"):
                    run.tokens  # noqa: B018
                await run.response

    asyncio.run(main())


def test_two_readers_both_get_everything() -> None:
    async def main() -> None:
        with engines(ScriptedEngine(lambda body: answer(*"abcdef"))):
            async with SippClient() as client:
                await client.add("it", MODEL)
                run = client.chat(HELLO, emit_tokens=True)

                async def read() -> str:
                    return "".join([batch.text async for batch in run.tokens])

                assert await asyncio.gather(read(), read()) == ["abcdef", "abcdef"]
                assert await read() == "abcdef", "also after the end"

    asyncio.run(main())


def test_cancelling_the_task_that_awaits_cancels_the_run_and_keeps_its_text() -> None:
    async def main() -> None:
        engine = ScriptedEngine(lambda body: [delta("Hi"), asyncio.Event().wait()])
        with engines(engine):
            async with SippClient() as client:
                await client.add("it", MODEL)
                run = client.chat(HELLO)
                task = asyncio.ensure_future(run.response)  # type: ignore[arg-type]
                for _ in range(20):
                    await asyncio.sleep(0)
                assert engine.running
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                result = await run
                assert (result.text, result.finish_reason) == ("Hi", "cancelled")
                assert engine.running == []
        await nothing_left()

    asyncio.run(main())


def test_a_time_limit_of_the_caller_cancels_the_run() -> None:
    async def main() -> None:
        engine = ScriptedEngine(lambda body: [asyncio.Event().wait()])
        with engines(engine):
            async with SippClient() as client:
                await client.add("it", MODEL)
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.01):
                        await client.chat(HELLO)
                assert engine.running == []

    asyncio.run(main())


def test_cancel_after_the_end_changes_nothing() -> None:
    async def main() -> None:
        with engines(ScriptedEngine(lambda body: answer("Hi"))):
            async with SippClient() as client:
                await client.add("it", MODEL)
                run = client.chat(HELLO)
                before = await run
                run.cancel("late")
                assert await run is before
                assert run.done and run.error is None

    asyncio.run(main())


def test_an_error_reaches_the_reader_and_the_awaiter_and_nobody_else() -> None:
    async def main() -> None:
        with engines(ScriptedEngine(lambda body: [delta("Hi"), EngineCrashed("It ended.")])):
            async with SippClient() as client:
                await client.add("it", MODEL)
                run = client.chat(HELLO, emit_tokens=True)
                streamed = ""
                with pytest.raises(EngineCrashed):
                    async for batch in run.tokens:
                        streamed += batch.text
                assert streamed == "Hi"
                with pytest.raises(EngineCrashed):
                    await run
                assert isinstance(run.error, EngineCrashed)
                client.chat(HELLO)  # fails too, and nobody awaits it: no warning may come of it

    asyncio.run(main())


def test_a_run_without_a_text_raises_when_it_is_cancelled() -> None:
    async def main() -> None:
        async def work() -> int:
            await asyncio.Event().wait()
            return 1

        for steps in (0, 1, 3):
            run = Run(work, endpoint="it")
            for _ in range(steps):
                await asyncio.sleep(0)
            run.cancel("no need")
            with pytest.raises(Cancelled, match="no need"):
                await run
            assert isinstance(run.error, Cancelled)
        await nothing_left()

    asyncio.run(main())


def test_every_failure_of_the_stream_is_a_sipp_error() -> None:
    with pytest.raises(SippError):
        chat_of(EngineError("It failed."))
