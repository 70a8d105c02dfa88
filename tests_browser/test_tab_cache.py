"""A model that is given by its address is fetched once, where the program wants that."""

from __future__ import annotations

from tab import TINY, Tab

ASK = """
  const client = new sippet.SippClient({wasmThreading: "single-thread", browserCache: argument.cache});
  const states = new Set();
  await client.add("it", {source: argument.source, onProgress: ({state}) => states.add(state)});
  const {text} = await client.query("Once", {temperature: 0, maxTokens: 4});
  const installed = (await client.models.list()).map(({id}) => id);
  await client.close();
  return {text, installed, fetched: states.has("downloading")};
"""


def test_a_model_at_an_address_is_kept_where_the_program_wants_it(tab: Tab) -> None:
    plain = tab.run(ASK, {"source": TINY, "cache": False})
    assert (plain["installed"], plain["fetched"]) == ([], True)
    first = tab.run(ASK, {"source": TINY, "cache": True})
    assert (len(first["installed"]), first["fetched"]) == (1, True)
    tab.page.reload()
    asked: list[str] = []
    tab.page.context.on("request", lambda request: asked.append(request.url))
    again = tab.run(ASK, {"source": TINY, "cache": True})
    assert again == {**first, "fetched": False}
    assert first["text"] == plain["text"]
    assert not [url for url in asked if url.endswith(".gguf")]
