"""The WebGPU backend, where an adapter exists; and what is said where none does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hosting import FIREFOX, Serve
from playwright.sync_api import Browser, Page, Playwright
from tab import GENERATE, TINY, Tab, TabError

# A copy on the GPU, without Sippet: a driver may give an adapter and then never do anything.
WORKS = """async () => {
  const copy = async () => {
    const device = await (await navigator.gpu?.requestAdapter())?.requestDevice();
    if (!device) return false;
    const [from, to] = [GPUBufferUsage.COPY_SRC, GPUBufferUsage.MAP_READ].map(
      (usage) => device.createBuffer({size: 4, usage: usage | GPUBufferUsage.COPY_DST}));
    device.queue.writeBuffer(from, 0, new Uint32Array([42]));
    const encoder = device.createCommandEncoder();
    encoder.copyBufferToBuffer(from, 0, to, 0, 4);
    device.queue.submit([encoder.finish()]);
    await to.mapAsync(GPUMapMode.READ);
    const [found] = new Uint32Array(to.getMappedRange());
    device.destroy();
    return found === 42;
  };
  return Promise.race([copy().catch(() => false), new Promise((resolve) => setTimeout(resolve, 60_000, false))]);
}"""

TOKENS = {"maxTokens": 4}
LIMITED = f"""
  const late = new Promise((resolve) => setTimeout(resolve, 240_000, null));
  return Promise.race([late, (async () => {{{GENERATE}}})()]);
"""

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
    if not page.evaluate(WORKS) or not tab.run("return (await sippet.environment()).gpu"):
        pytest.skip("no working WebGPU adapter with half-precision shaders on this machine")
    on_gpu = tab.run(
        LIMITED, {"prompt": "Hello", "descriptor": {"source": TINY, "backend": "webgpu"}, "request": TOKENS}
    )
    if on_gpu is None:
        other = Tab(firefox_with_gpu.new_page(), serve().url)
        assert not other.page.evaluate(WORKS), "the GPU works, and the engine on it doesn't answer"
        pytest.skip("the GPU stopped working")
    on_cpu = tab.generate("Hello", source=TINY, descriptor={"backend": "cpu"}, **TOKENS)
    assert on_gpu["info"]["accelerator"] == "webgpu"
    assert on_cpu["info"]["accelerator"] == "cpu"
    assert on_gpu["text"] == on_cpu["text"]
    page.close()


def test_webgpu_without_an_adapter_is_refused(page: Page, serve: Serve) -> None:
    with pytest.raises(TabError) as refused:
        Tab(page, serve().url).generate("Hello", source=TINY, descriptor={"backend": "webgpu"})
    assert refused.value.code == "unsupported_environment"
    assert refused.value.details["feature"] == "webgpu"
