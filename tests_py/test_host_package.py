"""The package as a whole."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import sippet_host
from sippet_host import errors, paths
from sippet_host.errors import HostError

PACKAGE = Path(sippet_host.__file__).parent


def test_all_lists_what_the_package_imports_and_nothing_else() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    imported = {
        alias.asname or alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert sorted(sippet_host.__all__) == sorted(imported)
    assert all(hasattr(sippet_host, name) for name in sippet_host.__all__)


def test_each_error_has_a_code_of_its_own_and_stands_in_the_tree() -> None:
    found: list[type[HostError]] = []
    queue: list[type[HostError]] = [HostError]
    while queue:
        found.append(queue.pop())
        queue += found[-1].__subclasses__()
    codes = [kind.code for kind in found]
    assert len(set(codes)) == len(codes)
    assert errors.__doc__
    for kind in found:
        assert kind.__name__ in errors.__doc__


def test_the_readme_maps_every_module() -> None:
    readme = (PACKAGE.parent / "README.md").read_text()
    shown = readme.partition("## Map")[2]
    for path in PACKAGE.glob("*.py"):
        if not path.stem.startswith("_") and path.stem != "version":
            assert f"`{path.stem}`" in shown, path.stem


def test_the_static_folder_of_a_checkout_is_found() -> None:
    assert paths.static_dir() == PACKAGE.parent.parent / "static"


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"SIPPET_CACHE": "/a/b", "XDG_CACHE_HOME": "/c"}, Path("/a/b")),
        ({"SIPPET_CACHE": "", "XDG_CACHE_HOME": "/c"}, Path("/c/sippet")),
    ],
)
def test_the_cache_folder_can_be_chosen(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: Path
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert paths.cache_dir() == expected


def test_importing_the_package_starts_nothing_and_warns_of_nothing() -> None:
    command = [sys.executable, "-W", "error", "-c", "import sippet_host, threading; print(threading.active_count())"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout == "1\n"
