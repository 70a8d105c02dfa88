"""Tabs that are killed in the middle of an installation, in real browsers."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import signal
from pathlib import Path

import pytest
from install_fixtures import ADD, HASH, LIST, Open, manifest, model_bytes, until, watched
from install_fixtures import kind as kind
from install_fixtures import models as models
from install_fixtures import profile as profile
from install_fixtures import site as site
from playwright.sync_api import BrowserContext, Page
from python_tab import Site


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_tab_that_is_killed_anywhere_leaves_a_download_that_goes_on(
    profile: Open, site: Site, kind: str, tmp_path: Path
) -> None:
    kills, chunk = 20, 4 << 20
    rng, data = random.Random(kills), model_bytes(60_000_000)
    sent_before, again = bytearray(len(data)), 0

    def count(name: str, offset: int, piece: bytes) -> bytes:
        nonlocal again
        span = slice(offset, offset + len(piece))
        again += sum(sent_before[span])
        sent_before[span] = bytes([1]) * len(piece)
        return piece

    site.models.files["m.gguf"], site.models.alter = data, count
    context = profile()
    page = context.pages[0]
    for _ in range(kills):
        tab = watched(page, site)
        assert tab.run(LIST) == []
        before, again = site.models.sent, 0
        # Slow enough that the kill comes in the middle, and every attempt has something left to do.
        site.models.pace, site.models.piece = 0.04, 64 << 10
        tab.begin(ADD, {"manifest": manifest(data, chunk=chunk), "parallel": 2})
        share = rng.randint(1, len(data) // (kills + 1))
        until(lambda: site.models.sent - before >= share, page)  # noqa: B023
        context, page = kill(context, page, kind, tmp_path / "profile", profile)
        assert again <= chunk
    site.models.pace = again = 0
    tab = watched(page, site)
    assert tab.run(LIST) == []
    tab.run(ADD, {"manifest": manifest(data, chunk=chunk)})
    assert again <= chunk
    assert tab.run(HASH) == hashlib.sha256(data).hexdigest()


BUSY = ADD.replace("NOTE(json.dumps(dataclasses.asdict(status)))", "time.sleep(1)")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_arrived_while_python_was_busy_is_not_fetched_again(
    profile: Open, site: Site, kind: str, tmp_path: Path
) -> None:
    data, chunk, arrived = model_bytes(60_000_000), 4 << 20, 12_000_000
    site.models.files["m.gguf"], site.models.stall_after = data, [arrived, arrived]
    context = profile()
    page = context.pages[0]
    watched(page, site).begin(BUSY, {"manifest": manifest(data, chunk=chunk), "parallel": 2})
    until(lambda: site.models.sent >= 2 * arrived, page)
    page.wait_for_timeout(1000)  # what is under way arrives
    context, page = kill(context, page, kind, tmp_path / "profile", profile)
    before = site.models.sent
    tab = watched(page, site)
    tab.run(ADD, {"manifest": manifest(data, chunk=chunk)})
    assert site.models.sent - before <= len(data) - 2 * arrived + chunk
    assert tab.run(HASH) == hashlib.sha256(data).hexdigest()


def kill(context: BrowserContext, page: Page, kind: str, folder: Path, profile: Open) -> tuple[BrowserContext, Page]:
    """End the tab's process without a warning. Firefox shares processes between tabs: there all of it ends."""
    main = browser_process(folder)
    below = descendants(main)
    if kind == "chromium":
        # The one with Python in it. The browser keeps others in store: a page that is given a dead one never loads.
        tab = max((pid for pid in below if b"--type=renderer" in command(pid)), key=resident)
        with page.expect_event("crash"):
            os.kill(tab, signal.SIGKILL)
        fresh = context.new_page()
        page.close()
        return context, fresh
    for pid in [main, *below]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(Exception):
        context.close()
    for name in ("lock", ".parentlock"):
        (folder / name).unlink(missing_ok=True)
    context = profile()
    return context, context.pages[0]


def browser_process(folder: Path) -> int:
    """The browser that this test started on this profile: the first process with the folder on its command line."""
    found = [pid for pid in processes() if str(folder).encode() in command(pid)]
    return min(pid for pid in found if parent(pid) not in found)


def descendants(pid: int) -> list[int]:
    children = [other for other in processes() if parent(other) == pid]
    return [*children, *(below for child in children for below in descendants(child))]


def processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def command(pid: int) -> bytes:
    return told_of(pid, "cmdline")


def parent(pid: int) -> int:
    fields = told_of(pid, "stat").rpartition(b")")[2].split()
    return int(fields[1]) if fields else 0


def resident(pid: int) -> int:
    """Pages of memory that the process really has."""
    fields = told_of(pid, "statm").split()
    return int(fields[1]) if fields else 0


def told_of(pid: int, name: str) -> bytes:
    """A file of ``/proc``; empty where the process has ended."""
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""
