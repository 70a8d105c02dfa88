#!/usr/bin/env python3
"""How fast a model is installed, and what memory that takes, against a plain fetch of the same bytes to memory.

    python tools/bench/install.py [--rounds 5] [--browser firefox] [MODEL.gguf]

Both come from the host on loopback, in turns; an installation also verifies every chunk and writes it to the disk. At
the first one of a page Chromium compiles Python's interpreter anew, which keeps one core busy for half a second, so it
is told apart from those that follow.
Memory is what all processes of the browser take at most above what they took before, by their shares of it (PSS). It
is watched in rounds of its own: asking for it keeps a core busy.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
import urllib.request
from pathlib import Path

from _browser import Bench, bench, spread
from playwright.sync_api import Page
from sippet_host.models import load_model

START = """async () => {
  const {SippClient} = await import("/static/js/sippet.mjs");
  globalThis.client = new SippClient();
  await client.ready;
  await client.models.list();
}"""

FETCH = """async (url) => {
  const start = performance.now();
  const {byteLength} = await (await fetch(url, {cache: "no-store"})).arrayBuffer();
  return byteLength / (performance.now() - start) / 1000;
}"""

INSTALL = """async (manifest) => {
  const start = performance.now();
  const {id, size} = await client.models.add(manifest);
  const rate = size / (performance.now() - start) / 1000;
  await client.models.remove(id);
  return rate;
}"""


AGAIN = 3  # installations in a page after its first
REST = 2  # seconds in which the browser ends what it has to do after a page's start


class MemoryWatch(threading.Thread):
    """Notes the most memory that a browser takes while the block runs.

    Attributes:
        growth: megabytes above those at the start.
    """

    def __init__(self, profile: str) -> None:
        super().__init__(daemon=True)
        self._profile, self._end = profile.encode(), threading.Event()
        self._before = self._most = self._memory()

    def _memory(self) -> int:
        total = 0
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if self._is_ours(folder):
                    lines = (folder / "smaps_rollup").read_text().splitlines()
                    total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
            except (OSError, StopIteration):
                continue  # it has ended
        return total

    def _is_ours(self, folder: Path) -> bool:
        while folder.name not in ("0", "1"):
            if self._profile in (folder / "cmdline").read_bytes():
                return True
            folder = folder.with_name((folder / "stat").read_text().rpartition(")")[2].split()[1])
        return False

    @property
    def growth(self) -> float:
        return (self._most - self._before) * 1024 / 1e6

    def run(self) -> None:
        while not self._end.wait(0.05):
            self._most = max(self._most, self._memory())

    def __enter__(self) -> MemoryWatch:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self.join()


def started_page(place: Bench) -> Page:
    """A new page in which a client is ready."""
    page = place.context.new_page()
    page.goto(place.url)
    page.evaluate(START)
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", type=Path, help="by default the default model, 98 MB")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--browser", choices=("chromium", "firefox"), default="chromium")
    options = parser.parse_args()
    models = (load_model(options.model),) if options.model else ()
    rates: dict[str, list[float]] = {"fetch": [], "first": [], "install": []}
    growths: dict[str, list[float]] = {"fetch": [], "install": []}
    with bench(models=models, browser=options.browser) as place:
        url = models[0].describe()["url"] if models else place.model
        manifest = f"{url.rpartition('/')[0]}/manifest.json"
        urllib.request.urlopen(f"{place.url.rstrip('/')}{manifest}").read()  # the host works the hashes out once
        for _ in range(options.rounds):
            page = started_page(place)
            time.sleep(REST)
            page.evaluate(FETCH, url)
            for what in ("first", *["install"] * AGAIN):
                rates[what].append(page.evaluate(INSTALL, manifest))
                rates["fetch"].append(page.evaluate(FETCH, url))
            page.close()
        for _ in range(options.rounds):
            for what, code, argument in (("fetch", FETCH, url), ("install", INSTALL, manifest)):
                page = started_page(place)
                with MemoryWatch(place.profile) as memory:
                    page.evaluate(code, argument)
                growths[what].append(memory.growth)
                page.close()
    fetch = statistics.median(rates["fetch"])
    for what, found in rates.items():
        print(f"{what:8} {spread(found, 'MB/s', 0)}, of fetch {statistics.median(found) / fetch:.2f}")
    for what, found in growths.items():
        print(f"{what:8} memory +{spread(found, 'MB', 0)}")


if __name__ == "__main__":
    main()
