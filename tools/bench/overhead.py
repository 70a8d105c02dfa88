#!/usr/bin/env python3
"""What Python costs per token: the same engine worker driven from JavaScript alone, and through the Python client.

    python tools/bench/overhead.py [--engine sippet|wllama] [--tokens 64] [--pairs 5] [--threads 1]

Both ways decode the same text in one browser, in turn; the page takes the time from its first to its last token. The
Python way has everything that a page has: the engine worker, the runtime worker with Pyodide, and the page's client.
"""

from __future__ import annotations

import argparse
import json
import statistics
from typing import Any

from _browser import Bench, bench, spread
from sippet.engines.wllama import MICRO_BATCH
from sippet_host.bench.pages import wllama_completion, wllama_line

PROMPT = "Once upon a time there was"
SCRIPT = "/static/bench/overhead.mjs"


def measure(place: Bench, engine: str, tokens: int, pairs: int, threads: int) -> list[tuple[float, float]]:
    """Milliseconds per token, by (JavaScript, Python), one pair after the other; a warm-up pair is left out."""
    page = place.context.new_page()
    page.goto(place.url)
    common = {"model": place.model, "engine": engine, "threads": threads, "tokens": tokens, "prompt": PROMPT}
    script = f"async (argument) => {{ globalThis.bench = await (await import('{SCRIPT}')).open(argument) }}"
    page.evaluate(script, {**common, **(_frames(tokens, threads) if engine == "wllama" else _json(tokens))})
    pair = "async () => [await bench.javascript(), await bench.python()]"
    found = [page.evaluate(pair) for _ in range(pairs + 1)]
    return [(javascript, python) for javascript, python in found[1:]]


def _request(tokens: int) -> dict[str, Any]:
    return {
        "prompt": PROMPT,
        "max_tokens": tokens,
        "temperature": 0,
        "cache_prompt": False,
        "stream": True,
        "stream_options": {"include_usage": True},
        "timings_per_token": True,
    }


def _json(tokens: int) -> dict[str, Any]:
    """What Sippet's own engine is sent."""
    load = {"model": "model.gguf", "n_ctx": 1024}
    return {"load": json.dumps(load), "request": json.dumps(_request(tokens))}


def _frames(tokens: int, threads: int) -> dict[str, Any]:
    """What wllama's engine is sent, encoded once."""
    load = {
        "n_ctx_auto": False, "use_mmap": False, "use_mlock": False, "n_gpu_layers": 0, "n_ctx": 1024,
        "n_threads": threads, "n_batch": MICRO_BATCH, "n_ubatch": MICRO_BATCH, "n_parallel": 1, "flash_attn": True,
        "warmup": False, "jinja": True, "model_paths": ["/models/model.gguf"], "log_level": 2,
    }  # fmt: skip
    return {**wllama_line(load), "request": wllama_completion(_request(tokens))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--engine", choices=("sippet", "wllama"), default="sippet")
    options = parser.parse_args()
    with bench() as place:
        found = measure(place, options.engine, options.tokens, options.pairs, options.threads)
    costs = [python - javascript for javascript, python in found]
    ratios = [python / javascript for javascript, python in found]
    print(f"decode from JavaScript   {spread([j for j, _ in found], 'ms per token')}")
    print(f"decode through Python    {spread([p for _, p in found], 'ms per token')}")
    print(f"Python's cost, in pairs  {spread(costs, 'ms per token', 3)}")
    print(f"Python / JavaScript      {statistics.median(ratios):.4f} ({min(ratios):.4f} to {max(ratios):.4f})")


if __name__ == "__main__":
    main()
