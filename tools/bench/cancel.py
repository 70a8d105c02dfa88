#!/usr/bin/env python3
"""How soon a tab's engine serves the next request after a cancel: of a run that decodes, and of one that prefills.

    python tools/bench/cancel.py [--rounds 10] [--threads 1]

Both happen in the same moment: the page cancels a run and asks for a short one. "waits" is the time from then to the
next run's first text, less what the engine says that run's prompt took: what is left is the rest of the cancelled step
and the way through page, Python and engine worker. An idle engine shows the way alone.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

from _browser import HERE, bench, spread
from playwright.sync_api import Page
from sippet_host.models import load_model

TINY = HERE.parents[1] / "tests_py" / "models" / "tiny-chat-f16.gguf"
MICRO_BATCH = 64
"""Tokens that Sippet's own engine computes in one step."""

LIMIT = 60_000
"""Milliseconds after which a round has hung."""

OPEN = "async (argument) => { globalThis.bench = await (await import('/static/bench/cancel.mjs')).open(argument) }"
ROUND = """([name, argument]) => Promise.race([
  bench[name](argument),
  new Promise((_, reject) => setTimeout(() => reject(new Error(`${name} hung`)), %d)),
])"""


def round_of(page: Page, name: str, argument: float | None = None) -> dict[str, Any]:
    """What one round in the page gives.

    Raises:
        Error: it hung, or the run had ended before it was cancelled.
    """
    found: dict[str, Any] = page.evaluate(ROUND % LIMIT, [name, argument])
    return found


def measure(page: Page, rounds: int) -> None:
    """Print what one model needs."""
    do = partial(round_of, page)
    do("idle")
    prefill = [do("prefill") for _ in range(3)][-1]
    step = prefill["ms"] * MICRO_BATCH / prefill["tokens"]
    print(f"  prompt of {prefill['tokens']} tokens: {prefill['ms']:.0f} ms, a micro-batch of it {step:.1f} ms")
    rows = {
        "idle": [do("idle") for _ in range(rounds)],
        "decode cancelled": [do("duringDecode", 3 + number) for number in range(rounds)],
        "prefill cancelled": [do("duringPrefill", prefill["ms"] * (0.2 + 0.5 * n / rounds)) for n in range(rounds)],
    }
    for label, found in rows.items():
        print(f"  {label:18} next run waits {spread([each['wait'] for each in found], 'ms', 1)}")
    kept = [each["tokens"] for each in rows["decode cancelled"]]
    print(f"  tokens kept of the cancelled decodes: {min(kept)} to {max(kept)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    tiny = load_model(TINY)
    with bench(models=(tiny,)) as place:
        for model, words in ((place.model, 80), (tiny.describe()["url"], 30)):
            page = place.context.new_page()
            page.goto(place.url)
            page.evaluate(OPEN, {"model": model, "threads": options.threads, "words": words})
            print(model.rpartition("/")[2])
            measure(page, options.rounds)
            page.close()


if __name__ == "__main__":
    main()
