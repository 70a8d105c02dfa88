"""The unit tests of the ``sippet`` package, run by pytest inside Pyodide in a browser: the same files as in CPython."""

from __future__ import annotations

import importlib.util
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosting import ROOT, Serve, copy_assets
from playwright.sync_api import Page
from tab import Tab

TESTS = ROOT / "tests_py"
PACKAGES = ("pytest", "_pytest", "pluggy", "iniconfig", "packaging", "pygments", "hypothesis", "sortedcontainers")
MODULES = ("py", "_hypothesis_globals", "_hypothesis_ftz_detector", "_hypothesis_pytestplugin")

SUITE = (
    "test_glue.py",
    "test_wasm_plan.py",
    "test_models_gguf.py",
    "test_config.py",
    "test_options.py",
    "test_schema.py",
    "test_sse.py",
    "test_runs.py",
    "test_scheduler.py",
    "test_tools.py",
    "test_engine_host.py",
    "test_models_plan.py",
    "test_models_split.py",
    "test_client.py",
    "test_errors.py",
    "test_protocol.py",
    "test_json.py",
    "test_stops.py",
)
"""Files that need neither sockets nor processes, which a tab hasn't got."""


def package_files(name: str) -> Iterator[tuple[Path, str]]:
    spec = importlib.util.find_spec(name)
    assert spec and spec.origin, f"{name} is not installed"
    root = Path(spec.origin).parent
    if not spec.submodule_search_locations:
        yield Path(spec.origin), f"packages/{name}.py"
        return
    for path in root.rglob("*"):
        if path.suffix in (".py", ".json", ".typed") and "__pycache__" not in path.parts:
            yield path, f"packages/{name}/{path.relative_to(root)}"


@pytest.fixture(scope="module")
def site(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A host that also has the suite: pytest with what it needs, the test files, and their models."""
    static = copy_assets(tmp_path_factory.mktemp("suite"), Path(__file__).with_name("suite_worker.mjs"))
    with zipfile.ZipFile(static / "runtime" / "suite.zip", "w") as archive:
        for name in PACKAGES + MODULES:
            for path, member in package_files(name):
                archive.write(path, member)
        for path in [*TESTS.glob("*.py"), *(TESTS / "models").glob("*.gguf")]:
            if path.name != "conftest.py":
                archive.write(path, f"tests_py/{path.relative_to(TESTS)}")
        for path in (ROOT / "static" / "js").rglob("*.mjs"):  # what Python's names are held against
            archive.write(path, path.relative_to(ROOT))
        archive.writestr("pytest.ini", "[pytest]\nfilterwarnings = error\nmarkers = slow: takes long\n")
    return serve(static_dir=static).url


@pytest.mark.slow
def test_the_unit_tests_pass_in_a_tab(page: Page, site: str) -> None:
    tab = Tab(page, site)
    report = tab.run(
        """const {trustedWorker} = await import("/static/js/trusted.mjs");
           const worker = trustedWorker(new URL("/static/js/suite_worker.mjs", location.href), {type: "module"});
           const done = new Promise((resolve) => {
             worker.onmessage = ({data}) => resolve(data);
             worker.onerror = ({message}) => resolve({error: message});
           });
           worker.postMessage(argument);
           const {report, error} = await done;
           if (error) throw new Error(error);
           return report;""",
        {
            "base": site,
            "archive": f"{site}static/runtime/suite.zip",
            "files": [f"/suite/tests_py/{name}" for name in SUITE],
        },
    )
    assert not report["failed"], "\n\n".join(f"{name}\n{text}" for name, text in report["failed"].items())
    assert report["code"] == 0
    passed = {name.split("::")[0].rsplit("/", 1)[-1] for name in report["passed"]}
    assert passed == set(SUITE), "every file ran"
