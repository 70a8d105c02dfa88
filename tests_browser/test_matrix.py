"""Every execution mode, with every threading, isolated and not: it generates the same text, or says why it can't."""

from __future__ import annotations

import itertools

import pytest
from hosting import Serve
from playwright.sync_api import Browser, Page
from tab import Tab, TabError

# Greedy, also by native llama.cpp: every token is at least three times as likely as the next, so that roundings, which
# differ between builds, can't choose another.
PROMPT = "The alphabet begins: A, B, C, D,"
EXPECTED = " E, F, G, H, I,"
TOKENS = 10

MODES = ("auto", "worker", "main-thread")
THREADINGS = ("auto", "pthread", "single-thread")


@pytest.mark.parametrize(
    ("mode", "threading", "isolation"),
    list(itertools.product(MODES, THREADINGS, (True, False))),
    ids=lambda value: {True: "isolated", False: "not-isolated"}.get(value, value),
)
def test_a_cell_generates_the_same_text_or_is_refused(
    page: Page, serve: Serve, mode: str, threading: str, isolation: bool
) -> None:
    tab = Tab(page, serve(isolation=isolation).url)
    options = {"executionMode": mode, "wasmThreading": threading}
    if threading == "pthread" and not isolation:
        with pytest.raises(TabError) as refused:
            tab.generate(PROMPT, options=options, maxTokens=TOKENS)
        assert refused.value.code == "unsupported_environment"
        assert refused.value.details["feature"] == "cross_origin_isolation"
        assert "Cross-Origin-Opener-Policy" in refused.value.hint
        return
    result = tab.generate(PROMPT, options=options, maxTokens=TOKENS)
    check(result)
    assert result["info"]["engine"] == "sippet"
    threads = 1 if threading == "single-thread" or not isolation else tab.run("return navigator.hardwareConcurrency")
    assert result["info"]["threads"] == min(threads, 4)
    assert any("not cross-origin isolated" in reason for reason in result["info"]["degraded"]) == (
        threading == "auto" and not isolation
    )
    assert any("own thread" in reason for reason in result["info"]["degraded"]) == (mode == "main-thread")


@pytest.mark.parametrize("threading", ["pthread", "single-thread"])
@pytest.mark.parametrize("mode", ["worker", "main-thread"])
def test_the_fallback_engine_generates_the_same_text(page: Page, serve: Serve, mode: str, threading: str) -> None:
    options = {"engine": "wllama", "executionMode": mode, "wasmThreading": threading}
    result = Tab(page, serve().url).generate(PROMPT, options=options, maxTokens=TOKENS)
    check(result)
    assert result["info"]["engine"] == "wllama"


def check(result: dict[str, object]) -> None:
    assert result["text"] == EXPECTED
    assert result["streamed"] == result["text"]
    assert result["finishReason"] == "length"
    assert result["usage"] == {"promptTokens": 12, "cachedTokens": 0, "completionTokens": TOKENS}


@pytest.mark.parametrize("isolation", [True, False], ids=["isolated", "not-isolated"])
def test_firefox_generates_the_same_text(firefox: Browser, serve: Serve, isolation: bool) -> None:
    page = firefox.new_page()
    try:
        result = Tab(page, serve(isolation=isolation).url).generate(PROMPT, maxTokens=TOKENS)
        check(result)
        assert (result["info"]["threads"] > 1) == isolation
    finally:
        page.close()


def test_firefox_refuses_threads_without_isolation(firefox: Browser, serve: Serve) -> None:
    page = firefox.new_page()
    try:
        with pytest.raises(TabError) as refused:
            Tab(page, serve(isolation=False).url).generate(PROMPT, options={"wasmThreading": "pthread"})
        assert refused.value.details["feature"] == "cross_origin_isolation"
    finally:
        page.close()
