"""Values of every wrong type, to every method of the JavaScript client: a coded error at once, and the tab goes on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hosting import Serve
from playwright.sync_api import Browser
from tab import TINY, Tab

VALUES = """({
  undefined: undefined, null: null, number: 5, nan: NaN, bigint: 5n, boolean: true, symbol: Symbol("x"), list: [5],
  function: () => 5, node: document.body, cyclic: (() => { const x = {}; x.x = x; return x; })(), date: new Date(),
  empty: "",
})"""

CALLS = {
    "SippClient": "async (x) => { const it = new sippet.SippClient(x); await it.ready.finally(() => it.close()); }",
    "subscribe": "async (x) => client.subscribe(x)",
    "add id": "(x) => client.add(x, {source: argument})",
    "add": "(x) => client.add('it', x)",
    "add source": "(x) => client.add('it', {source: x})",
    "add onProgress": "(x) => client.add('it', {source: argument, onProgress: x})",
    "add signal": "(x) => client.add('it', {source: argument, signal: x})",
    "add apiKey": "(x) => client.add('far', {kind: 'provider', provider: 'openai', model: 'm', apiKey: x})",
    "remove": "(x) => client.remove(x)",
    "query": "(x) => client.query(x, {maxTokens: 1})",
    "query options": "(x) => client.query('a', x)",
    "chat": "(x) => client.chat(x, {maxTokens: 1})",
    "chat message": "(x) => client.chat([x], {maxTokens: 1})",
    "chat content": "(x) => client.chat([{role: 'user', content: x}], {maxTokens: 1})",
    "chat maxTokens": "(x) => client.chat(hello, {maxTokens: x})",
    "chat media": "(x) => client.chat(hello, {media: [x], maxTokens: 1})",
    "chat jsonSchema": "(x) => client.chat(hello, {jsonSchema: x, maxTokens: 1})",
    "chat endpoint": "(x) => client.chat(hello, {endpoint: x, maxTokens: 1})",
    "chat signal": "(x) => client.chat(hello, {signal: x, maxTokens: 1})",
    "embed": "(x) => client.embed(x)",
    "rerank": "(x) => client.rerank(x, x)",
    "tokenize": "(x) => client.tokenize(x)",
    "detokenize": "(x) => client.detokenize(x)",
    "applyTemplate": "(x) => client.applyTemplate(x)",
    "saveContext": "(x) => client.saveContext(x)",
    "forgetContext": "(x) => client.forgetContext(x)",
    "runTools": "(x) => client.runTools(hello, x)",
    "runTools tool": "(x) => client.runTools(hello, [{name: 'f', call: x}], {maxTokens: 1})",
    "runTools options": "(x) => client.runTools(hello, [{name: 'f', call() {}}], x)",
    "models.add": "(x) => client.models.add(x)",
    "models.add options": "(x) => client.models.add('/nowhere/model.gguf', x)",
    "models.get": "(x) => client.models.get(x)",
    "models.remove": "(x) => client.models.remove(x)",
    "models.verify": "(x) => client.models.verify('nothing', x)",
    "models.estimate": "(x) => client.models.estimate(x)",
    "LocalLLM": "async (x) => void new simple.LocalLLM(x)",
    "LocalLLM.onStatusChange": "async (x) => llm.onStatusChange(x)",
    "LocalLLM.generate": "(x) => llm.generate(x, {maxTokens: 1})",
    "LocalLLM.generate options": "(x) => llm.generate(hello, x)",
    "LocalLLM.prompt": "(x) => llm.prompt(x, {maxTokens: 1})",
    "LocalLLM.extractJson": "(x) => llm.extractJson('a', x, {maxTokens: 1})",
    "LocalLLM.classify": "(x) => llm.classify('a', x)",
}

RUN = """
  const simple = await import("/static/js/simple.mjs");
  const client = (state.client ??= new sippet.SippClient({wasmThreading: "single-thread"}));
  if (!client.endpoints.length) await client.add("it", {source: argument});
  const engine = {
    load: async () => {}, unload: async () => {},
    generate: (messages, options) => client.chat(messages, {maxTokens: 1, ...options}),
  };
  const llm = new simple.LocalLLM({model: "it", engine});
  const hello = [{role: "user", content: "Hello"}];
  const call = %s;
  const wrong = [];
  for (const [kind, value] of Object.entries(VALUES)) {
    let timer;
    const late = new Promise((_, reject) => { timer = setTimeout(() => reject(new Error("hangs")), 20000); });
    try {
      await Promise.race([call(value), late]);
    } catch (error) {
      const {code, hint, message} = error;
      if (!(error instanceof sippet.SippError) || code === "error") wrong.push(`${kind}: ${code} ${message}`);
    }
    clearTimeout(timer);
  }
  return [wrong, (await client.chat(hello, {endpoint: "it", temperature: 0, maxTokens: 4})).text];
""".replace("VALUES", VALUES)


@pytest.fixture(scope="module")
def living(browser: Browser, serve: Serve) -> Iterator[Tab]:
    page = browser.new_page()
    yield Tab(page, serve().url)
    page.close()


@pytest.mark.parametrize("name", CALLS)
def test_a_value_of_a_wrong_type_gets_a_coded_error_and_the_tab_goes_on(living: Tab, name: str) -> None:
    wrong, text = living.run(RUN % CALLS[name], TINY)
    assert wrong == []
    assert text
