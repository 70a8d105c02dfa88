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
_LOCK = "pyodide-lock.json"
_STAMP = ".stamp.json"
_OLDEST_NODE = 20
_TIMEOUT = 600  # seconds for the compilation; it takes about ten


def ensure(*, rebuild: bool = False) -> bool:
    """Bring `static/runtime/` up to date. Returns whether anything was built anew.

    It has two parts, the library (with micropip) and the wheel, so that a changed source costs seconds. Raises
    `ToolError`: `wheel-no-vendor`, `wheel-build-failed`, `wheel-no-builder`, `wheel-compile-failed`.
    """
    pyodide, micropip = _vendored()
    with exclusive(RUNTIME / ".lock"):
        node = find_node()
        keys = _keys(pyodide, micropip, node)
        parts = {} if rebuild else _current_parts(keys)
        if parts.keys() == keys.keys():
            return False
        with tempfile.TemporaryDirectory(prefix="sippet-runtime-") as scratch:
            inputs: dict[str, dict[str, Path]] = {}
            if "library" not in parts:
                inputs["library"] = {_LIBRARY: pyodide / _LIBRARY, micropip.name: micropip}
            if "wheel" not in parts:
                wheel = _wheel.build(pyodide, Path(scratch))
                write_atomic(DIST / wheel.name, wheel.read_bytes())
                inputs["wheel"] = {wheel.name: wheel}
            library = RUNTIME / _LIBRARY if "library" in parts else pyodide / _LIBRARY
            built = _rewrite({name: p for part in inputs.values() for name, p in part.items()}, node, pyodide, library)
        (RUNTIME / _STAMP).unlink(missing_ok=True)  # an interruption from here on means: build all again
        for name, data in built.items():
            write_atomic(RUNTIME / name, data)
            note(f"{name}: {megabytes(len(data))}")
        names = {part: [*inputs[part]] if part in inputs else [*parts[part]] for part in keys}
        _finish(names, keys, json.loads((pyodide / "pyodide-lock.json").read_bytes()))
        return True


def is_current() -> bool:
    """Whether `static/runtime/` is there and made from what is there now."""
    try:
        keys = _keys(*_vendored(), find_node())
    except ToolError:
        return False
    return _current_parts(keys).keys() == keys.keys()


def _keys(pyodide: Path, micropip: Path, node: str | None) -> dict[str, str]:
    """For each part, a hash over everything that goes into it."""
    form = "bytecode" if node else "source"
    tools = ROOT / "tools"
    rewriting = [*tools.glob("_bytecode.*"), Path(__file__)]
    building = [_wheel.REQUIREMENTS, tools / "_wheel.py", tools / "_xbuildenv.py", pyodide / "pyodide-lock.json"]
    return {
        "library": fingerprint([*rewriting, pyodide / _LIBRARY, micropip], form),
        "wheel": fingerprint([*rewriting, *building, *_wheel.sources()], form),
    }


def _current_parts(keys: Mapping[str, str]) -> dict[str, dict[str, list[int]]]:
    """The parts that need no work, with the size and time of each of their files."""
    stamp = read_json(RUNTIME / _STAMP)
    if not isinstance(stamp, dict) or not (RUNTIME / _LOCK).exists():
        return {}
    return {
        part: stamp[part]["files"]
        for part, key in keys.items()
        if part in stamp
        and stamp[part]["key"] == key
        and all(_status(RUNTIME / name) == status for name, status in stamp[part]["files"].items())
    }


def _finish(names: Mapping[str, list[str]], keys: Mapping[str, str], pyodide_lock: Mapping[str, Any]) -> None:
    """Write the lock over all wheels, remove what no part owns, and stamp the result."""
    kept = {name for part in names.values() for name in part}
    wheels = {name: (RUNTIME / name).read_bytes() for name in sorted(kept) if name.endswith(".whl")}
    write_json(RUNTIME / _LOCK, runtime_lock(pyodide_lock, wheels))
    for path in RUNTIME.iterdir():
        if path.name not in kept | {_LOCK, ".lock"}:
            path.unlink()
    stamp = {
        part: {"key": keys[part], "files": {name: _status(RUNTIME / name) for name in names[part]}} for part in keys
    }
    write_json(RUNTIME / _STAMP, stamp)


def _status(path: Path) -> list[int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


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


def runtime_lock(pyodide_lock: Mapping[str, Any], wheels: Mapping[str, bytes]) -> dict[str, Any]:
    """A Pyodide lock that lists only these wheels (file name and bytes), for the runtime of `pyodide_lock`."""
    packages = {}
    for name, data in wheels.items():
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


def _vendored() -> tuple[Path, Path]:
    """The vendored Pyodide's folder and micropip's wheel."""
    wheels = sorted((VENDOR / "micropip").glob("micropip-*.whl"))
    if len(wheels) != 1 or not (VENDOR / "pyodide" / _LIBRARY).exists():
        raise ToolError("wheel-no-vendor", "static/vendor is not complete; run `python3 tools/vendor.py` first")
    return VENDOR / "pyodide", wheels[0]


def _rewrite(inputs: Mapping[str, Path], node: str | None, pyodide: Path, library: Path) -> dict[str, bytes]:
    """Byte-compile archives in a Pyodide that starts from `library`, or store them where there is no Node.js."""
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
        job = {"pyodide": str(pyodide), "library": str(library), "script": str(script), "steps": steps}
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


def _main() -> int:
    parser = argparse.ArgumentParser(description="Build the sippet wheel and the files that Pyodide loads with it.")
    parser.add_argument("--rebuild", action="store_true", help="build even where nothing has changed")
    options = parser.parse_args()
    built = ensure(rebuild=options.rebuild)
    say(f"static/runtime: {'built' if built else 'up to date'}")
    return 0


if __name__ == "__main__":
    sys.exit(run(_main))
