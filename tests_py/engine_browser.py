"""Serves the built engine to a real browser and calls it there."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from playwright.sync_api import Error as PlaywrightError
from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
ENGINE = ROOT / "static/engine"
PAGE = Path(__file__).parent / "engine_page"
MODELS = Path(__file__).parent / "models"
CHROMIUM = "/usr/bin/chromium"
MIME = {".html": "text/html", ".mjs": "text/javascript", ".wasm": "application/wasm"}
# Everything the engine needs, and nothing more: a violation makes a test fail.
POLICY = "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; connect-src 'self'; worker-src 'self'"


class EngineError(Exception):
    """What the engine's host threw: `code` and message."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class EnginePage:
    """The engine in a worker of one browser page."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def __call__(self, name: str, *args: Any) -> Any:
        """Call one of the functions of engine_page/worker.mjs."""
        try:
            return self.page.evaluate("([name, args]) => engine(name, ...args)", [name, list(args)])
        except PlaywrightError as error:
            text = str(error)
            if '{"code"' not in text:
                raise
            details, _ = json.JSONDecoder().raw_decode(text[text.index('{"code"') :])
            raise EngineError(details["code"], details["message"]) from error

    def restart(self) -> None:
        """End the worker: the next call starts another one."""
        self.page.evaluate("() => endWorker()")

    def chat(self, text: str, **options: Any) -> dict[str, Any]:
        """One chat request, not streamed; the whole response object."""
        body = {"messages": [{"role": "user", "content": text}], "temperature": 0, **options}
        result = self("run", "chat", body)
        assert result["state"] == "done", result
        (response,) = result["chunks"]
        assert isinstance(response, dict)
        return response


def _handler(files: dict[str, Path]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.lstrip("/")
            if name.startswith("engine/"):
                path = ENGINE / name.removeprefix("engine/")
            else:
                path = files.get(name, PAGE / (name or "index.html"))
            packed = path.with_name(path.name + ".br")
            source = packed if packed.exists() else path
            if not source.is_file():
                self.send_error(404)
                return
            data = source.read_bytes()
            self.send_response(200)
            self.send_header("Content-Type", MIME.get(path.suffix, "application/octet-stream"))
            self.send_header("Content-Length", str(len(data)))
            if source is packed:
                self.send_header("Content-Encoding", "br")
            self.send_header("Cross-Origin-Opener-Policy", "same-origin")
            self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
            self.send_header("Content-Security-Policy", POLICY)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


@contextmanager
def engine_page(files: dict[str, Path]) -> Iterator[EnginePage]:
    """Open a page in Chromium that can reach the engine and `files` (address below "/" to file on disk)."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(files))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM)
            page = browser.new_page()
            page.set_default_timeout(240_000)
            violations: list[str] = []
            page.on(
                "console",
                lambda message: violations.append(message.text) if "Content Security Policy" in message.text else None,
            )
            page.goto(f"http://127.0.0.1:{server.server_address[1]}/")
            yield EnginePage(page)
            browser.close()
            assert violations == []
    finally:
        server.shutdown()
        server.server_close()
