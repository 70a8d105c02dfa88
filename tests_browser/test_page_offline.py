"""After one visit the page and a kept model work without a network."""

from __future__ import annotations

import re
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from page_fixtures import BOOT, DROP_PICTURE, STATIC
from playwright.sync_api import Browser, BrowserContext, Page, expect
from sippet_host.models import ModelEntry
from sippet_host.server import ServerThread
from sippet_host.settings import Settings

pytestmark = pytest.mark.slow


def chat(page: Page) -> None:
    page.get_by_role("button", name="Chat", exact=True).click()
    page.get_by_label("Message", exact=True).fill("What is the capital of France?")
    page.keyboard.press("Enter")
    expect(page.locator(".message.assistant .stats")).to_have_count(1, timeout=BOOT)
    assert "Paris" in page.locator(".message.assistant .answer").inner_text()


def keep(page: Page) -> None:
    page.locator("#welcome-picker").get_by_role("button", name=re.compile("^Keep .* on this device$")).click()
    expect(page.locator("#welcome-picker .badge.kept")).to_have_text("On this device", timeout=BOOT)


# Playwright's `wait_for_function` takes a promise itself for the truth; `serviceWorker.ready` has no limit.
_UNTIL = """async ([condition, argument, limit]) => {
  const holds = {
    kept: async () => (await navigator.serviceWorker.getRegistration())?.active?.state === "activated",
    replaced: async (old) => { const names = await caches.keys(); return names.length === 1 && names[0] !== old; },
  }[condition];
  for (const end = performance.now() + limit; !(await holds(argument));) {
    if (performance.now() > end) throw new Error(`the page was never ${condition}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}"""


def until_the_page_is(page: Page, condition: str, argument: object = None) -> None:
    page.evaluate(_UNTIL, [condition, argument, BOOT])


def test_a_kept_model_answers_after_a_reload_when_the_host_is_gone(
    visitor: BrowserContext, tiny: ModelEntry, tmp_path: Path
) -> None:
    settings = Settings(port=0, static_dir=STATIC, models=(tiny,), cache_dir=tmp_path)
    with ServerThread(settings) as host:
        url = host.url
        page = visitor.new_page()
        page.set_default_timeout(BOOT)
        page.goto(url)
        keep(page)
        until_the_page_is(page, "kept")
    # The server has ended: a request could only fail.
    page.reload()
    expect(page.locator("#welcome-picker .badge.kept")).to_have_text("On this device", timeout=BOOT)
    assert page.evaluate("() => crossOriginIsolated")
    chat(page)


@contextmanager
def silent(port: int) -> Iterator[None]:
    """Takes connections, and that is all."""
    with socket.create_server(("127.0.0.1", port)):
        yield


@contextmanager
def broken(port: int) -> Iterator[None]:
    """A proxy whose host is gone."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(502)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("is_registered", [True, False])
def test_a_kept_model_that_sees_still_sees_when_the_host_is_gone(
    visitor: BrowserContext, tiny: ModelEntry, tmp_path: Path, is_registered: bool
) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    if not is_registered:
        for name, to in (("tiny-chat-f16.gguf", "seer.gguf"), ("mmproj-tiny-f16.gguf", "mmproj-seer.gguf")):
            shutil.copy(tiny.files[0].path.with_name(name), folder / to)
    models = (tiny,) if is_registered else ()
    with ServerThread(
        Settings(port=0, static_dir=STATIC, models=models, models_dir=folder, cache_dir=tmp_path)
    ) as host:
        page = visitor.new_page()
        page.goto(host.url)
        expect(page.locator("#welcome-picker .model-facts")).to_contain_text("Sees images")
        keep(page)
        show_picture(page)
        until_the_page_is(page, "kept")
        page.get_by_role("button", name="New chat").click()
    page.reload()
    show_picture(page)


def show_picture(page: Page) -> None:
    """Ask the listed model, not loaded yet, what is in a picture."""
    page.get_by_role("button", name="Chat", exact=True).click()
    expect(page.get_by_role("button", name="Add images")).to_be_visible(timeout=BOOT)
    page.evaluate(DROP_PICTURE)
    page.get_by_label("Message", exact=True).fill("What is in the image?")
    page.keyboard.press("Enter")
    expect(page.locator(".message.assistant .stats")).to_have_count(1, timeout=BOOT)
    assert "red circle" in page.locator(".message.assistant .answer").inner_text()


@pytest.mark.parametrize("instead", [silent, broken])
def test_a_kept_model_answers_after_a_reload_when_the_host_can_not(
    browser: Browser, tiny: ModelEntry, tmp_path: Path, instead: Callable[[int], AbstractContextManager[None]]
) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(BOOT)
    with ServerThread(Settings(port=0, static_dir=STATIC, models=(tiny,), cache_dir=tmp_path)) as host:
        page.goto(host.url)
        keep(page)
        until_the_page_is(page, "kept")
    with instead(host.port):
        page.reload()
        expect(page.locator("#welcome-picker .badge.kept")).to_have_text("On this device", timeout=BOOT)
        chat(page)
        context.close()


def test_without_a_network_nothing_is_asked_for(browser: Browser, page_host: Callable[..., Any]) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(BOOT)
    page.goto(page_host().url)
    keep(page)
    until_the_page_is(page, "kept")
    page.reload()  # now the service worker is in charge, and the network log is whole
    page.wait_for_function("() => navigator.serviceWorker.controller !== null")
    expect(page.locator("#welcome-picker .badge.kept")).to_have_text("On this device", timeout=BOOT)
    context.set_offline(True)
    seen: list[Any] = []
    context.on("requestfinished", lambda request: seen.append(request))
    context.on("requestfailed", lambda request: seen.append(request))
    page.reload()
    chat(page)
    from_network = [
        request.url
        for request in list(seen)  # asking for a response lets further events in
        if request.service_worker is None
        and ((answer := request.response()) is None or not answer.from_service_worker)
        and not request.url.startswith("blob:")
    ]
    assert from_network == []
    # What the service worker itself tried is the page, in case that there is a newer one.
    tried = {request.url for request in seen if request.service_worker is not None}
    assert tried <= {page_host().url, f"{page_host().url}service_worker.js"} or not tried
    context.close()


def test_a_new_version_of_the_page_takes_the_place_of_the_old_one(
    browser: Browser, tiny: ModelEntry, tmp_path: Path
) -> None:
    static = tmp_path / "static"
    (static / "templates").mkdir(parents=True)
    (static / "js").mkdir()
    for name in ("js/service_worker.js", "favicon.svg"):
        (static / name).write_text((STATIC / name).read_text())
    (static / "templates/index.html").write_text("<!doctype html><title>{{ version }}</title>{{ asset_base }}")
    with ServerThread(Settings(port=0, static_dir=static, models=(tiny,), cache_dir=tmp_path / "cache")) as host:
        context = browser.new_context()
        page = context.new_page()
        page.goto(host.url)
        page.evaluate("""async () => {
          const policy = trustedTypes.createPolicy("sippet", {createScriptURL: (url) => url});
          await navigator.serviceWorker.register(policy.createScriptURL("/service_worker.js"));
        }""")
        until_the_page_is(page, "kept")
        (before,) = page.evaluate("() => caches.keys()")
        (static / "favicon.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
        page.reload()
        page.evaluate("async () => { await (await navigator.serviceWorker.getRegistration()).update(); }")
        until_the_page_is(page, "replaced", before)
        context.close()
