"""Hosts under test: the real assets, to be served as they are or altered."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from sippet_host.server import Running

ROOT = Path(__file__).parents[1]

CHROMIUM = os.environ.get("SIPPET_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
FIREFOX = os.environ.get("SIPPET_FIREFOX") or shutil.which("firefox-esr")

Serve = Callable[..., Running]
"""What the fixture ``serve`` gives: start a host with these settings."""


def copy_assets(target: Path, *scripts: Path) -> Path:
    """A copy of ``static/`` that a test may alter, with ``scripts`` in its folder ``js``; large files are linked where
    the file system can."""
    for folder in ("js", "css", "vendor", "runtime", "engine"):
        if (ROOT / "static" / folder).is_dir():
            shutil.copytree(ROOT / "static" / folder, target / folder, copy_function=_link, dirs_exist_ok=True)
    for script in scripts:
        (target / "js" / script.name).write_bytes(script.read_bytes())
    (target / "templates").mkdir(exist_ok=True)
    (target / "templates" / "index.html").write_text('<!doctype html><html lang="en"><title>Empty</title></html>')
    return target


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
