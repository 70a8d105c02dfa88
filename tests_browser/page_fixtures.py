"""Fixtures for tests of the chat page: opens it, and watches what it does besides what it shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Request, expect
from sippet_host.models import ModelEntry
from sippet_host.server import Running

STATIC = Path(__file__).parents[1] / "static"
BOOT = 300_000
"""Milliseconds for Python and the engine to start from nothing on a busy machine."""

expect.set_options(timeout=60_000)  # 5 seconds, the default, are too short for a page that asks Python there

# Collects what the policy forbade. Init scripts are the browser's own: the policy does not apply to them.
_WATCH = """
self.violations = [];
addEventListener("securitypolicyviolation", (event) => {
  self.violations.push(`${event.effectiveDirective} ${event.blockedURI} ${event.sourceFile}:${event.lineNumber}`);
});
"""

# A client module that never finishes to load: what the page sees while Python starts.
_ENDLESS = "export class SippClient {} await new Promise(() => {});"

# Drops a picture, drawn on the spot, onto the page.
DROP_PICTURE = """async () => {
  const canvas = new OffscreenCanvas(128, 128);
  const pen = canvas.getContext("2d");
  pen.fillStyle = "rgb(250 250 250)";
  pen.fillRect(0, 0, 128, 128);
  pen.fillStyle = "rgb(220 30 30)";
  pen.arc(64, 64, 28, 0, 7);
  pen.fill();
  const transfer = new DataTransfer();
  transfer.items.add(new File([await canvas.convertToBlob()], "picture.png", {type: "image/png"}));
  document.body.dispatchEvent(new DragEvent("drop", {dataTransfer: transfer, bubbles: true, cancelable: true}));
}"""

OpenPage = Callable[..., Page]


@dataclass
class Watch:
    """What a page did."""

    origin: str
    requests: list[Request] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def foreign(self) -> list[str]:
        """Requests that left the origin."""
        return [request.url for request in self.requests if not request.url.startswith((self.origin, "blob:"))]


@pytest.fixture(scope="session")
def page_host(serve: Callable[..., Running], tiny: ModelEntry) -> Callable[..., Running]:
    """Starts a host that serves the real page and the tiny model; takes more `Settings`."""
    return lambda **settings: serve(**{"static_dir": STATIC, "models": (tiny,), **settings})


@pytest.fixture
def watches() -> dict[Page, Watch]:
    """The pages of this test, and what they did."""
    return {}


@pytest.fixture
def open_page(
    browser: Browser, page_host: Callable[..., Running], watches: dict[Page, Watch]
) -> Iterator[Callable[..., Page]]:
    """Opens the chat page; afterwards nothing may have left the origin, broken the policy or thrown.

    ``boot=False`` keeps Python from starting, for tests of what needs none. ``url`` names another host, ``engine``
    another browser, ``context`` a context to share. The rest are options of a new context.
    """
    contexts: list[BrowserContext] = []

    def open_one(
        url: str | None = None,
        *,
        boot: bool = True,
        engine: Browser = browser,
        context: BrowserContext | None = None,
        **options: Any,
    ) -> Page:
        if context is None:
            options.setdefault("service_workers", "block")  # it would answer in place of what a test routes
            context = engine.new_context(**options)
            context.add_init_script(_WATCH)
            contexts.append(context)
        page = context.new_page()
        watch = watches[page] = Watch(url or page_host().url)
        page.on("request", lambda request: watch.requests.append(request))
        page.on("pageerror", lambda error: watch.errors.append(str(error)))
        if not boot:
            page.route("**/js/sippet.mjs", lambda route: route.fulfill(body=_ENDLESS, content_type="text/javascript"))
        page.goto(watch.origin)
        page.wait_for_selector("html[data-ready]")
        return page

    yield open_one
    for page, watch in watches.items():
        assert watch.foreign == []
        assert watch.errors == []
        assert page.is_closed() or page.evaluate("() => self.violations") == []
    for context in contexts:
        context.close()
