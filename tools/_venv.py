"""The repository's own Python environment, `.venv`: made once, completed when requirements change, remade if broken."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

from _files import ROOT, cache_folder, exclusive, fingerprint, read_json, sha256, write_json
from _report import ToolError, note

VENV = ROOT / ".venv"

_BIN = VENV / ("Scripts" if sys.platform == "win32" else "bin")
_SUFFIX = ".exe" if sys.platform == "win32" else ""
_STAMP = VENV / ".sippet.json"
_TIMEOUT = 1800  # seconds for one pip run, which may download a browser driver of 50 MB over a slow line


def program(name: str) -> Path:
    """The path of a program in the environment (`python`, `sippet`, `pytest`)."""
    return _BIN / f"{name}{_SUFFIX}"


def ensure(purpose: str) -> bool:
    """Make the environment fit for `serve` or `test`, whatever state it is in. Returns whether anything was done.

    `test` includes `serve`. Both distributions are installed as editable. Raises `ToolError`: `setup-no-venv`,
    `setup-venv-failed`, `setup-pip-failed`.
    """
    lock = cache_folder() / "locks" / f"{sha256(str(ROOT).encode())[:16]}.lock"  # outside: .venv may be cleared
    with exclusive(lock):
        wanted = _wanted(purpose)
        stamp = read_json(_STAMP)
        done = stamp if isinstance(stamp, dict) and program("python").exists() else {}
        if all(done.get(part) == key for part, key in wanted.items()):
            return False
        if not done or not _has_pip():  # no stamp: somebody else's environment, or a set-up that was cut short
            _create()
            done = {"environment": "made"}
        _STAMP.unlink(missing_ok=True)
        try:
            if done.get(purpose) != wanted[purpose]:
                note(f"installing what `{purpose}` needs (tools/{_requirements(purpose).name})")
                _pip("-r", str(_requirements(purpose)))
                done |= {part: key for part, key in wanted.items() if part != "projects"}
            if done.get("projects") != wanted["projects"]:
                note("installing sippet and sippet-host as editable")
                projects = ("-e", str(ROOT / "browser_runtime"), "-e", str(ROOT))
                _pip("--no-deps", "--no-build-isolation", *projects)
                done["projects"] = wanted["projects"]
        except ToolError:
            write_json(_STAMP, done)  # pip refused, so the environment is as it was, and need not be made anew
            raise
        write_json(_STAMP, done)
        return True


def _requirements(purpose: str) -> Path:
    return ROOT / "tools" / f"requirements-{purpose}.txt"


def _wanted(purpose: str) -> dict[str, str]:
    """What the stamp must say: a key for each part, which changes when the part has to be installed again."""
    wanted = {"serve": fingerprint([_requirements("serve")])}
    if purpose == "test":
        wanted["test"] = fingerprint([_requirements("serve"), _requirements("test")])
    projects = [ROOT / "pyproject.toml", ROOT / "browser_runtime" / "pyproject.toml"]
    return {**wanted, "projects": fingerprint(projects, str(ROOT))}


def _has_pip() -> bool:
    try:
        command = [str(program("python")), "-m", "pip", "--version"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _create() -> None:
    if not all(importlib.util.find_spec(name) for name in ("venv", "ensurepip")):
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise ToolError(
            "setup-no-venv",
            f"this Python {version} can't make environments: its venv or ensurepip module is missing. On Debian and "
            f"Ubuntu: apt-get install python{version}-venv; on other systems install a complete Python 3.11 or newer",
        )
    note(f"making {VENV.name} with Python {sys.version.split()[0]}")
    shutil.rmtree(VENV, ignore_errors=True)
    # Not sys.executable, which may be the broken environment's own.
    command = [getattr(sys, "_base_executable", sys.executable), "-m", "venv", str(VENV)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode or not _has_pip():
        raise ToolError(
            "setup-venv-failed",
            f"`{' '.join(command)}` failed. Is there space, and may you write here?\n{done.stdout}{done.stderr}",
        )


def _pip(*arguments: str) -> None:
    command = [str(program("python")), "-m", "pip", "install", "--quiet", "--no-input", "--progress-bar=off"]
    command += ["--disable-pip-version-check", *arguments]
    # PIP_USER would put packages outside the environment; as root, pip's warning doesn't apply to an environment.
    environment = {**os.environ, "PIP_USER": "0", "PIP_ROOT_USER_ACTION": "ignore"}
    environment.pop("PYTHONPATH", None)  # pip would take what lies there for installed
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT,
        check=False,
    )
    if done.returncode:
        last = "\n".join((done.stdout + done.stderr).strip().splitlines()[-12:])
        raise ToolError(
            "setup-pip-failed",
            "pip could not install the Python packages. Connect to the network (HTTPS_PROXY is honoured), or point "
            f"PIP_INDEX_URL or PIP_FIND_LINKS to a place that has them, and run this again. pip said:\n{last}",
        )
