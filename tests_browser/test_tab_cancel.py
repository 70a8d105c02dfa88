"""A cancel stops the engine itself: told by what the engine is asked for, not by a clock. ``tools/bench/cancel.py``
measures how long it takes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hosting import Serve, copy_assets
from playwright.sync_api import Page
from tab import TINY, Tab

RECORDER = Path(__file__).with_name("recording_engine.mjs")
MICRO_BATCH = 8

OPEN = """
  state.events = [];
  state.heard = {};  // name → what resolves when it comes next
  new BroadcastChannel("engine").onmessage = ({data}) => { state.events.push(data); state.heard[data]?.(); };
  state.next = (name) => new Promise((resolve) => (state.heard[name] = resolve));
  state.client = new sippet.SippClient({
    wasmThreading: "single-thread",
    moduleUrl: "/static/js/recording_engine.mjs", wasmUrl: "/static/engine/sippet-single-simd128.wasm",
  });
  const runtime = {context: {nUbatch: argument.batch}, cache: {promptCache: false}};
  await state.client.add("model", {source: argument.source, runtime});
"""


@pytest.fixture
def recorded(page: Page, serve: Serve, tmp_path: Path) -> Tab:
    """A tab whose ``state.events`` are the calls of its engine, a micro-batch at each step."""
    static = copy_assets(tmp_path, RECORDER)
    tab = Tab(page, serve(static_dir=static).url)
    tab.run(OPEN, {"source": TINY, "batch": MICRO_BATCH})
    return tab


def after_cancel(events: list[str]) -> list[str]:
    """What the engine was asked for from the moment it heard of the cancel."""
    assert events.count("cancel") == 1, events
    return events[events.index("cancel") + 1 :]


def test_after_a_cancelled_prefill_the_next_step_is_the_next_runs(recorded: Tab) -> None:
    found = recorded.run(
        """const began = state.next("step");
           const run = state.client.query("a cat ".repeat(200), {maxTokens: 1});
           await began;
           run.cancel("enough");
           const next = await state.client.query("One", {maxTokens: 1});
           const {finishReason, text} = await run;
           const prompt = await state.client.tokenize("a cat ".repeat(200));
           return {finishReason, text, prompt: prompt.length, events: state.events, next: next.finishReason};"""
    )
    assert (found["finishReason"], found["text"]) == ("cancelled", "")
    before = found["events"][: found["events"].index("cancel")]
    assert before[0] == "submit"
    assert before.count("step") < found["prompt"] // MICRO_BATCH, "the rest of the prompt was not computed"
    assert after_cancel(found["events"]) == ["submit", "step"]
    assert found["next"] == "length"


def test_after_a_cancelled_decode_the_next_step_is_the_next_runs(recorded: Tab) -> None:
    found = recorded.run(
        """const run = state.client.query("One", {maxTokens: 400, ignoreEos: true, temperature: 0, emitTokens: true});
           let seen = "";
           for await (const {text} of run.tokens) if ((seen += text).length > 10) break;
           run.cancel("enough");
           const next = await state.client.query("One", {maxTokens: 1});
           return {seen, cancelled: await run, events: state.events, next: next.finishReason};"""
    )
    cancelled = found["cancelled"]
    assert (cancelled["finishReason"], cancelled["cancelReason"]) == ("cancelled", "enough")
    assert cancelled["text"].startswith(found["seen"]), "what had come is kept"
    steps = found["events"][: found["events"].index("cancel")].count("step")
    assert cancelled["usage"]["completionTokens"] <= steps < 400
    assert after_cancel(found["events"]) == ["submit", "step"]
    assert found["next"] == "length"


@pytest.mark.parametrize("engine", ["sippet", "wllama"])
def test_a_run_cancelled_before_the_busy_engine_knew_of_it_leaves_its_slot_to_the_next(tab: Tab, engine: str) -> None:
    reasons = tab.run(
        """const client = new sippet.SippClient({wasmThreading: "single-thread", engine: argument.engine});
           await client.add("model", {source: argument.source, runtime: {context: {nParallel: 2, nCtx: 1024}}});
           const other = client.query("a cat ".repeat(150), {maxTokens: 200, ignoreEos: true, emitTokens: true});
           const reasons = [];
           for (let round = 0; round < 5; round++) {
             const run = client.query("One two three", {maxTokens: 40, ignoreEos: true});
             run.cancel();
             const next = client.query("One", {maxTokens: 1});
             reasons.push((await next).finishReason, (await run).finishReason);
           }
           other.cancel();
           await client.close();
           return reasons;""",
        {"engine": engine, "source": TINY},
    )
    assert reasons == ["length", "cancelled"] * 5


def test_after_a_cancelled_embedding_the_next_step_is_the_next_runs(recorded: Tab) -> None:
    found = recorded.run(
        """const runtime = {context: {embeddings: true, pooling: "mean"}};
           await state.client.add("vectors", {source: argument.source, runtime});
           state.events.length = 0;
           const began = state.next("step");
           const run = state.client.embed(Array(100).fill("the red circle"), {endpoint: "vectors"});
           const code = run.response.catch((error) => error.code);
           await began;
           run.cancel("enough");
           const next = await state.client.embed("One", {endpoint: "vectors"});
           return {code: await code, events: state.events, next: next.dimensions};""",
        {"source": TINY},
    )
    assert (found["code"], found["next"]) == ("cancelled", 128)
    assert found["events"][: found["events"].index("cancel")].count("step") < 100, "the rest was not computed"
    assert after_cancel(found["events"]) == ["submit", "step"]
