from __future__ import annotations

import asyncio
import dataclasses
import types
from contextlib import suppress
from typing import Any

import pytest
import sippet
from leftovers import nothing_left, settled
from scripted_engine import HELLO, MODEL, ScriptedEngine, answer, delta, engines
from sippet import (
    AmbiguousEndpoint,
    ChatMessage,
    ClientClosed,
    EndpointNotFound,
    InvalidModel,
    InvalidOption,
    LocalModel,
    QueueFull,
    SippClient,
    Status,
    UnsupportedOperation,
    UnsupportedOption,
)
from sippet.engines.base import Engine, EngineInfo
from sippet.messages import check_messages

INFO = EngineInfo("wasm", "cpu", engine="wllama", has_chat_template=True, has_vision=False, embeds=False)


def says(*pieces: str, **info: Any) -> ScriptedEngine:
    return ScriptedEngine(lambda body: answer(*pieces), dataclasses.replace(INFO, **info))


def test_the_exported_names_are_those_of_all() -> None:
    public = {
        name
        for name, value in vars(sippet).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert public | {"__version__"} == set(sippet.__all__)
    assert len(sippet.__all__) == len(set(sippet.__all__))


def test_a_client_answers() -> None:
    async def main() -> None:
        engine = says("Hi", " there")
        with engines(engine):
            async with SippClient() as client:
                ref = await client.add("it", MODEL)
                assert (ref.kind, ref.id) == ("local", "it")
                assert (await client.chat(HELLO, endpoint=ref)).text == "Hi there"
                assert (await client.query("Hello", endpoint="it")).text == "Hi there"
            assert engine.closed == 1
        await nothing_left()

    asyncio.run(main())


def test_a_request_names_its_endpoint_or_there_is_only_one() -> None:
    async def main() -> None:
        with engines(says("a"), says("b")):
            async with SippClient() as client:
                with pytest.raises(EndpointNotFound):
                    client.chat(HELLO)
                await client.add("a", MODEL)
                assert (await client.chat(HELLO)).endpoint == "a"
                await client.add("b", MODEL)
                with pytest.raises(AmbiguousEndpoint):
                    client.chat(HELLO)
                with pytest.raises(EndpointNotFound, match="Known endpoints: a, b"):
                    client.chat(HELLO, endpoint="c")
                assert (await client.chat(HELLO, endpoint="b")).text == "b"

    asyncio.run(main())


def test_an_id_used_again_replaces_the_endpoint_when_it_has_drained() -> None:
    async def main() -> None:
        go = asyncio.Event()
        old = ScriptedEngine(lambda body: [delta("old"), go.wait(), delta(finish="stop")], INFO)
        with engines(old, says("new")):
            async with SippClient() as client:
                await client.add("it", MODEL)
                run = client.chat(HELLO)
                await settled()
                adding = asyncio.ensure_future(client.add("it", MODEL))
                await settled()
                assert not old.closed and not adding.done()
                assert (await client.chat(HELLO)).text == "new", "the new one serves while the old one drains"
                go.set()
                await adding
                assert (await run).text == "old"
                assert old.closed == 1
        await nothing_left()

    asyncio.run(main())


def test_a_failed_replacement_leaves_the_endpoint_as_it_was() -> None:
    async def main() -> None:
        with engines(says("a"), InvalidModel("Broken.")):
            async with SippClient() as client:
                await client.add("it", MODEL)
                with pytest.raises(InvalidModel):
                    await client.add("it", MODEL)
                assert (await client.chat(HELLO)).text == "a"

    asyncio.run(main())


def test_of_two_that_are_added_with_one_id_at_once_the_later_one_stays() -> None:
    async def main() -> None:
        go = asyncio.Event()
        first, second = says("first"), says("second")

        async def slow() -> Engine:
            await go.wait()
            return first

        with engines(slow, second):
            async with SippClient() as client:
                adding = [asyncio.ensure_future(client.add("it", MODEL)) for _ in range(2)]
                await settled()
                assert not any(task.done() for task in adding), "only one is in memory at a time"
                go.set()
                await asyncio.gather(*adding)
                assert (await client.chat(HELLO)).text == "second"
                assert first.closed == 1
        await nothing_left()

    asyncio.run(main())


def test_closing_ends_those_that_wait_to_be_added() -> None:
    async def main() -> None:
        async def endless() -> Engine:
            return await asyncio.Event().wait()  # type: ignore[return-value]

        with engines(endless, says("never")):
            client = SippClient()
            adding = [asyncio.ensure_future(client.add("it", MODEL)) for _ in range(2)]
            await settled()
            await client.close()
            for task in adding:
                with pytest.raises(ClientClosed):
                    await task
        await nothing_left()

    asyncio.run(main())


def test_runs_share_the_slots_and_the_rest_wait() -> None:
    async def main() -> None:
        engine = says(*"abcdefgh", n_parallel=3)
        with engines(engine):
            async with SippClient() as client:
                await client.add("it", MODEL)
                results = await asyncio.gather(*(client.chat(HELLO).response for _ in range(10)))
                assert {result.text for result in results} == {"abcdefgh"}
                assert engine.most_together == 3

    asyncio.run(main())


def test_a_full_queue_is_an_error_and_never_a_hang() -> None:
    async def main() -> None:
        go = asyncio.Event()
        with engines(ScriptedEngine(lambda body: [go.wait(), *answer("x")], INFO)):
            async with SippClient() as client:
                await client.add("it", LocalModel("m.gguf", runtime={"scheduler": {"max_queued_requests": 2}}))
                runs = [client.chat(HELLO) for _ in range(4)]
                with pytest.raises(QueueFull):
                    await runs[3]
                go.set()
                assert [(await run).text for run in runs[:3]] == ["x"] * 3

    asyncio.run(main())


def test_a_waiting_run_can_be_cancelled() -> None:
    async def main() -> None:
        go = asyncio.Event()
        engine = ScriptedEngine(lambda body: [go.wait(), *answer("x")], INFO)
        with engines(engine):
            async with SippClient() as client:
                await client.add("it", MODEL)
                first, second, third = (client.chat(HELLO) for _ in range(3))
                await settled()
                second.cancel("no need")
                result = await second
                assert (result.text, result.finish_reason, result.cancel_reason) == ("", "cancelled", "no need")
                go.set()
                assert (await first).text == (await third).text == "x"
                assert len(engine.bodies) == 2
        await nothing_left()

    asyncio.run(main())


@pytest.mark.parametrize("steps", range(12))
def test_close_ends_whatever_is_going_on(steps: int) -> None:
    async def main() -> None:
        old, new = says(*"abcdefgh", n_parallel=2), says("x")
        with engines(old, new):
            client = SippClient()
            await client.add("it", MODEL)
            runs = [client.chat(HELLO) for _ in range(4)]
            adding = asyncio.ensure_future(client.add("it", MODEL))
            await settled(steps)
            await asyncio.gather(client.close(), client.close())
            for run in runs:
                assert (await run).finish_reason in ("cancelled", "stop")
            with suppress(ClientClosed):
                await adding
            assert client.state == "closed"
            assert old.closed == 1
            assert not new.bodies
            for call in (lambda: client.chat(HELLO), lambda: client.query("x"), lambda: client.embed("x")):
                with pytest.raises(ClientClosed):
                    call()
            with pytest.raises(ClientClosed):
                await client.add("it", MODEL)
            await client.close()
        await nothing_left()

    asyncio.run(main())


def test_close_while_a_model_loads_does_not_cancel_the_callers_task() -> None:
    async def main() -> None:
        async def never() -> Any:
            await asyncio.Event().wait()

        with engines(never):
            client = SippClient()
            adding = asyncio.ensure_future(client.add("it", MODEL))
            await settled()
            assert client.state == "loading"
            await client.close()
            with pytest.raises(ClientClosed, match="while the endpoint was added"):
                await adding
        await nothing_left()

    asyncio.run(main())


def test_cancelling_add_stops_the_load() -> None:
    async def main() -> None:
        stopped = asyncio.Event()

        async def never() -> Any:
            try:
                await asyncio.Event().wait()
            finally:
                stopped.set()

        with engines(never):
            async with SippClient() as client:
                adding = asyncio.ensure_future(client.add("it", MODEL))
                await settled()
                adding.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await adding
                assert stopped.is_set()
                assert client.state == "ready"
                assert client.endpoints == []

    asyncio.run(main())


def test_remove_cancels_and_frees() -> None:
    async def main() -> None:
        engine = ScriptedEngine(lambda body: [delta("a"), asyncio.Event().wait()], INFO)
        with engines(engine):
            async with SippClient() as client:
                ref = await client.add("it", MODEL)
                run = client.chat(HELLO)
                await settled()
                await client.remove(ref)
                assert (await run).finish_reason == "cancelled"
                assert engine.closed == 1
                with pytest.raises(EndpointNotFound):
                    await client.remove("it")

    asyncio.run(main())


def test_events_tell_what_happens() -> None:
    async def main() -> None:
        seen: list[tuple[str, str | None, dict[str, Any]]] = []
        engine = says("Hi", degraded=("One thread only.",))
        with engines(engine, InvalidModel("Broken.")):
            async with SippClient() as client:
                client.subscribe(lambda event: seen.append((event.type, event.endpoint, event.data)))
                once: list[Any] = []
                client.subscribe(once.append)()
                await client.add("it", MODEL)
                await client.chat(HELLO)
                engine.script = lambda body: [InvalidModel("x")]
                with pytest.raises(InvalidModel):
                    await client.chat(HELLO)
                await settled()
        names = [name for name, _, _ in seen]
        assert names == [
            "state", "state", "degraded", "ready", "request_started", "request_completed", "request_started",
            "request_failed", "closed",
        ]  # fmt: skip
        assert [data["state"] for name, _, data in seen if name == "state"] == ["loading", "ready"]
        done = next(data for name, _, data in seen if name == "request_completed")
        assert done["finish_reason"] == "stop"
        assert done["usage"].completion_tokens == 1
        assert once == []

    asyncio.run(main())


def test_every_request_starts_before_it_ends() -> None:
    replies = {
        "embedding": {"data": [{"index": 0, "embedding": [3.0, 4.0]}]},
        "rerank": {"results": [{"index": 0, "relevance_score": 1.0}]},
        "tokenize": {"tokens": [1]},
        "detokenize": {"content": "x"},
        "template": {"prompt": "x"},
    }

    async def main() -> None:
        seen: list[str] = []
        engine = says(embeds=True, pooling="rank")
        engine.script = lambda body: [replies[engine.bodies[-1]["kind"]]]
        with engines(engine):
            async with SippClient() as client:
                await client.add("it", MODEL)
                client.subscribe(lambda event: seen.append(event.type))
                for work in (
                    lambda: client.embed("x"), lambda: client.rerank("x", ["y"]), lambda: client.tokenize("x"),
                    lambda: client.detokenize([1]), lambda: client.apply_template(HELLO),
                ):  # fmt: skip
                    await work()
                    await settled()
                    assert seen == ["request_started", "request_completed"]
                    seen.clear()

    asyncio.run(main())


def test_an_embedding_that_is_cancelled_at_once_is_told_as_failed() -> None:
    async def main() -> None:
        seen: list[str] = []
        with engines(says(embeds=True)):
            async with SippClient() as client:
                await client.add("it", MODEL)
                client.subscribe(lambda event: seen.append(event.type))
                client.embed("x").cancel()
                await settled()
        assert seen[0] == "request_failed"

    asyncio.run(main())


def test_messages_of_the_tool_loop_can_be_chat_messages() -> None:
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    asked, told = ChatMessage("assistant", tool_calls=[call]), ChatMessage("tool", "x", tool_call_id="a")
    assert check_messages([asked, told]) == [
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "content": "x", "tool_call_id": "a"},
    ]


