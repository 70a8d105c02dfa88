"""Streaming and cancelling in a tab, through the JavaScript client and the Python behind it."""

from __future__ import annotations

import pytest
from hosting import Serve
from playwright.sync_api import Page
from tab import SMOLLM2, TINY, Tab

OPEN = """
  state.client = new sippet.SippClient({wasmThreading: "single-thread"});
  await state.client.add("model", {source: argument});
"""
LONG = "[{role: 'user', content: 'Tell me a story.'}]"


@pytest.fixture
def tiny_tab(tab: Tab) -> Tab:
    tab.run(OPEN, TINY)
    return tab


def test_a_chat_streams_its_final_text(tiny_tab: Tab) -> None:
    result = tiny_tab.run(
        f"""const run = state.client.chat({LONG}, {{temperature: 0, maxTokens: 60, emitTokens: true}});
            const batches = [];
            for await (const batch of run.tokens) batches.push(batch);
            return {{batches, result: await run}};"""
    )
    assert "".join(batch["text"] for batch in result["batches"]) == result["result"]["text"]
    assert [batch["index"] for batch in result["batches"]] == list(range(len(result["batches"])))
    assert len(result["batches"]) > 5
    assert result["result"]["usage"]["completionTokens"] >= len(result["batches"])


def test_the_answer_is_the_same_with_and_without_a_reader(tiny_tab: Tab) -> None:
    ask = f"state.client.chat({LONG}, {{temperature: 0, maxTokens: 40, emitTokens: argument}})"
    quiet, read = (tiny_tab.run(f"return await {ask}", emit) for emit in (False, True))
    assert quiet["text"] == read["text"]
    assert quiet["usage"]["completionTokens"] == read["usage"]["completionTokens"]


@pytest.mark.parametrize("engine", ["sippet", "wllama"])
def test_what_may_become_a_stop_text_is_told_at_the_limit(tab: Tab, engine: str) -> None:
    told = tab.run(
        """const client = new sippet.SippClient({wasmThreading: "single-thread", engine: argument.engine});
           await client.add("model", {source: argument.source});
           const ask = async (options) => {
             const run = client.query("Once upon a time", {temperature: 0, maxTokens: 8, emitTokens: true, ...options});
             let streamed = "";
             for await (const {text} of run.tokens) streamed += text;
             const {text, finishReason, usage} = await run;
             return {streamed, text, finishReason, count: usage.completionTokens};
           };
           const whole = await ask({});
           const held = await ask({stop: `${whole.text.slice(-3)}§`});
           const stopped = await ask({maxTokens: 20, stop: whole.text.slice(4, 8)});
           await client.close();
           return {whole, held, stopped};""",
        {"engine": engine, "source": TINY},
    )
    whole = told["whole"]
    assert whole["finishReason"] == "length"
    assert told["held"] == whole
    assert told["stopped"]["streamed"] == told["stopped"]["text"] == whole["text"][:4]
    assert told["stopped"]["finishReason"] == "stop"
    assert 0 < told["stopped"]["count"] < 8


def test_a_capital_is_known(tiny_tab: Tab) -> None:
    messages = "[{role: 'user', content: 'What is the capital of France?'}]"
    result = tiny_tab.run(f"return await state.client.chat({messages}, {{temperature: 0}})")
    assert "Paris" in result["text"]
    assert result["finishReason"] == "stop"


def test_a_cancelled_run_keeps_its_text_and_frees_the_engine(tab: Tab) -> None:
    tab.run(OPEN, SMOLLM2)
    result = tab.run(
        """const common = {temperature: 0, emitTokens: true};
           const ask = (options) => state.client.query("Once upon a time", {...common, ...options});
           const first = async (run) => {
             const start = performance.now();
             for await (const batch of run.tokens) return performance.now() - start;
           };
           const fresh = ask({maxTokens: 2});
           const freshMs = await first(fresh);
           await fresh;
           const run = ask({maxTokens: 2000});
           let seen = "";
           for await (const {text} of run.tokens) {
             seen += text;
             if (seen.length > 20) break;
           }
           run.cancel("enough");
           const cancelled = await run;
           const next = ask({maxTokens: 2});
           const nextMs = await first(next);
           return {seen, cancelled, freshMs, nextMs, next: await next};"""
    )
    cancelled = result["cancelled"]
    assert cancelled["finishReason"] == "cancelled"
    assert cancelled["cancelReason"] == "enough"
    assert cancelled["text"].startswith(result["seen"])
    assert 0 < cancelled["usage"]["completionTokens"] < 200
    assert result["next"]["finishReason"] == "length"
    assert result["nextMs"] < 20 * result["freshMs"] + 1000, "2000 tokens would have taken far longer"


