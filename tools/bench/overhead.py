#!/usr/bin/env python3
"""What Python costs per token: the same engine worker driven from JavaScript alone, and through the Python client.

    python tools/bench/overhead.py [--tokens 64] [--pairs 5] [--threads 1]

Both ways decode the same text in one browser, in turn; the page takes the time from its first to its last token. The
Python way has everything that a page has: the engine worker, the runtime worker with Pyodide, and the page's client.
"""

from __future__ import annotations

import argparse
import json
import statistics

from _browser import Bench, bench, spread
from sippet.engines import _glue
from sippet.engines.wllama import MICRO_BATCH

PROMPT = "Once upon a time there was"


def measure(place: Bench, tokens: int, pairs: int, threads: int) -> list[tuple[float, float]]:
    """Milliseconds per token, by (JavaScript, Python), one pair after the other; a warm-up pair is left out."""
    page = place.context.new_page()
    page.goto(place.url)
    body = {"prompt": PROMPT, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, "cache_prompt": False}
    load = {
        "n_ctx_auto": False, "use_mmap": False, "use_mlock": False, "n_gpu_layers": 0, "n_ctx": 1024,
        "n_threads": threads, "n_batch": MICRO_BATCH, "n_ubatch": MICRO_BATCH, "n_parallel": 1, "flash_attn": True,
        "warmup": False, "jinja": True, "model_paths": ["/models/model.gguf"], "log_level": 2,
    }  # fmt: skip
    stream = {"stream": True, "stream_options": {"include_usage": True}, "timings_per_token": True}
    request = {"is_chat": False, "data_json": json.dumps({**body, **stream}), "files": []}
    page.evaluate(
        "async (argument) => {"
        " globalThis.overhead = await (await import('/static/bench/overhead.mjs')).open(argument) }",
        {
            "model": place.model,
            "threads": threads,
            "tokens": tokens,
            "prompt": PROMPT,
            "load": list(_glue.encode("load_req", load)),
            "request": list(_glue.encode("cmpl_req", request)),
            "poll": list(_glue.encode("gres_req", {"req_id": 0})),
            "requestIdAt": _glue.field_offset("cmpl_res", "req_id"),
            "pollIdAt": _glue.field_offset("gres_req", "req_id"),
            "moreAt": _glue.field_offset("gres_res", "has_more"),
            "emptyAt": _glue.field_offset("gres_res", "data_json"),
        },
    )
    found = [
        page.evaluate("async () => [await overhead.javascript(), await overhead.python()]") for _ in range(pairs + 1)
    ]
    return [(javascript, python) for javascript, python in found[1:]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    with bench() as place:
        found = measure(place, options.tokens, options.pairs, options.threads)
    costs = [python - javascript for javascript, python in found]
    ratios = [python / javascript for javascript, python in found]
    print(f"decode from JavaScript   {spread([j for j, _ in found], 'ms per token')}")
    print(f"decode through Python    {spread([p for _, p in found], 'ms per token')}")
    print(f"Python's cost, in pairs  {spread(costs, 'ms per token', 3)}")
    print(f"Python / JavaScript      {statistics.median(ratios):.4f} ({min(ratios):.4f} to {max(ratios):.4f})")


if __name__ == "__main__":
    main()