def test_a_failed_add_is_told_to_those_who_subscribed() -> None:
    async def main() -> None:
        statuses: list[Any] = []
        with engines(InvalidModel("Broken.", hint="Take another.")):
            async with SippClient() as client:
                client.subscribe(lambda event: statuses.append((event.endpoint, event.data.get("status"))))
                with pytest.raises(InvalidModel):
                    await client.add("it", MODEL)
        assert ("it", Status("error", "Broken. Take another.")) in statuses

    asyncio.run(main())


def test_metrics_come_only_where_they_were_asked_for() -> None:
    async def main(runtime: dict[str, Any]) -> Any:
        seen: list[Any] = []
        with engines(says(*"abcd")):
            async with SippClient() as client:
                client.subscribe(lambda event: seen.append(event) if event.type == "request_completed" else None)
                await client.add("it", LocalModel("m.gguf", runtime=runtime))
                await client.chat(HELLO)
                await settled()
        return seen[0].data.get("metrics")

    assert asyncio.run(main({})) is None
    metrics = asyncio.run(main({"observability": {"runtime_metrics": True}}))
    assert metrics["queue_ms"] >= 0
    assert metrics["inter_token_p50_ms"] <= metrics["inter_token_p99_ms"]


def test_a_context_key_keeps_its_slot_and_is_isolated() -> None:
    async def main() -> None:
        engine = says("x", n_parallel=2)
        with engines(engine):
            async with SippClient() as client:
                await client.add("it", MODEL)
                for key in ("a", "b", "a", "c", "a"):
                    await client.chat(HELLO, context_key=key)
        slots = [(body["id_slot"], body["cache_prompt"]) for body in engine.bodies]
        a, b = slots[0][0], slots[1][0]
        assert a != b
        assert slots == [(a, False), (b, False), (a, True), (b, False), (a, True)]

    asyncio.run(main())


