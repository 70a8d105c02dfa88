"""Every operation of the client in a tab, by the JavaScript client and so through Python and the engine."""

from __future__ import annotations

import base64
import math
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hosting import ROOT, Serve
from playwright.sync_api import Browser
from tab import TINY, Tab, TabError

sys.path.append(str(ROOT / "tests_py"))

from adapters import adapter
from pictures import COLOURS, SHAPES, picture

PROJECTOR = ROOT / "tests_py" / "models" / "mmproj-tiny-f16.gguf"

OPEN = """
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  state.bytes = bytes;
  state.client = new sippet.SippClient({wasmThreading: "single-thread"});
  await state.client.add("it", {
    source: argument.source, projector: new File([bytes(argument.projector)], "mmproj.gguf"),
    runtime: {context: {embeddings: true, nParallel: 2, nCtx: 2048}},
  });
"""


@pytest.fixture(scope="module")
def seeing(browser: Browser, serve: Serve) -> Iterator[Tab]:
    """One tab with one model that chats, sees and embeds."""
    page = browser.new_page()
    tab = Tab(page, serve().url)
    tab.run(OPEN, {"source": TINY, "projector": text(PROJECTOR.read_bytes())})
    yield tab
    tab.run("await state.client.close()")
    page.close()


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def ask(question: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": question}]


def refusal(tab: Tab, body: str, argument: Any = None) -> TabError:
    with pytest.raises(TabError) as caught:
        tab.run(body, argument)
    return caught.value


def test_the_pair_names_shapes_and_colours(seeing: Tab) -> None:
    for shape in SHAPES:
        for colour in COLOURS:
            said = seeing.run(
                """return (await state.client.chat([{role: "user", content: "What is in the image?"}],
                  {media: [new Blob([state.bytes(argument)])], temperature: 0, maxTokens: 30})).text""",
                text(picture(shape, colour)),
            )
            assert shape in said and colour in said, said


def test_an_image_can_be_a_part_of_a_message(seeing: Tab) -> None:
    said = seeing.run(
        """const part = {type: "image", image: state.bytes(argument)};
        const url = {type: "image_url", image_url: {url: `data:image/png;base64,${argument}`}};
        const question = {type: "text", text: "What color is it?"};
        const options = {temperature: 0, maxTokens: 20};
        const ask = (first) => [{role: "user", content: [first, question]}];
        const chat = async (first) => (await state.client.chat(ask(first), options)).text;
        return [await chat(part), await chat(url)]""",
        text(picture("circle", "blue")),
    )
    assert "blue" in said[0] and "blue" in said[1]


def test_an_image_can_stand_in_a_raw_prompt_where_the_engine_can(seeing: Tab) -> None:
    body = """
      const {engine, source, projector, image} = argument;
      const client = new sippet.SippClient({wasmThreading: "single-thread", engine});
      try {
        await client.add("it", {source, projector: new File([state.bytes(projector)], "mmproj.gguf")});
        const prompt = "<|im_start|>user\\n<__media__>What shape is it?<|im_end|>\\n<|im_start|>assistant\\n";
        const media = [state.bytes(image)];
        return (await client.query(prompt, {media, temperature: 0, maxTokens: 20})).text;
      } finally {
        await client.close();
      }
    """
    argument = {"source": TINY, "projector": text(PROJECTOR.read_bytes()), "image": text(picture("circle", "blue"))}
    assert "circle" in seeing.run(body, {**argument, "engine": "wllama"})
    assert refusal(seeing, body, {**argument, "engine": "sippet"}).details["option"] == "media"


def test_texts_become_vectors(seeing: Tab) -> None:
    result = seeing.run("return await state.client.embed(['a red cat', 'a red cat', 'count to ten'])")
    a, b, c = result["embeddings"]
    assert (result["dimensions"], result["pooling"], result["normalized"]) == (128, "mean", True)
    assert math.isclose(math.hypot(*a), 1, rel_tol=1e-6)
    assert math.dist(a, b) < 1e-3 < math.dist(a, c)
    raw = seeing.run("return (await state.client.embed('a red cat', {normalize: false})).embeddings[0]")
    assert math.hypot(*raw) > 2


def test_an_answer_follows_a_schema(seeing: Tab) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    parsed = seeing.run(
        """return (await state.client.chat([{role: "user", content: "Give me JSON for Tom, age 7."}],
          {jsonSchema: argument, temperature: 0, maxTokens: 60})).parsed""",
        schema,
    )
    assert parsed == {"name": "Tom", "age": 7}


def test_functions_of_the_page_and_python_functions_are_called(seeing: Tab) -> None:
    messages, called, steps = seeing.run(
        """const called = [], steps = [];
        const parameters = {type: "object", properties: {colour: {enum: ["red", "blue"]}}, required: ["colour"],
                            additionalProperties: false};
        const paint = {name: "paint", parameters, call: async ({colour}) => { called.push(colour); return "painted"; }};
        const result = await state.client.runTools([{role: "user", content: "Paint it."}], [paint],
          {toolChoice: "required", maxSteps: 2, maxTokens: 120, temperature: 0,
           onStep: (step) => steps.push(step.role)});
        return [result.messages, called, steps]"""
    )
    assert len(called) == 1 and called[0] in ("red", "blue")
    assert messages[2]["content"] == "painted"
    assert steps == ["assistant", "tool", "assistant"]
    told = seeing.run(
        """return (await state.client.runTools([{role: "user", content: "What time is it?"}], [],
          {python: "def now() -> str:\\n    'The time.'\\n    return 'noon'", toolChoice: "required", maxSteps: 2,
           maxTokens: 120, temperature: 0})).messages"""
    )
    call = told[1]["tool_calls"][0]["id"]
    assert told[2] == {"role": "tool", "tool_call_id": call, "name": "now", "content": "noon"}


def test_turn_two_computes_only_what_is_new_and_keys_are_apart(seeing: Tab) -> None:
    first, second, other = seeing.run(
        """const talk = [{role: "user", content: "My name is Tom."}], options = {temperature: 0, maxTokens: 20};
        const chat = async (contextKey) => await state.client.chat(talk, {...options, contextKey});
        const first = await chat("a");
        talk.push({role: "assistant", content: first.text}, {role: "user", content: "What is my name?"});
        return [first, await chat("a"), await chat("b")]"""
    )
    assert second["text"] == other["text"] == "Your name is Tom."
    known = first["usage"]["promptTokens"] + first["usage"]["completionTokens"] - 2
    assert second["usage"]["cachedTokens"] >= known
    assert other["usage"]["cachedTokens"] == 0


def test_log_probabilities_come_with_each_token(seeing: Tab) -> None:
    result = seeing.run(
        """return await state.client.chat([{role: "user", content: "Hello"}],
          {logprobs: 2, temperature: 0, maxTokens: 3})"""
    )
    assert len(result["logprobs"]) == result["usage"]["completionTokens"] == 3
    assert all(entry["logprob"] <= 0 and len(entry["top"]) == 2 for entry in result["logprobs"])


def test_what_is_wrong_with_an_image_is_said(seeing: Tab) -> None:
    body = "await state.client.chat([{role: 'user', content: '?'}], {media: [state.bytes(argument)]})"
    assert refusal(seeing, body, text(b"not a picture")).details["option"] == "media"


def test_an_embedding_can_be_aborted(seeing: Tab) -> None:
    body = """const stop = new AbortController(); stop.abort("no need");
      await state.client.embed("x", {signal: stop.signal})"""
    assert refusal(seeing, body).code == "cancelled"


def test_a_text_model_refuses_what_it_cannot_do(seeing: Tab) -> None:
    seeing.run("await state.client.add('text', {source: argument})", TINY)
    try:
        image = "media: [state.bytes(argument)], endpoint: 'text'"
        body = f"await state.client.chat([{{role: 'user', content: '?'}}], {{{image}}})"
        assert refusal(seeing, body, text(picture("circle", "red"))).details["option"] == "media"
        assert refusal(seeing, "await state.client.embed('x', {endpoint: 'text'})").code == "unsupported_operation"
        body = "await state.client.rerank('x', ['y'], {endpoint: 'text'})"
        assert refusal(seeing, body).code == "unsupported_operation"
    finally:
        seeing.run("await state.client.remove('text')")


def test_a_wrong_projector_is_refused_when_it_is_added(seeing: Tab) -> None:
    body = "await state.client.add('x', {source: argument, projector: argument})"
    error = refusal(seeing, body, TINY)
    assert (error.code, error.details["reason"]) == ("unsupported_model", "not_a_projector")


def test_an_idle_model_is_unloaded_and_comes_back(seeing: Tab) -> None:
    states, said = seeing.run(
        """const states = [];
        const seen = new Promise((resolve) => {
          const end = state.client.subscribe((event) => {
            if (event.type !== "state" || event.endpoint !== "idle") return;
            states.push(event.state);
            if (event.state === "unloaded") { end(); resolve(); }
          });
        });
        await state.client.add("idle", {source: argument, runtime: {residency: {unloadAfter: 0.1}}});
        await seen;
        const {text} = await state.client.chat([{role: "user", content: "What is the capital of France?"}],
          {endpoint: "idle", temperature: 0});
        await state.client.remove("idle");
        return [states, text]""",
        TINY,
    )
    assert states[-1] == "unloaded"
    assert said == "The capital of France is Paris."


def test_events_have_javascripts_names_and_a_listener_that_throws_stops_nothing(seeing: Tab) -> None:
    completed, failed, reported = seeing.run(
        """const events = {};
        let reported = null;
        addEventListener("error", (event) => { reported = event.error.message; event.preventDefault(); }, {once: true});
        const ends = [
          state.client.subscribe(() => { throw new Error("mine"); }),
          state.client.subscribe((event) => { events[event.type] = event; }),
        ];
        await state.client.add("told", {source: argument, runtime: {observability: {runtimeMetrics: true}}});
        await state.client.chat([{role: "user", content: "Hello"}], {endpoint: "told", maxTokens: 4});
        await state.client.query("word ".repeat(3000), {endpoint: "told"}).catch(() => {});
        for (const end of ends) end();
        await state.client.remove("told");
        const {error} = events.request_failed;
        return [events.request_completed, error instanceof sippet.SippError && error.code, reported];""",
        TINY,
    )
    assert completed.keys() == {"type", "endpoint", "finishReason", "usage", "timings", "metrics"}
    assert completed["usage"].keys() == {"promptTokens", "cachedTokens", "completionTokens"}
    assert completed["metrics"].keys() == {"queueMs", "interTokenP50Ms", "interTokenP99Ms"}
    assert (failed, reported) == ("context_overflow", "mine")


def test_a_model_is_installed_listed_used_by_its_id_and_removed(seeing: Tab) -> None:
    names, said, left = seeing.run(
        """const progress = [];
        const {models} = state.client;
        const added = await models.add(argument, {id: "mine", onProgress: ({state: now}) => progress.push(now)});
        const listed = (await models.list()).map(({id}) => id);
        await state.client.add("installed", {source: added.id});
        const {text} = await state.client.chat([{role: "user", content: "What is the capital of Italy?"}],
          {endpoint: "installed", temperature: 0});
        await state.client.remove("installed");
        await models.verify("mine");
        await models.remove("mine");
        return [listed, text, (await models.list()).length]""",
        TINY,
    )
    assert names == ["mine"]
    assert said == "The capital of Italy is Rome."
    assert left == 0


@pytest.mark.parametrize("engine", ["sippet", "wllama"])
def test_an_adapter_is_on_where_a_request_says_so(seeing: Tab, engine: str) -> None:
    plain, moved, again = seeing.run(
        """
        const {engine, source, adapter} = argument;
        const client = new sippet.SippClient({wasmThreading: "single-thread", engine});
        try {
          await client.add("it", {source, lora: [new File([state.bytes(adapter)], "adapter.gguf")]});
          const talk = [{role: "user", content: "Tell me a story."}];
          const said = [];
          for (const lora of [undefined, {0: 1.0}, undefined]) {
            said.push((await client.chat(talk, {lora, temperature: 0, maxTokens: 20})).text);
          }
          return said;
        } finally {
          await client.close();
        }
        """,
        {"engine": engine, "source": TINY, "adapter": text(adapter())},
    )
    assert plain == again != moved
