"""The calls of ``tests_py/parity.py`` inside Pyodide: on both WebAssembly engines, and on servers through ``fetch``.

What they tell is compared with native llama.cpp's answers, which ``tests_py/test_parity.py`` compares with servers'.
"""

from __future__ import annotations

import base64
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hosting import ROOT, Serve, copy_assets
from playwright.sync_api import Browser
from python_tab import WORKER, PythonTab
from tab import TINY

sys.path.append(str(ROOT / "tests_py"))

import parity
from parity_places import PROJECTOR, host_gateway, llama_servers, native_facts

LOCAL = """
    import base64, parity
    from pyodide.ffi import to_js
    from sippet import LocalModel, SippClient

    data = base64.b64decode(argument["projector"])
    projector = js.File.new(to_js([memoryview(data)]), "mmproj.gguf")
    async with SippClient(**argument["options"]) as client:
        text = LocalModel(argument["source"], projector=projector, runtime=parity.RUNTIME)
        info = (await client.add(parity.TEXT, text)).info
        await client.add(parity.VECTORS, LocalModel(argument["source"], runtime=parity.EMBEDDING))
        return [info.engine, await parity.run(client, "local")]
"""

REMOTE = """
    import parity
    from sippet import Gateway, SippClient

    async with SippClient() as client:
        for name, fields in argument.items():
            await client.add(name, Gateway.of(fields))
        return await parity.run(client, "remote")
"""


@pytest.fixture(scope="module")
def native() -> dict[str, Any]:
    return native_facts()


@pytest.fixture(scope="module")
def static(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real assets, and the worker that runs what a test sends."""
    return copy_assets(tmp_path_factory.mktemp("static"), WORKER)


@pytest.fixture
def python(browser: Browser, serve: Serve, static: Path) -> Iterator[PythonTab]:
    """A tab that can import the scenarios, and reach servers of this machine."""
    page = browser.new_page()
    tab = PythonTab(page, serve(static_dir=static, connect_sources=("http://127.0.0.1:*",)).url)
    tab.add_modules(ROOT / "tests_py" / "parity.py", ROOT / "tests_py" / "pictures.py")
    yield tab
    page.close()


@pytest.mark.parametrize(("engine", "lacks"), [("sippet", ()), ("wllama", parity.NO_TOKENIZER)])
def test_an_engine_in_a_tab_gives_what_the_native_engine_gives(
    native: dict[str, Any], python: PythonTab, engine: str, lacks: tuple[str, ...]
) -> None:
    options = {"engine": engine, "wasm_threading": "single-thread"}
    projector = base64.b64encode(PROJECTOR.read_bytes()).decode()
    name, found = python.run(LOCAL, {"options": options, "source": TINY, "projector": projector})
    assert name == engine
    assert parity.compare(native, found, lacks) == []
    assert [found[name] for name in lacks] == [{"error": "unsupported_operation"}] * len(lacks)


def test_a_llama_server_gives_a_tab_what_the_native_engine_gives(native: dict[str, Any], python: PythonTab) -> None:
    with llama_servers() as endpoints:
        found = python.run(REMOTE, endpoints)
    assert parity.compare(native, found, parity.TOOLS) == []


def test_the_hosts_gateway_gives_a_tab_what_the_native_engine_gives(
    native: dict[str, Any], python: PythonTab, tmp_path: Path
) -> None:
    with host_gateway(tmp_path, "{0.scheme}://{0.netloc}".format(urlsplit(python.page.url))) as endpoints:
        found = python.run(REMOTE, endpoints)
    assert parity.compare(native, found, parity.NO_TOKENIZER) == []
