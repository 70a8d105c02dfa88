"""``sippet bench``: measures Sippet's engines against others."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import click

from . import paths
from .app import MODEL_HASHES
from .bench.browser import BROWSERS, browsers
from .bench.cases import DEFAULT_CASES, parse_case
from .bench.machine import describe_machine
from .bench.markdown import render
from .bench.native import NativeSubject
from .bench.pages import ONNX, PEERS, OldWllama, SippetBuild, Transformers, Wllama
from .bench.results import report
from .bench.rounds import Measurement, Plan
from .bench.site import Site
from .bench.subjects import Subject
from .bench.weights import read_weights
from .errors import BenchUnavailable, ConfigurationError
from .fetch import find_model
from .hashcache import HashCache
from .packaged import default_model
from .progress import say

_SCRIPT = "js/bench/page.mjs"


@click.command()
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option(
    "--engines",
    metavar="NAMES",
    help="Of sippet, wllama, transformers.js and native, or single builds of them such as sippet-pthread-relaxed, "
    "with commas between. All of them by default, as far as they are here.",
)
@click.option("--threads", metavar="NUMBERS", default="1,2", show_default=True, help="Numbers of threads.")
@click.option(
    "--tests",
    metavar="NAMES",
    default=",".join(DEFAULT_CASES),
    show_default=True,
    help="ppN: prefill N tokens. tgN: generate N. load_cold, load_warm: open engine and model in a new profile, and "
    "again. peak_memory: of the process that computes.",
)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="How often.")
@click.option("--browser", type=click.Choice(BROWSERS), default=BROWSERS[0], show_default=True, help="Where pages run.")
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path), metavar="FILE", help="Write the results here too."
)
@click.option(
    "--peers",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the packages of other engines are; tools/dev.py bench fetches them into the cache folder.",
)
@click.option(
    "--onnx",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where transformers.js finds models as ONNX: a folder for each, with the name of the .gguf file.",
)
def bench(
    models: tuple[str, ...],
    engines: str | None,
    threads: str,
    tests: str,
    rounds: int,
    browser: str,
    json_file: Path | None,
    peers: Path | None,
    onnx: Path | None,
) -> None:
    """Measures Sippet's engine builds against other engines, on the same weights, in one run.

    MODEL is the path of a .gguf file, or an http(s) URL that is downloaded once; with none named, the small default
    model is measured. Every round opens each engine anew, warms it up and measures it; tables of medians, spread and
    ratios are printed as Markdown. Prompts are random words, decoding is greedy, and no prompt meets what was kept of
    an earlier one. Speeds of llama.cpp's are its own timings.
    """
    cases = [parse_case(name) for name in _split(tests)]
    counts = _counts(threads)
    peers, onnx = peers or paths.cache_dir() / PEERS, onnx or paths.cache_dir() / ONNX
    native, wllama = NativeSubject(), Wllama()
    known: list[Subject] = [
        *(SippetBuild(threading, simd) for threading in ("single", "pthread") for simd in ("simd128", "relaxed")),
        wllama,
        OldWllama(peers),
        Transformers(peers, onnx),
        native,
    ]
    subjects = choose(known, _split(engines)) if engines is not None else known
    cache = paths.cache_dir()
    hashes = HashCache(cache / MODEL_HASHES)
    entries = [find_model(name, cache, hashes) for name in models] or [default_model(cache, hashes)]
    hashes.save()
    plan = Plan([read_weights(entry) for entry in entries], subjects, counts, cases, rounds)
    site = Site(plan.models, {PEERS: peers, ONNX: onnx})
    machine = describe_machine()
    found, version = asyncio.run(_measure(plan, site, browser))
    if not found.values:
        reasons = "; ".join(f"{name}: {reason}" for (name, _), reason in found.notes.items())
        raise BenchUnavailable(f"Nothing could be measured. {reasons}", hint="Choose other --engines or --threads.")
    page = {"name": browser, "version": version, "headless": True} if version else None
    results = found.values.results(native, wllama)
    click.echo(render(machine, page, results, found.notes, rounds), nl=False)
    if json_file is not None:
        json_file.write_text(json.dumps(report(machine, page, results), indent=2) + "\n")


async def _measure(plan: Plan, site: Site, browser: str) -> tuple[Measurement, str]:
    """The measurement, and the browser's version where one was used."""
    async with AsyncExitStack() as stack:
        found = None
        if any(subject.needs_browser for subject in plan.subjects):
            url = await stack.enter_async_context(site.running())
            found = await stack.enter_async_context(browsers(browser, url, site.assets + _SCRIPT))
        measurement = Measurement(plan, found, say)
        await measurement.run()
        return measurement, found.version if found else ""


def choose(known: Sequence[Subject], names: Sequence[str]) -> list[Subject]:
    """The subjects of those names; the name of an engine stands for all its builds.

    Raises:
        ConfigurationError: one of them is no subject's.
    """
    for name in names:
        if not any(name in (subject.name, subject.engine) for subject in known):
            raise ConfigurationError(
                f"There is no engine {name!r}.", hint=f"Use {', '.join(subject.name for subject in known)}."
            )
    return [subject for subject in known if {subject.name, subject.engine} & set(names)]


def _split(names: str) -> list[str]:
    return [name for name in (part.strip() for part in names.split(",")) if name]


def _counts(threads: str) -> list[int]:
    found = _split(threads)
    if not found or not all(count.isdecimal() and len(count) < 4 and 1 <= int(count) <= 256 for count in found):
        raise ConfigurationError(
            f"--threads can't be {threads!r}.", hint="Use numbers with commas between, such as 1,2."
        )
    return [int(count) for count in found]
