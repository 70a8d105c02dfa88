"""The page's service worker: its script, and the list of files that it keeps for use without a network."""

from __future__ import annotations

import json
from collections.abc import Iterable

SCRIPT = "js/service_worker.js"

_SUFFIXES = (".mjs", ".js", ".css", ".svg", ".json", ".wasm", ".zip", ".whl")

# What an ordinary visit doesn't load: the fallback engines, and packages that only other programs ask for.
_LEFT_OUT = (
    "vendor/wllama", "vendor/micropip", "runtime/micropip", "vendor/pyodide/python_stdlib.zip",
    "vendor/pyodide/pyodide-lock.json", SCRIPT,
)  # fmt: skip


def worker_script(code: str, version: str, paths: Iterable[str]) -> str:
    """The service worker's script.

    Args:
        code: of ``static/js/service_worker.js``.
        version: of the assets.
        paths: all assets, below their version.
    """
    kept = [f"/assets/{version}/{path}" for path in sorted(paths) if is_kept(path)]
    return f"const FILES = {json.dumps({'version': version, 'paths': kept})};\n{code}"


def is_kept(path: str) -> bool:
    """Whether the page needs an asset in order to start and to run a model."""
    return path.endswith(_SUFFIXES) and not path.startswith(_LEFT_OUT)
