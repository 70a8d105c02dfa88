"""Finds browsers for the tests: the one Playwright downloads, else an installed one, else the distribution's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import _apt
import _venv
from _files import read_json, write_json
from _report import ToolError, note

_FOUND = _venv.VENV / ".sippet-browsers.json"
_DOWNLOAD_TIMEOUT = 900  # seconds

_CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome", "msedge")
_FIREFOX_NAMES = ("firefox-esr", "firefox")
_CHROMIUM_PLACES = (
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "C:/Program Files/Google/Chrome/Application/chrome.exe",
    "C:/Program Files (x86)/Microsoft/Edge/Application/msedge.exe",
)
_FIREFOX_PLACES = (
    "/Applications/Firefox.app/Contents/MacOS/firefox",
    "C:/Program Files/Mozilla Firefox/firefox.exe",
)


def ensure() -> dict[str, str]:
    """The environment variables that name the browsers for the tests: `SIPPET_CHROMIUM`, `SIPPET_FIREFOX`.

    A variable that the person has set is kept. Firefox is optional: without one, its tests say that they skip.
    Raises `ToolError` (`test-no-browser`) where no Chromium can be had.
    """
    known = read_json(_FOUND)
    found: dict[str, str] = {k: v for k, v in known.items() if Path(v).exists()} if isinstance(known, dict) else {}
    found |= {k: v for k in ("SIPPET_CHROMIUM", "SIPPET_FIREFOX") if (v := os.environ.get(k))}
    chromium = found.get("SIPPET_CHROMIUM") or (
        _playwright_chromium()
        or _installed(_CHROMIUM_NAMES, _CHROMIUM_PLACES)
        or _from_apt("chromium", _CHROMIUM_NAMES)
    )
    if chromium is None:
        raise ToolError(
            "test-no-browser",
            "no Chromium was found, Playwright could not download one, and this machine's package manager could "
            "not install one. Install Chromium or Chrome (Debian: apt-get install chromium), or set SIPPET_CHROMIUM",
        )
    firefox = (
        found.get("SIPPET_FIREFOX")
        or _installed(_FIREFOX_NAMES, _FIREFOX_PLACES)
        or _from_apt("firefox-esr", _FIREFOX_NAMES)
    )
    variables = {"SIPPET_CHROMIUM": chromium, **({"SIPPET_FIREFOX": firefox} if firefox else {})}
    write_json(_FOUND, variables)
    note(f"Chromium: {chromium}")
    note(f"Firefox: {firefox or 'none, so the tests in Firefox are skipped'}")
    return variables


def _works(path: str) -> bool:
    """Whether the program starts: a browser whose system libraries are missing exists, but doesn't."""
    if sys.platform == "win32":  # there it would open a window
        return Path(path).exists()
    try:
        done = subprocess.run([path, "--version"], capture_output=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _installed(names: Iterable[str], places: Iterable[str]) -> str | None:
    candidates = [path for name in names if (path := shutil.which(name))] + [p for p in places if Path(p).exists()]
    return next(filter(_works, candidates), None)


def _playwright_chromium() -> str | None:
    python = str(_venv.program("python"))
    where = "from playwright.sync_api import sync_playwright as s\nwith s() as p: print(p.chromium.executable_path)"
    try:
        asked = subprocess.run([python, "-c", where], capture_output=True, text=True, timeout=120, check=False)
        path = asked.stdout.strip()
        if asked.returncode or not path:
            return None
        if not Path(path).exists():
            note("asking Playwright for its Chromium (about 150 MB, once)")
            command = [python, "-m", "playwright", "install", "--no-shell", "chromium"]
            subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_DOWNLOAD_TIMEOUT, check=True
            )
    except (OSError, subprocess.SubprocessError):
        note("Playwright could not download its Chromium here; looking for another")
        return None
    return path if _works(path) else None


def _from_apt(package: str, names: Iterable[str]) -> str | None:
    return _installed(names, ()) if _apt.install(package) else None
