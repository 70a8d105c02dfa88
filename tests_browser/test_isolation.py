"""Nothing leaves the origin, the policy is never violated, and the page is isolated when the host says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hosting import Serve
from playwright.sync_api import Browser, Page
from tab import TINY, Tab

SCHEMES = ("http", "https", "ws", "wss")


def addresses(log: Path, origin: str) -> set[str]:
    """Every address that pages and workers of ``origin`` asked for, by the browser's own network log.

    The browser also asks for updates of itself; such requests have no initiator that is a page's origin.
    """
    text = log.read_text(errors="replace")
    try:
        entries = json.loads(text)
    except json.JSONDecodeError:  # the browser was ended before it closed the list
        entries = json.loads(text.rstrip().rstrip(",") + "]}")
    params = [event["params"] for event in entries["events"] if isinstance(event.get("params"), dict)]
    urls = {values["url"] for values in params if "url" in values and values.get("initiator") == origin}
    return {url for url in urls if urlsplit(url).scheme in SCHEMES}


def test_no_request_leaves_the_origin(launch: Callable[..., Browser], serve: Serve, tmp_path: Path) -> None:
    log = tmp_path / "net.json"
    browser = launch(args=[f"--log-net-log={log}"])
    url = serve().url
    tab = Tab(browser.new_page(), url)
    tab.generate("Hello", source=TINY, maxTokens=4)
    browser.close()
    asked = addresses(log, url.rstrip("/"))
    assert f"{url[:-1]}{TINY}" in asked, "the log records requests of workers"
    assert {address for address in asked if not address.startswith(url)} == set()


@pytest.mark.parametrize("mode", ["worker", "main-thread"])
def test_no_policy_is_violated(page: Page, serve: Serve, mode: str) -> None:
    page.add_init_script(
        "globalThis.violations = []; addEventListener('securitypolicyviolation', "
        "(event) => violations.push(event.violatedDirective + ' ' + event.blockedURI))"
    )
    tab = Tab(page, serve().url)
    tab.generate("Hello", source=TINY, options={"executionMode": mode}, maxTokens=4)
    assert tab.run("return violations") == []
    assert [line for line in tab.console if "Content Security Policy" in line or "Trusted" in line] == []


def test_a_violation_would_be_seen(page: Page, serve: Serve) -> None:
    tab = Tab(page, serve().url)
    seen = tab.run(
        """const seen = new Promise((resolve) => addEventListener("securitypolicyviolation", resolve));
           const script = document.createElement("script");
           try {
             script.src = "https://elsewhere.example/x.js";
             document.head.append(script);
           } catch {}
           return (await seen).violatedDirective;"""
    )
    assert seen.startswith(("script-src", "require-trusted-types-for"))


@pytest.mark.parametrize("isolation", [True, False], ids=["isolated", "not-isolated"])
def test_the_page_is_isolated_as_configured(page: Page, serve: Serve, isolation: bool) -> None:
    assert Tab(page, serve(isolation=isolation).url).run("return crossOriginIsolated") is isolation


def test_the_default_policy_allows_no_eval_and_no_blob(page: Page, serve: Serve) -> None:
    url = serve().url
    for path in ("", "static/js/runtime_worker.mjs", "static/vendor/wllama/wllama.pthread.js", "nowhere"):
        policy = page.request.get(url + path).headers["content-security-policy"]
        assert "'unsafe-eval'" not in policy
        assert "'unsafe-inline'" not in policy
        assert "blob:" not in policy
        assert "'wasm-unsafe-eval'" in policy