def test_each_reader_of_a_run_gets_all_of_it(tiny_tab: Tab) -> None:
    found = tiny_tab.run(
        """const talk = [{role: "user", content: "Tell me a story."}];
           const run = state.client.chat(talk, {temperature: 0, emitTokens: true});
           const read = async () => {
             let text = "";
             for await (const batch of run.tokens) text += batch.text;
             return text;
           };
           const together = await Promise.all([read(), read()]);
           return [(await run).text, ...together, await read()];"""
    )
    assert found[0] and found == [found[0]] * 4


def test_an_abort_signal_cancels(tiny_tab: Tab) -> None:
    result = tiny_tab.run(
        f"""const controller = new AbortController();
            const run = state.client.chat({LONG}, {{temperature: 0, emitTokens: true, signal: controller.signal}});
            for await (const batch of run.tokens) {{ controller.abort(); break; }}
            return await run;"""
    )
    assert result["finishReason"] == "cancelled"


def test_a_run_that_was_aborted_before_it_began_ends_at_once(tiny_tab: Tab) -> None:
    result = tiny_tab.run(f"return await state.client.chat({LONG}, {{signal: AbortSignal.abort()}})")
    assert result["finishReason"] == "cancelled"
    assert result["text"] == ""


def test_requests_beyond_the_slots_wait_their_turn(tiny_tab: Tab) -> None:
    texts = tiny_tab.run(
        """const ask = (name) => state.client.chat([{role: "user", content: `Count to ${name}.`}], {temperature: 0});
           return (await Promise.all(["two", "three", "four"].map(ask))).map(({text}) => text);"""
    )
    assert len(texts) == 3
    assert all(texts)


def test_a_cancel_while_waiting_leaves_the_others_alone(tiny_tab: Tab) -> None:
    result = tiny_tab.run(
        f"""const runs = [1, 2, 3].map(() => state.client.chat({LONG}, {{temperature: 0, maxTokens: 30}}));
            runs[1].cancel();
            return (await Promise.all(runs)).map(({{finishReason, text}}) => [finishReason, text]);"""
    )
    assert [reason for reason, _ in result] == ["length", "cancelled", "length"] or result[0][0] == "stop"
    assert result[0] == result[2]


def test_a_download_can_be_cancelled(page: Page, serve: Serve) -> None:
    tab = Tab(page, serve().url)
    result = tab.run(
        """const client = new sippet.SippClient({wasmThreading: "single-thread"});
           await client.ready;
           const controller = new AbortController();
           const onProgress = ({state}) => state === "downloading" && controller.abort();
           const error = await client.add("model", {source: argument, onProgress, signal: controller.signal})
             .then(() => null, ({code}) => code);
           const after = await client.add("model", {source: "/models/tiny-chat-f16/tiny-chat-f16.gguf"});
           return {error, after: after.id};""",
        SMOLLM2,
    )
    assert result == {"error": "cancelled", "after": "model"}


def test_closing_ends_what_runs(tiny_tab: Tab) -> None:
    result = tiny_tab.run(
        f"""const run = state.client.chat({LONG}, {{temperature: 0, emitTokens: true}});
            for await (const batch of run.tokens) break;
            await state.client.close();
            await state.client.close();
            const ended = await run.then(({{finishReason}}) => finishReason, ({{code}}) => code);
            const later = await state.client.chat({LONG}).then(() => null, ({{code}}) => code);
            return {{ended, later, state: state.client.state}};"""
    )
    assert result["ended"] in ("cancelled", "client_closed")
    assert result["later"] == "client_closed"
    assert result["state"] == "closed"


def test_an_endpoint_is_replaced_after_its_runs_have_ended(tiny_tab: Tab) -> None:
    result = tiny_tab.run(
        f"""const run = state.client.chat({LONG}, {{temperature: 0, maxTokens: 30}});
            await state.client.add("model", {{source: argument, runtime: {{context: {{nCtx: 256}}}}}});
            return (await run).finishReason;""",
        TINY,
    )
    assert result in ("length", "stop")


def test_events_tell_what_happens(tab: Tab) -> None:
    types = tab.run(
        """const client = new sippet.SippClient({wasmThreading: "single-thread"});
           const types = [];
           client.subscribe(({type}) => types.push(type));
           await client.add("model", {source: argument});
           await client.query("Hi", {maxTokens: 1});
           await client.close();
           return types.filter((type, index) => type !== types[index - 1]);""",
        TINY,
    )
    assert [kind for kind in types if kind not in ("state", "progress")] == [
        "ready",
        "request_started",
        "request_completed",
        "closed",
    ]
