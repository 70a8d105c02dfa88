"""A saved conversation survives the reload of its page."""

from __future__ import annotations

from typing import Any

import pytest
from tab import TINY, Tab, TabError

OPEN = """
  state.client = new sippet.SippClient({wasmThreading: argument.threading, engine: argument.engine});
  const context = {nCtx: argument.nCtx ?? 1024};
  const {info} = await state.client.add("it", {source: argument.source, runtime: {context}});
  return [info.engine, info.degraded];
"""
FIRST = """
  const talk = [{role: "user", content: "My name is Tom."}];
  const first = await state.client.chat(talk, {contextKey: "tom", temperature: 0, maxTokens: 20});
  return [first, await state.client.saveContext("tom")];
"""
SECOND = """
  const talk = [{role: "user", content: "My name is Tom."}, {role: "assistant", content: argument},
                {role: "user", content: "What is my name?"}];
  return await state.client.chat(talk, {contextKey: "tom", temperature: 0, maxTokens: 20});
"""


def reopen(tab: Tab, engine: str = "sippet", **options: Any) -> None:
    tab.page.reload()
    wanted = "wllama" if engine == "wllama" else "auto"  # which gives way to the other engine, and says why
    found, degraded = tab.run(OPEN, {"source": TINY, "threading": "single-thread", "engine": wanted, **options})
    assert found == engine, degraded


@pytest.mark.parametrize("threading", ["single-thread", "pthread"])
def test_after_a_reload_only_what_is_new_is_computed(tab: Tab, threading: str) -> None:
    reopen(tab, threading=threading)
    first, size = tab.run(FIRST)
    assert size > 1000
    reopen(tab, threading=threading)
    second = tab.run(SECOND, first["text"])
    assert second["text"] == "Your name is Tom."
    assert second["usage"]["cachedTokens"] >= first["usage"]["promptTokens"] + first["usage"]["completionTokens"] - 2


def test_a_conversation_whose_answer_was_cancelled_can_be_saved_at_once(tab: Tab) -> None:
    reopen(tab)
    saved = tab.run(
        """const talk = [{role: "user", content: "Tell me a story."}];
           const run = state.client.chat(talk, {contextKey: "tom", temperature: 0, emitTokens: true, ignoreEos: true});
           for await (const batch of run.tokens) break;
           run.cancel();
           const {finishReason} = await run;
           return [finishReason, await state.client.saveContext("tom")];"""
    )
    assert saved[0] == "cancelled"
    assert saved[1] > 1000


def test_another_configuration_computes_it_anew(tab: Tab) -> None:
    reopen(tab)
    first, _ = tab.run(FIRST)
    reopen(tab, nCtx=512)
    second = tab.run(SECOND, first["text"])
    assert (second["text"], second["usage"]["cachedTokens"]) == ("Your name is Tom.", 0)


def test_a_forgotten_conversation_is_computed_anew(tab: Tab) -> None:
    reopen(tab)
    first, _ = tab.run(FIRST)
    tab.run("await state.client.forgetContext('tom')")
    reopen(tab)
    assert tab.run(SECOND, first["text"])["usage"]["cachedTokens"] == 0


def test_the_fallback_engine_says_that_it_can_not(tab: Tab) -> None:
    reopen(tab, engine="wllama")
    with pytest.raises(TabError) as caught:
        tab.run(FIRST)
    assert caught.value.code == "unsupported_operation"
