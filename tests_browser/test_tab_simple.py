"""`LocalLLM` of JavaScript in a tab: from nothing, from the browser's storage, and watched."""

from __future__ import annotations

from tab import Tab

SETUP = """
  const {LocalLLM, SippEngine} = await import("/static/js/simple.mjs");
  const fresh = () => new LocalLLM({
    model: "tiny-chat-f16", temperature: 0, maxTokens: 60, engine: new SippEngine({wasmThreading: "single-thread"}),
  });
"""


def test_a_local_llm_loads_answers_extracts_classifies_and_unloads(tab: Tab) -> None:
    found = tab.run(
        SETUP
        + """
        // The host of this test serves the model without its projector: it is installed as the registry names it.
        const sippet_ = await import("/static/js/sippet.mjs");
        const client = new sippet_.SippClient();
        const llm = fresh();
        const before = await llm.hasModelInCache();
        await client.models.add("/models/tiny-chat-f16/tiny-chat-f16.gguf", {id: "tiny-chat-f16"});
        await client.close();
        const states = [], pieces = [];
        const end = llm.onStatusChange(({state: now}) => states.push(now));
        const {supported} = await llm.isSupported();
        const after = await llm.hasModelInCache();
        const question = [{role: "user", content: "What is the capital of France?"}];
        await Promise.all([llm.load(), llm.load()]);
        await llm.generate(question); // from now on the prompt is cached
        const streamed = await llm.generate(question, {onText: (text) => pieces.push(text)});
        const whole = await llm.generate(question);
        const schema = {type: "object", properties: {name: {type: "string"}, age: {type: "integer"}},
                        required: ["name", "age"], additionalProperties: false};
        const person = await llm.extractJson("Give me JSON for Tom, age 7.", schema,
          {instruction: "You are a tiny test model."});
        const label = await llm.classify("What color is the sky?", ["blue", "red"]);
        const names = (await llm.models()).map(({id}) => id);
        await llm.unload();
        end();
        return {before, after, supported, states, streamed, whole, pieces: pieces.join(""), person, label, names};
        """
    )
    assert (found["before"], found["after"], found["supported"]) == (False, True, True)
    assert found["states"][0] == "idle" and found["states"][-2:] == ["ready", "idle"]
    assert found["states"].count("ready") == 1
    assert found["streamed"] == found["whole"]
    assert found["whole"]["text"] == found["pieces"] == "The capital of France is Paris."
    assert found["whole"]["usage"]["completionTokens"] == 15
    assert found["person"] == {"name": "Tom", "age": 7}
    assert found["label"] in ("blue", "red")
    assert "tiny-chat-f16" in found["names"]


def test_a_failed_load_says_so_and_can_be_tried_again(tab: Tab) -> None:
    found = tab.run(
        SETUP
        + """
        const {LocalLLM: Llm} = await import("/static/js/simple.mjs");
        let broken = true;
        const engine = {
          async load() { if (broken) throw new sippet.SippError({code: "invalid_model", message: "Broken."}); },
          async generate() { return {text: "Hi", finishReason: "stop", usage: {}}; },
          async unload() {},
          async registry() { return {models: [], defaultModel: "some"}; },
        };
        const llm = new Llm({engine});
        const seen = [];
        llm.status.subscribe(({state: now}) => seen.push(now));
        const code = await llm.prompt("Hello").catch((error) => error.code);
        broken = false;
        const said = await llm.prompt("Hello");
        return {code, said, seen, now: llm.status.get().state};
        """
    )
    assert found == {"code": "invalid_model", "said": "Hi", "seen": ["idle", "error", "ready"], "now": "ready"}


def test_unload_ends_a_load_at_once_and_says_cancelled(tab: Tab) -> None:
    found = tab.run(
        SETUP
        + """
        const taken = [], codes = [];
        const never = {load: () => new Promise(() => {}), unload: async () => {}};
        const engines = [never, new SippEngine({wasmThreading: "single-thread"})];
        for (const engine of engines) {
          const llm = new LocalLLM({model: "tiny-chat-f16", engine});
          const loading = llm.load().then(() => "loaded", (error) => error.code);
          const start = performance.now();
          await llm.unload();
          codes.push(await loading, llm.status.get().state);
          taken.push(performance.now() - start);
        }
        return [codes, Math.max(...taken)];
        """
    )
    assert found[0] == ["cancelled", "idle"] * 2
    assert found[1] < 1500, "it does not wait for a worker that is still starting"
