"""Real browsers, the real host, real models. Nothing here is a stand-in, but the page: it is empty, so that a test
decides what runs in it. The chat page has tests of its own."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from evidence import evidence
from hosting import CHROMIUM, FIREFOX, ROOT, Serve, copy_assets
from page_fixtures import open_page as open_page
from page_fixtures import page_host as page_host
from page_fixtures import watches as watches
from playwright.sync_api import Browser, BrowserContext, Page, Playwright, sync_playwright
from sippet_host import paths
from sippet_host.hashcache import HashCache
from sippet_host.models import ModelEntry, load_model
from sippet_host.packaged import default_model
from sippet_host.server import Running, ServerThread
from sippet_host.settings import Settings
from tab import Tab

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What fails once and not again where a browser, its threads and the test share two busy cores is named in the
    summary as a rerun; what fails twice fails."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.flaky(reruns=1, only_rerun="."))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Function, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and report.when != "teardown":
        report.sections.append(("Pages", evidence(item.funcargs)))
    return report


@pytest.fixture(scope="session")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as running:
        yield running


@pytest.fixture(scope="session")
def launch(playwright: Playwright) -> Callable[..., Browser]:
    """Start a Chromium of one's own: ``launch(args=[...])``."""
    return partial(playwright.chromium.launch, executable_path=CHROMIUM)


@pytest.fixture(scope="session")
def browser(launch: Callable[..., Browser]) -> Iterator[Browser]:
    running = launch()
    yield running
    running.close()


@pytest.fixture(scope="session")
def firefox(playwright: Playwright) -> Iterator[Browser]:
    if not FIREFOX:
        pytest.skip("no Firefox on this machine")
    running = playwright.firefox.launch(channel="moz-firefox", executable_path=FIREFOX)
    yield running
    running.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context()
    yield context.new_page()
    context.close()


@pytest.fixture(params=["chromium", "firefox"])
def visitor(request: pytest.FixtureRequest) -> BrowserContext:
    """Somebody new, in each of the browsers."""
    context = request.getfixturevalue("browser" if request.param == "chromium" else "firefox").new_context()
    request.addfinalizer(context.close)
    return context  # type: ignore[no-any-return]


@pytest.fixture(scope="session")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real assets around an empty page."""
    return copy_assets(tmp_path_factory.mktemp("static"))


@pytest.fixture(scope="session")
def smollm2() -> ModelEntry:
    """The default model, from the cache or fetched."""
    cache = paths.cache_dir()
    return default_model(cache, HashCache(cache / "asset-hashes.json"))


@pytest.fixture(scope="session")
def tiny() -> ModelEntry:
    return load_model(ROOT / "tests_py" / "models" / "tiny-chat-f16.gguf")


@pytest.fixture(scope="session")
def serve(assets: Path, smollm2: ModelEntry, tiny: ModelEntry) -> Iterator[Serve]:
    """Start a host; the same settings share one. All end with the session."""
    started: dict[str, Running] = {}
    with ExitStack() as stack:

        def start(**settings: Any) -> Running:
            key = repr(sorted(settings.items()))
            if key not in started:
                values = {"port": 0, "static_dir": assets, "models": (smollm2, tiny), **settings}
                started[key] = stack.enter_context(ServerThread(Settings(**values)))
            return started[key]

        yield start


@pytest.fixture
def tab(page: Page, serve: Serve) -> Tab:
    """An isolated page of the host."""
    return Tab(page, serve().url)
