#!/usr/bin/env python3
"""How long a tab takes: Python's start, the model's load, the first token; cold (new profile) and warm (reload).

    python tools/bench/boot.py [--rounds 3] [--tokens 32]

Times are milliseconds since the page asked for a client, so they overlap: Python, the engine and the model come in
parallel. "longest stall" is the longest time that the page's own thread could not answer input meanwhile.
"""

from __future__ import annotations

import argparse
from typing import Any

from _browser import bench, spread

ROUND = """async ([model, tokens]) => {
  let stall = 0, last = performance.now();
  const timer = setInterval(() => {
    stall = Math.max(stall, performance.now() - last - 10);
    last = performance.now();
  }, 10);
  const start = performance.now(), since = () => performance.now() - start;
  const {SippClient} = await import("/static/js/sippet.mjs");
  const client = new SippClient();
  const adding = client.add("model", {source: model});
  await client.ready;
  const python = since();
  await adding;
  const ready = since();
  const run = client.query("The quick brown fox jumps over the lazy dog. ".repeat(8), {
    temperature: 0, maxTokens: tokens, emitTokens: true,
  });
  let first = null;
  for await (const batch of run.tokens) first ??= since();
  const {timings} = await run;
  clearInterval(timer);
  await client.close();
  return {python, ready, first, stall, prefill: timings.prefillTokensPerSecond, decode: timings.tokensPerSecond};
}"""

ROWS = (
    ("Python ready", "python", "ms", 0),
    ("model ready", "ready", "ms", 0),
    ("first token", "first", "ms", 0),
    ("longest stall", "stall", "ms", 0),
    ("prefill", "prefill", "tokens/s", 1),
    ("decode", "decode", "tokens/s", 1),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=32)
    options = parser.parse_args()
    found: dict[str, list[dict[str, Any]]] = {"cold": [], "warm": []}
    for _ in range(options.rounds):
        with bench() as place:
            for state in ("cold", "warm"):
                page = place.context.new_page()
                page.goto(place.url)
                found[state].append(page.evaluate(ROUND, [place.model, options.tokens]))
                page.close()
    for state, rounds in found.items():
        print(f"{state}:")
        for label, key, unit, digits in ROWS:
            print(f"  {label:14} {spread([r[key] for r in rounds], unit, digits)}")


if __name__ == "__main__":
    main()