def test_the_prompt_cache_can_be_turned_off() -> None:
    async def main(runtime: dict[str, Any]) -> list[bool]:
        engine = says("x")
        with engines(engine):
            async with SippClient() as client:
                await client.add("it", LocalModel("m.gguf", runtime=runtime))
                await client.chat(HELLO)
                await client.chat(HELLO)
        return [body["cache_prompt"] for body in engine.bodies]

    assert asyncio.run(main({})) == [True, True]
    assert asyncio.run(main({"cache": {"prompt_cache": False}})) == [False, False]


def test_the_models_sampling_is_the_default_of_its_requests() -> None:
    async def main() -> None:
        engine = says("x")
        with engines(engine):
            async with SippClient() as client:
                await client.add("it", LocalModel("m.gguf", runtime={"sampling": {"temperature": 0.2, "top_k": 5}}))
                await client.chat(HELLO, top_k=1)
        assert (engine.bodies[0]["temperature"], engine.bodies[0]["top_k"]) == (0.2, 1)

    asyncio.run(main())


def test_an_idle_model_is_unloaded_and_comes_back() -> None:
    async def main() -> None:
        first, second = says("a"), says("b")
        states: list[Any] = []
        with engines(first, second):
            async with SippClient() as client:
                client.subscribe(lambda event: states.append(event.data["state"]) if event.type == "state" else None)
                await client.add("it", LocalModel("m.gguf", runtime={"residency": {"unload_after": 0.01}}))
                assert (await client.chat(HELLO, context_key="k")).text == "a"
                while not first.closed:  # noqa: ASYNC110 (the engine has no event, and should need none)
                    await asyncio.sleep(0.005)
                results = await asyncio.gather(
                    client.chat(HELLO, context_key="k").response, client.chat(HELLO).response
                )
                assert [result.text for result in results] == ["b", "b"]
                assert not second.bodies[0]["cache_prompt"], "the cache went with the engine"
        assert states == ["loading", "ready", "unloaded", "loading", "ready"]
        assert second.closed == 1
        await nothing_left()

    asyncio.run(main())


