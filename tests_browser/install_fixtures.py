"""Fixtures of the tests that install models in real browsers: profiles on disk, a site with a model, Python tabs."""

from __future__ import annotations

import contextlib
import hashlib
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hosting import CHROMIUM, FIREFOX
from playwright.sync_api import BrowserContext, Page, Playwright
from python_tab import PythonTab, Site

from gguf_builder import MODEL, T, gguf  # isort: skip  (python_tab makes tests_py importable)
from model_server import ModelServer  # isort: skip

CHUNK = 1 << 20

Open = Callable[..., BrowserContext]

ADD = """
    options = DownloadOptions(parallel=argument.get("parallel", 4), backoff=0.05)
    model = await ModelStore(options=options).add(
        Manifest.from_dict(argument["manifest"]) if "manifest" in argument else argument["url"],
        on_progress=lambda status: NOTE(json.dumps(dataclasses.asdict(status))),
    )
    return model.to_dict()
"""
LIST = "return [model.id for model in await ModelStore().list()]"
VERIFY = """
    found = await ModelStore().verify("m", repair=argument["repair"])
    return [found.chunks, found.bad, found.repaired]
"""
HASH = """
    import hashlib
    (source,), _ = await ModelStore().open("m")
    whole = hashlib.sha256()
    for offset in range(0, source.size, 1 << 20):
        whole.update(await source.read(offset, 1 << 20))
    return whole.hexdigest()
"""


def model_bytes(size: int, seed: int = 1) -> bytes:
    """A sound GGUF file of about this size, with weights that don't compress."""
    data = gguf(MODEL, [T("token_embd.weight", (64, size // 128), 1)])
    head = len(data) - size // 128 * 128
    return data[:head] + random.Random(seed).randbytes(len(data) - head)


BIG = model_bytes(12_000_000)


def manifest(data: bytes = BIG, *, hashes: bool = True, chunk: int = CHUNK) -> dict[str, Any]:
    chunks = [hashlib.sha256(data[i : i + chunk]).hexdigest() for i in range(0, len(data), chunk)]
    file: dict[str, Any] = {"name": "m.gguf", "url": "/models/m.gguf"}
    if hashes:
        file |= {"size": len(data), "chunks": chunks}
    return {"id": "m", "name": "M", "chunk_size": chunk, "files": [file]}


@pytest.fixture
def models() -> ModelServer:
    return ModelServer({"m.gguf": BIG})


@pytest.fixture
def site(models: ModelServer) -> Iterator[Site]:
    with Site(models).running() as running:
        yield running


@pytest.fixture(params=["chromium", "firefox"])
def kind(request: pytest.FixtureRequest) -> str:
    if not (CHROMIUM if request.param == "chromium" else FIREFOX):
        pytest.skip(f"no {request.param} on this machine")
    return str(request.param)


@pytest.fixture
def profile(kind: str, playwright: Playwright, tmp_path: Path) -> Iterator[Open]:
    """Open a browser on one profile, as often as wanted; storage in such a profile is on disk, as a user's is."""
    opened: list[BrowserContext] = []

    def open_profile(**prefs: Any) -> BrowserContext:
        if kind == "chromium":
            context = playwright.chromium.launch_persistent_context(tmp_path / "profile", executable_path=CHROMIUM)
        else:
            context = playwright.firefox.launch_persistent_context(
                tmp_path / "profile", channel="moz-firefox", executable_path=FIREFOX, firefox_user_prefs=prefs
            )
        opened.append(context)
        return context

    yield open_profile
    for context in opened:
        with contextlib.suppress(Exception):  # it may have been killed
            context.close()


@pytest.fixture
def tab(profile: Open, site: Site) -> Iterator[PythonTab]:
    yield watched(profile().pages[0], site)


def watched(page: Page, site: Site) -> PythonTab:
    """A tab whose console must stay free of policy violations."""
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if "Content" in message.text else None)
    tab = PythonTab(page, site.url)
    assert not complaints
    return tab


def model_requests(site: Site) -> int:
    return sum(path.startswith("/models/") for path in site.requests)


def until(condition: Callable[[], bool], page: Page | None = None) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        if page is not None:
            page.wait_for_timeout(5)
        else:
            time.sleep(0.002)
