"""A tab that runs Python in a worker, and a site that serves it with models that arrive in every way."""

from __future__ import annotations

import asyncio
import json
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aiohttp import web
from playwright.sync_api import Page

LIMIT = 240_000
"""Milliseconds for one piece of Python: what takes longer on the busiest machine hangs."""

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests_py"))

from model_server import ModelServer  # noqa: E402

HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Content-Security-Policy": "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; connect-src 'self'; "
    "worker-src 'self'",
    "Cache-Control": "no-cache",
}
TYPES = {".mjs": "text/javascript", ".js": "text/javascript", ".wasm": "application/wasm", ".json": "application/json"}

WORKER = Path(__file__).with_name("python_worker.mjs")
"""The worker's script, to be served as ``/static/js/python_worker.mjs``."""

START = """async () => {
  const {makeWorker} = await import("/static/js/workers.mjs");
  const worker = makeWorker("/static/js/python_worker.mjs", {type: "module"}, {isOurs: true});
  const calls = new Map();
  globalThis.notes = [];
  worker.onmessage = ({data}) => {
    if ("note" in data) return globalThis.notes.push(data.note);
    calls.get(data.id)(data);
    calls.delete(data.id);
  };
  const failed = new Promise((_, reject) => { worker.onerror = ({message}) => reject(new Error(message)); });
  let next = 0;
  globalThis.python = (code, argument) => Promise.race([failed, new Promise((done, reject) => {
    calls.set(++next, done);
    worker.postMessage({id: next, code, argument});
    setTimeout(() => reject(new Error("Python did not come to an end; its notes: " + notes.slice(-5))), LIMIT);
  })]);
  const {error} = await globalThis.python("'ready'");
  if (error) throw new Error(error);
}""".replace("LIMIT", str(LIMIT))

PRELUDE = """
import asyncio, dataclasses, json, time
import js
from sippet.errors import SippError
from sippet.events import Status
from sippet.models.download import DownloadOptions
from sippet.models.manifest import Manifest
from sippet.models.store import ModelStore
from sippet.platform.storage import default_storage

argument = json.loads(ARGUMENT)

async def main():
{body}

try:
    answer = {{"value": await main()}}
except SippError as error:
    answer = {{"error": error.to_dict()}}
json.dumps(answer)
"""


class Refused(Exception):
    """A Sippet error in the tab."""

    def __init__(self, fields: dict[str, Any]) -> None:
        super().__init__(json.dumps(fields))
        self.code = fields["code"]
        self.details = fields["details"]
        self.message = fields["message"]
        self.hint = fields["hint"]


class PythonTab:
    """One page with Python in a worker. Its server has :data:`WORKER`."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        page.set_default_timeout(LIMIT)
        page.goto(url)
        page.evaluate(START)

    def add_modules(self, *files: Path) -> None:
        """Let the Python of the tab import these files."""
        self.run(
            """
            import pathlib, sys
            folder = pathlib.Path("/modules")
            folder.mkdir(exist_ok=True)
            sys.path.insert(0, str(folder))
            for name, text in argument.items():
                (folder / name).write_text(text)
            """,
            {file.name: file.read_text() for file in files},
        )

    def begin(self, body: str, argument: Any = None) -> None:
        """Start Python without waiting for its end; :meth:`finish` gives what came of it."""
        code = PRELUDE.format(body=textwrap.indent(textwrap.dedent(body), "    "))
        self.page.evaluate(
            "([code, argument]) => { globalThis.run = globalThis.python(code, argument) }", [code, json.dumps(argument)]
        )

    def finish(self) -> Any:
        """The value that the Python of :meth:`begin` returned.

        Raises:
            Refused: it raised a :class:`SippError`.
        """
        answer = self.page.evaluate("() => globalThis.run")
        if "error" in answer:
            raise AssertionError(answer["error"])
        result = json.loads(answer["value"])
        if "error" in result:
            raise Refused(result["error"])
        return result["value"]

    def run(self, body: str, argument: Any = None) -> Any:
        """Run the body of an ``async def`` to its end."""
        self.begin(body, argument)
        return self.finish()

    @property
    def notes(self) -> list[str]:
        """What the Python noted by ``NOTE(text)``."""
        return self.page.evaluate("() => globalThis.notes")  # type: ignore[no-any-return]


class Site:
    """A page, the runtime's files, and a :class:`ModelServer` under ``/models/``, in a thread."""

    def __init__(self, models: ModelServer) -> None:
        self.models = models
        self.url = ""
        self.requests: list[str] = []
        self.failures: list[str] = []

    @contextmanager
    def running(self) -> Iterator[Site]:
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, daemon=True)
        thread.start()
        runner = asyncio.run_coroutine_threadsafe(self._start(), loop).result()
        try:
            yield self
        finally:
            asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    async def _start(self) -> web.AppRunner:
        app = web.Application()
        app.router.add_get("/", self._page)
        app.router.add_get("/static/js/python_worker.mjs", self._worker)
        app.router.add_get("/static/{path:.+}", self._static)
        app.router.add_get("/models/{name:.+}", self.models.serve)
        app.on_response_prepare.append(self._prepare)
        runner = web.AppRunner(app, shutdown_timeout=0.05)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
        return runner

    async def _prepare(self, request: web.Request, response: web.StreamResponse) -> None:
        self.requests.append(request.path)
        response.headers.update(HEADERS)

    async def _page(self, request: web.Request) -> web.Response:
        return web.Response(text="<!doctype html><title>Test</title>", content_type="text/html")

    async def _worker(self, request: web.Request) -> web.StreamResponse:
        return web.FileResponse(WORKER, headers={"Content-Type": TYPES[".mjs"]})

    async def _static(self, request: web.Request) -> web.StreamResponse:
        path = ROOT / "static" / request.match_info["path"]
        if ".." in path.parts or not path.is_file():
            raise web.HTTPNotFound
        return web.FileResponse(path, headers={"Content-Type": TYPES.get(path.suffix, "application/octet-stream")})
