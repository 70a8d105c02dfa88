#!/usr/bin/env python3
"""Make `static/runtime/`: what Pyodide loads besides its core. Run `tools/vendor.py` first.

    python3 tools/build_wheel.py             build what has changed
    python3 tools/build_wheel.py --rebuild   build in any case

It holds the `sippet` wheel, micropip's, the standard library and a `pyodide-lock.json` with the SHA-256 of each
wheel. With a Node.js at hand (20 or newer, or Playwright's own), Pyodide compiles all of it to its own byte code,
which halves the time that a tab takes to start; otherwise the sources are served. The wheel as it would be
published, without byte code, is left in `dist/`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import _bytecode
import _wheel
from _files import ROOT, exclusive, fingerprint, read_json, sha256, write_atomic, write_json
from _report import ToolError, megabytes, note, run, say

VENDOR = ROOT / "static" / "vendor"
RUNTIME = ROOT / "static" / "runtime"
DIST = ROOT / "dist"

_LIBRARY = "python_stdlib.zip"
_STAMP = ".stamp.json"
_OLDEST_NODE = 20
_TIMEOUT = 600  # seconds for the compilation; it takes about ten


def ensure(*, rebuild: bool = False) -> bool:
    """Bring `static/runtime/` up to date. Returns whether it was built anew.

    Raises `ToolError`: `wheel-no-vendor`, `wheel-build-failed`, `wheel-no-builder`, `wheel-compile-failed`.
    """
    pyodide, micropip = VENDOR / "pyodide", _vendored_wheel("micropip")
    with exclusive(RUNTIME / ".lock"):
        node = find_node()
        tools = [Path(__file__), *(ROOT / "tools").glob("_bytecode.*"), ROOT / "tools" / "_xbuildenv.py"]
        tools += [ROOT / "tools" / "_wheel.py", _wheel.REQUIREMENTS]
        vendored = [pyodide / _LIBRARY, pyodide / "pyodide-lock.json", micropip]
        key = fingerprint([*_wheel.sources(), *tools, *vendored], "bytecode" if node else "source")
        if not rebuild and _is_current(key):
            return False
        with tempfile.TemporaryDirectory(prefix="sippet-runtime-") as scratch:
            wheel = _wheel.build(pyodide, Path(scratch))
            write_atomic(DIST / wheel.name, wheel.read_bytes())
            inputs = {_LIBRARY: pyodide / _LIBRARY, wheel.name: wheel, micropip.name: micropip}
            files = _rewrite(inputs, node, pyodide)
        lock = runtime_lock(json.loads((pyodide / "pyodide-lock.json").read_bytes()), files)
        files["pyodide-lock.json"] = (json.dumps(lock, indent=1, sort_keys=True) + "\n").encode()
        _install(files, key)
        return True


def find_node() -> str | None:
    """A Node.js that can run Pyodide: the one on PATH, else the one inside the Playwright of `.venv`."""
    bundled = sorted((ROOT / ".venv").glob("**/playwright/driver/node*"))
    for candidate in (shutil.which("node"), *map(str, bundled)):
        if candidate is None:
            continue
        try:
            done = subprocess.run([candidate, "--version"], capture_output=True, text=True, check=False)
        except OSError:
            continue
        major = done.stdout.removeprefix("v").partition(".")[0]
        if major.isdigit() and int(major) >= _OLDEST_NODE:
            return candidate
    return None


def runtime_lock(pyodide_lock: Mapping[str, Any], files: Mapping[str, bytes]) -> dict[str, Any]:
    """A Pyodide lock that lists only the wheels among `files`, for the runtime that `pyodide_lock` describes."""
    packages = {}
    for name, data in files.items():
        if name.endswith(".whl"):
            project, version, *_ = name.split("-")
            packages[project] = {
                "name": project,
                "version": version,
                "file_name": name,
                "install_dir": "site",
                "sha256": sha256(data),
                "package_type": "package",
                "imports": [project],
                "depends": [],
                "unvendored_tests": False,
            }
    return {"info": pyodide_lock["info"], "packages": packages}


def _vendored_wheel(name: str) -> Path:
    wheels = sorted((VENDOR / name).glob(f"{name}-*.whl"))
    if len(wheels) != 1 or not (VENDOR / "pyodide" / _LIBRARY).exists():
        raise ToolError("wheel-no-vendor", "static/vendor is not complete; run `python3 tools/vendor.py` first")
    return wheels[0]


def _rewrite(inputs: Mapping[str, Path], node: str | None, pyodide: Path) -> dict[str, bytes]:
    if node is None:
        note("no Node.js 20 or newer here: serving sources, so a tab starts more slowly than with byte code")
        return {name: _bytecode.store(path.read_bytes()) for name, path in inputs.items()}
    with tempfile.TemporaryDirectory(prefix="sippet-bytecode-") as scratch:
        steps = [
            {
                "call": "compile_library" if name == _LIBRARY else "compile_wheel",
                "input": str(path),
                "output": str(Path(scratch) / name),
            }
            for name, path in inputs.items()
        ]
        script = ROOT / "tools" / "_bytecode.py"
        job = {"pyodide": str(pyodide), "script": str(script), "steps": steps}
        job_file = Path(scratch) / "job.json"
        job_file.write_text(json.dumps(job), encoding="utf-8")
        command = [node, str(script.with_suffix(".mjs")), str(job_file)]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_TIMEOUT, check=False
        )
        if done.returncode:
            raise ToolError("wheel-compile-failed", f"{node} could not run Pyodide:\n{done.stdout}{done.stderr}")
        note(f"byte code by Python {done.stdout.strip().splitlines()[-1]} in Pyodide")
        return {name: (Path(scratch) / name).read_bytes() for name in inputs}


def _is_current(key: str) -> bool:
    stamp = read_json(RUNTIME / _STAMP)
    if not isinstance(stamp, dict) or stamp.get("key") != key:
        return False
    files: dict[str, list[int]] = stamp["files"]
    try:
        return all(_status(RUNTIME / name) == status for name, status in files.items())
    except OSError:
        return False


def _status(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _install(files: Mapping[str, bytes], key: str) -> None:
    (RUNTIME / _STAMP).unlink(missing_ok=True)  # an interruption from here on means: build again
    for name, data in files.items():
        write_atomic(RUNTIME / name, data)
        note(f"{name}: {megabytes(len(data))}")
    for path in RUNTIME.iterdir():
        if path.name not in files and path.name != ".lock":
            path.unlink()
    write_json(RUNTIME / _STAMP, {"key": key, "files": {name: _status(RUNTIME / name) for name in files}})


def _main() -> int:
    parser = argparse.ArgumentParser(description="Build the sippet wheel and the files that Pyodide loads with it.")
    parser.add_argument("--rebuild", action="store_true", help="build even where nothing has changed")
    options = parser.parse_args()
    built = ensure(rebuild=options.rebuild)
    say(f"static/runtime: {'built' if built else 'up to date'}")
    return 0


if __name__ == "__main__":
    sys.exit(run(_main))
