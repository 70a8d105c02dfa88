"""The WebGPU backend, where an adapter exists; and what is said where none does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hosting import FIREFOX, Serve
from playwright.sync_api import Browser, Page, Playwright
from tab import TINY, Tab, TabError

PREFERENCES = {"dom.webgpu.enabled": True, "gfx.webgpu.ignore-blocklist": True}


@pytest.fixture(scope="module")
def firefox_with_gpu(playwright: Playwright) -> Iterator[Browser]:
    """Firefox takes Mesa's software adapter, which has the half-precision shaders that llama.cpp needs."""
    if not FIREFOX:
        pytest.skip("no Firefox on this machine")
    running = playwright.firefox.launch(channel="moz-firefox", executable_path=FIREFOX, firefox_user_prefs=PREFERENCES)
    yield running
    running.close()


def test_a_model_runs_on_the_gpu_and_gives_the_text_of_the_cpu(firefox_with_gpu: Browser, serve: Serve) -> None:
    page = firefox_with_gpu.new_page()
    tab = Tab(page, serve().url)
    if not tab.run("return (await sippet.environment()).gpu"):
        pytest.skip("no WebGPU adapter with half-precision shaders on this machine")
    on_gpu = tab.generate("Hello", source=TINY, descriptor={"backend": "webgpu"}, maxTokens=4)
    on_cpu = tab.generate("Hello", source=TINY, descriptor={"backend": "cpu"}, maxTokens=4)
    assert on_gpu["info"]["accelerator"] == "webgpu"
    assert on_cpu["info"]["accelerator"] == "cpu"
    assert on_gpu["text"] == on_cpu["text"]
    page.close()


def test_webgpu_without_an_adapter_is_refused(page: Page, serve: Serve) -> None:
    with pytest.raises(TabError) as refused:
        Tab(page, serve().url).generate("Hello", source=TINY, descriptor={"backend": "webgpu"})
    assert refused.value.code == "unsupported_environment"
    assert refused.value.details["feature"] == "webgpu"
