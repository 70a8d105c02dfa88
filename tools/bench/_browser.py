"""A host and a browser for benchmarks, and the statistics that they print."""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from playwright.sync_api import BrowserContext, sync_playwright
from sippet_host import paths
from sippet_host.hashcache import HashCache
from sippet_host.models import ModelEntry
from sippet_host.packaged import default_model
from sippet_host.server import ServerThread
from sippet_host.settings import Settings

HERE = Path(__file__).parent
STATIC = HERE.parents[1] / "static"


@dataclass(frozen=True)
class Bench:
    """What a benchmark works with: a browser, the host's address, the model's path, the folder of the profile."""

    context: BrowserContext
    url: str
    model: str
    profile: str


@contextmanager
def bench(
    isolation: bool = True, models: tuple[ModelEntry, ...] = (), browser: Literal["chromium", "firefox"] = "chromium"
) -> Iterator[Bench]:
    """Serve the real assets around an empty page that may import ``/static/bench/*.mjs``, and more ``models``."""
    cache = paths.cache_dir()
    model = default_model(cache, HashCache(cache / "asset-hashes.json"))
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        static = Path(folder) / "static"
        shutil.copytree(STATIC, static, ignore=shutil.ignore_patterns("templates"))
        shutil.copytree(HERE, static / "bench", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
        (static / "templates").mkdir()
        (static / "templates" / "index.html").write_text("<!doctype html><title>Benchmark</title>")
        settings = Settings(port=0, static_dir=static, models=(model, *models), isolation=isolation)
        profile = str(Path(folder) / "profile")
        with ServerThread(settings) as host:
            if browser == "chromium":
                executable = os.environ.get("SIPPET_CHROMIUM") or shutil.which("chromium")
                context = playwright.chromium.launch_persistent_context(profile, executable_path=executable)
            else:
                executable = os.environ.get("SIPPET_FIREFOX") or shutil.which("firefox-esr")
                context = playwright.firefox.launch_persistent_context(
                    profile, channel="moz-firefox", executable_path=executable
                )
            context.set_default_timeout(0)
            yield Bench(context, host.url, model.describe()["url"], profile)
            context.close()


def spread(values: Sequence[float], unit: str, digits: int = 2) -> str:
    """Median, and the range that it came from."""
    low, high = min(values), max(values)
    return f"{statistics.median(values):.{digits}f} {unit} ({low:.{digits}f} to {high:.{digits}f}, n={len(values)})"
