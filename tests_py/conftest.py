"""Fixtures for several test modules."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import unhurried  # noqa: F401 (sets Hypothesis up)
from host_http import StartHost
from sippet_host import Running, ServerThread, Settings

PAGE = """<!doctype html>
<html lang="en"><title>Test</title>
<script type="application/json" id="sippet-config">{{ config }}</script>
<script type="module" src="{{ asset_base }}js/main.mjs"></script>
"""


@pytest.fixture
def static_tree(tmp_path: Path) -> Path:
    """A small static folder with one file of each kind that the host treats in its own way."""
    root = tmp_path / "static"
    for folder in ("templates", "js", "vendor/pyodide", "engine", ".hidden"):
        (root / folder).mkdir(parents=True)
    (root / "templates/index.html").write_text(PAGE)
    (root / "js/main.mjs").write_text("export const answer = 42;\n" * 200)
    (root / "js/worker.js").write_text("self.onmessage = () => {};\n" * 200)
    (root / "vendor/pyodide/core.wasm").write_bytes(b"\0asm\1\0\0\0" + bytes(range(256)) * 40)
    (root / "vendor/pyodide/lock.json").write_text("{}")
    (root / "favicon.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    (root / ".hidden/secret.js").write_text("secret")
    (root / "js/.secret.js").write_text("secret")
    return root


@pytest.fixture
def start_host(tmp_path: Path, static_tree: Path) -> Iterator[StartHost]:
    """Starts real servers on free ports: ``start_host(models=...)`` takes the fields of `Settings`."""
    with ExitStack() as stack:

        def start(**fields: Any) -> Running:
            defaults: dict[str, Any] = {"port": 0, "static_dir": static_tree, "cache_dir": tmp_path / "cache"}
            return stack.enter_context(ServerThread(Settings(**(defaults | fields))))

        yield start
