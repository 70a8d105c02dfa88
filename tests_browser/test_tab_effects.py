"""No dead options on the engines of a tab: each one changes what comes, or is refused by name. See ``effects.py``."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from hosting import ROOT, Serve, copy_assets
from playwright.sync_api import Browser
from python_tab import WORKER, PythonTab
from tab import TINY

sys.path.append(str(ROOT / "tests_py"))

import effects

SAMPLING = """
    import effects
    from sippet import LocalModel, SippClient

    async with SippClient(**argument["options"]) as client:
        await client.add("it", LocalModel(argument["source"]))
        return await effects.sampling(client)
"""
RUNTIME = """
    import effects

    return await effects.runtime(argument["source"], argument["options"])
"""


@pytest.fixture(scope="module")
def python(browser: Browser, serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PythonTab]:
    """A tab that can import the probes."""
    static = copy_assets(tmp_path_factory.mktemp("static"), WORKER)
    page = browser.new_page()
    tab = PythonTab(page, serve(static_dir=static).url)
    tab.add_modules(ROOT / "tests_py" / "effects.py")
    yield tab
    page.close()


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["sippet", "wllama"])
def test_a_sampling_option_changes_what_is_sampled(python: PythonTab, engine: str) -> None:
    options = {"engine": engine, "wasm_threading": "single-thread"}
    sampled = python.run(SAMPLING, {"options": options, "source": TINY})
    assert [name for name, (once, again, _) in sampled.items() if once != again] == []
    assert [name for name, (once, _, changed) in sampled.items() if once == changed] == []


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["sippet", "wllama"])
def test_a_field_of_the_configuration_changes_something_or_is_refused_by_name(python: PythonTab, engine: str) -> None:
    found = python.run(RUNTIME, {"options": {"engine": engine}, "source": TINY})
    assert found == effects.verdicts(engine, "wasm")


def test_a_pooling_that_an_engine_lacks_is_refused_by_name(python: PythonTab) -> None:
    body = """
        import effects

        runtime = {"context": {**effects.EMBEDS, "pooling": "last"}}
        return await effects.refusal_of(argument, {"engine": "wllama"}, runtime)
    """
    assert python.run(body, TINY) == ["unsupported_option", "pooling"]