def test_a_busy_model_is_never_unloaded() -> None:
    async def main() -> None:
        async with SippClient() as client:

            async def compute() -> None:
                await asyncio.sleep(0.05)
                assert client._endpoints["it"].engine is not None

            ready = [ScriptedEngine(lambda body: [compute(), *answer("a")], INFO) for _ in range(2)]
            with engines(*ready):  # the first one may have been idle for too long before it is asked
                await client.add("it", LocalModel("m.gguf", runtime={"residency": {"unload_after": 0.001}}))
                assert (await client.chat(HELLO)).text == "a"

    asyncio.run(main())


@pytest.mark.parametrize(
    ("call", "error", "named"),
    [
        (lambda c: c.chat([]), InvalidOption, "messages"),
        (lambda c: c.chat("Hello"), InvalidOption, "messages"),
        (lambda c: c.chat([{"role": "boss", "content": "x"}]), InvalidOption, "messages"),
        (lambda c: c.chat([{"role": "user"}]), InvalidOption, "messages"),
        (lambda c: c.query(5), InvalidOption, "prompt"),
        (lambda c: c.chat(HELLO, bogus=1), InvalidOption, "bogus"),
        (lambda c: c.chat(HELLO, media=[b"x"]), UnsupportedOption, "media"),
        (lambda c: c.chat([{"role": "user", "content": [{"type": "image", "image": b"x"}]}]), UnsupportedOption,
         "media"),
        (lambda c: c.query("x", media=[b"x"]), UnsupportedOption, "media"),
        (lambda c: c.query("x", tools=[{"type": "function", "function": {"name": "f"}}]), UnsupportedOption, "tools"),
        (lambda c: c.chat(HELLO, endpoint_options={"x": 1}), UnsupportedOption, "endpoint_options"),
        (lambda c: c.chat(HELLO, provider_options={"x": 1}), UnsupportedOption, "provider_options"),
        (lambda c: c.chat(HELLO, json_schema=object()), InvalidOption, "json_schema"),
        (lambda c: c.embed([]), InvalidOption, "input"),
        (lambda c: c.embed(["a", 5]), InvalidOption, "input"),
        (lambda c: c.embed("a", normalise=True), InvalidOption, "normalise"),
        (lambda c: c.rerank("a", []), InvalidOption, "documents"),
        (lambda c: c.rerank(5, ["a"]), InvalidOption, "query"),
        (lambda c: c.rerank("a", ["b"], top_n=0), InvalidOption, "top_n"),
    ],
)  # fmt: skip
def test_a_wrong_call_is_refused_at_once_by_name(call: Any, error: Any, named: str) -> None:
    async def main() -> None:
        engine = says("x")
        with engines(engine):
            async with SippClient() as client:
                await client.add("it", MODEL)
                with pytest.raises(error) as caught:
                    call(client)
                assert caught.value.option == named
        assert engine.bodies == []

    asyncio.run(main())


