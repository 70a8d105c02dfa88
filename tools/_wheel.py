"""Builds the `sippet` wheel: with pyodide-build where a Python new enough for it is at hand, else with hatchling.

`sippet` is pure Python, so both ways give the same bytes; pyodide-build shows that the project builds in the
Emscripten environment that Pyodide's packages are built in.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import _xbuildenv
from _files import ROOT, cache_folder, exclusive, fingerprint
from _report import ToolError, note

PROJECT = ROOT / "browser_runtime"
REQUIREMENTS = ROOT / "tools" / "requirements-build.txt"

_TIMEOUT = 900  # seconds; the first run downloads pyodide-build


class NotHere(Exception):
    """This machine can't build that way; the message says why."""


def sources() -> list[Path]:
    """Every file that goes into the wheel."""
    modules = [p for p in (PROJECT / "sippet").rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    return [*modules, PROJECT / "pyproject.toml", PROJECT / "README.md"]


def build(pyodide: Path, out: Path) -> Path:
    """Build the wheel into the folder `out`, against the Pyodide in `pyodide`, and return its path.

    Raises `ToolError` (`wheel-build-failed`, `wheel-no-builder`).
    """
    with tempfile.TemporaryDirectory(prefix="sippet-wheel-") as scratch:
        project = Path(scratch) / "project"  # a copy, since build tools leave folders in the source tree
        for path in sources():
            copy = project / path.relative_to(PROJECT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        try:
            python = pyodide_build_python()
            _xbuildenv.lay_out(pyodide, Path(scratch) / "xbuildenv" / "pyodide-root")
        except NotHere as reason:
            note(f"not using pyodide-build: {reason}")
            note("building with hatchling instead: for pure Python the wheel has the same bytes")
            command = [_hatchling(), "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
            environment = _clean_environment()
        else:
            command = [str(python), "-m", "pyodide_cli", "build", ".", "--no-isolation", "--outdir", str(out)]
            environment = {
                **_clean_environment(),
                "PYODIDE_ROOT": str(Path(scratch) / "xbuildenv" / "pyodide-root"),
                "PATH": f"{python.parent}{os.pathsep}{os.environ.get('PATH', '')}",
            }
            note("building with pyodide-build, in a cross-build environment made from the vendored Pyodide")
        _run(command, project, environment)
        wheels = list(out.glob("sippet-*.whl"))
        if len(wheels) != 1:
            raise ToolError("wheel-build-failed", f"{command[2]} left {len(wheels)} wheels where one was expected")
        return wheels[0]


def _clean_environment() -> dict[str, str]:
    """The environment without PYTHONPATH, which may hold packages for another Python."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def _run(command: list[str], folder: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT,
        check=False,
    )
    if done.returncode:
        raise ToolError("wheel-build-failed", f"{' '.join(command[1:])} failed:\n{done.stdout}{done.stderr}")


def pyodide_build_python() -> Path:
    """The Python of an environment that has pyodide-build, made in the user's cache folder on first use.

    Raises `NotHere`.
    """
    if sys.platform == "win32":
        raise NotHere("it doesn't run on Windows")
    if not shutil.which("make"):
        raise NotHere("it needs make")
    base = next(_new_pythons(), None)
    if base is None:
        raise NotHere("it needs Python 3.12 or newer")
    key = fingerprint([REQUIREMENTS], base)[:16]
    folder = cache_folder() / "pyodide-build" / key
    python = folder / "bin" / "python"
    with exclusive(folder.with_suffix(".lock")):
        if (folder / "complete").exists() and python.exists():
            return python
        note(f"installing pyodide-build for {base} into {folder} (once)")
        try:
            _create(base, folder)
        except (OSError, subprocess.SubprocessError) as error:
            shutil.rmtree(folder, ignore_errors=True)
            said = getattr(error, "stderr", None) or error
            raise NotHere(f"it could not be installed ({str(said).strip().splitlines()[-1]})") from error
    return python


def _create(base: str, folder: Path) -> None:
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    steps = ([base, "-m", "venv", "--clear", str(folder)], [*pip, "--no-input", "-r", str(REQUIREMENTS)])
    for command in steps:
        subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_TIMEOUT, check=True)
    (folder / "complete").touch()


def _new_pythons() -> Iterator[str]:
    """Interpreters here that are new enough and can make environments, the likeliest first."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    names = [sys.executable, "python3.13", "python3.14", "python3.12", "python3"]
    names += map(str, sorted(pyenv.glob("3.1[2-9]*/bin/python"), reverse=True))
    check = "import sys, venv, ensurepip; sys.stdout.write(sys.executable * (sys.version_info[:2] >= (3, 12)))"
    for name in names:
        try:
            done = subprocess.run([name, "-c", check], capture_output=True, text=True, timeout=60, check=False)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if done.returncode == 0 and done.stdout:
            yield done.stdout


def _hatchling() -> str:
    """A Python that has hatchling: this one, or the repository's environment."""
    here = ROOT / ".venv" / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    for python in (sys.executable, str(here)):
        try:
            done = subprocess.run([python, "-c", "import hatchling"], capture_output=True, check=False)
        except OSError:
            continue
        if done.returncode == 0:
            return python
    raise ToolError("wheel-no-builder", "nothing here can build a wheel; run `python3 tools/dev.py setup` first")