def test_what_a_model_cannot_do_is_refused_with_the_way_out() -> None:
    async def main() -> None:
        with engines(says("x", has_chat_template=False)):
            async with SippClient() as client:
                await client.add("it", MODEL)
                with pytest.raises(UnsupportedOperation, match="chat_template"):
                    client.chat(HELLO)
                with pytest.raises(UnsupportedOperation, match="embeddings"):
                    client.embed("x")
                with pytest.raises(UnsupportedOperation, match="reranker"):
                    client.rerank("x", ["y"])

    asyncio.run(main())


def test_embed_gives_a_vector_for_each_text_in_order() -> None:
    async def main() -> None:
        rows = [{"index": 1, "embedding": [0.0, 2.0]}, {"index": 0, "embedding": [3.0, 4.0]}]
        reply = {"data": rows, "usage": {"prompt_tokens": 5}}
        engine = ScriptedEngine(lambda body: [reply], dataclasses.replace(INFO, embeds=True, pooling="mean"))
        with engines(engine):
            async with SippClient() as client:
                await client.add("it", MODEL)
                result = await client.embed(["a", "b"])
                assert result.embeddings == [[0.6, 0.8], [0.0, 1.0]]
                assert (result.dimensions, result.pooling, result.normalized) == (2, "mean", True)
                assert result.usage.prompt_tokens == 5
                assert result.embedding == result.embeddings[0]
                raw = await client.embed(["a", "b"], normalize=False)
                assert raw.embeddings == [[3.0, 4.0], [0.0, 2.0]]
        assert [body["embd_normalize"] for body in engine.bodies] == [2, -1]

    asyncio.run(main())


def test_rerank_gives_the_best_first() -> None:
    async def main() -> None:
        reply = {"results": [{"index": i, "relevance_score": s} for i, s in enumerate([0.1, 3.0, -2.0])]}
        engine = ScriptedEngine(lambda body: [reply], dataclasses.replace(INFO, embeds=True, pooling="rank"))
        with engines(engine):
            async with SippClient() as client:
                await client.add("it", MODEL)
                result = await client.rerank("q", ["a", "b", "c"], top_n=2)
                assert [(row.index, row.document) for row in result.ranking] == [(1, "b"), (0, "a")]

    asyncio.run(main())


@pytest.mark.parametrize("descriptor", [5, "model.gguf", {"source": "x"}, None])
def test_add_takes_descriptors_only(descriptor: Any) -> None:
    async def main() -> None:
        async with SippClient() as client:
            with pytest.raises(InvalidOption, match="LocalModel"):
                await client.add("it", descriptor)
            with pytest.raises(InvalidOption, match="id"):
                await client.add("", MODEL)

    asyncio.run(main())
