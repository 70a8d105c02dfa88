"""``sippet bench`` in real browsers: every engine gives numbers. How large they are is no test's business."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hosting import FIREFOX, ROOT
from sippet_host import cli_bench, paths
from sippet_host.bench.pages import PEERS, OldWllama
from sippet_host.errors import BenchUnavailable

TINY = ROOT / "tests_py" / "models" / "tiny-chat-f16.gguf"
BUILDS = [f"{threading}-{simd}" for threading in ("single", "pthread") for simd in ("simd128", "relaxed")]

Bench = Callable[..., dict[str, Any]]


def command(*arguments: str) -> Result:
    """Run ``sippet bench``, in a thread: it has an event loop, and so have the pages of other tests in this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(CliRunner().invoke, cli_bench.bench, [str(TINY), "--rounds", "1", *arguments]).result()


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Run the command with the tiny model for one round; its JSON."""
    monkeypatch.setattr("sippet_host.bench.rounds.WARM_UP_SECONDS", 0)

    def bench(*arguments: str) -> dict[str, Any]:
        target = tmp_path / "found.json"
        done = command("--json", str(target), "--onnx", str(tmp_path), *arguments)
        assert done.exit_code == 0, (done.output, done.exception)
        found: dict[str, Any] = json.loads(target.read_text())
        return found

    return bench


def test_every_engine_gives_a_number_for_every_test(bench: Bench) -> None:
    tests = ["pp32", "tg8", "load_cold", "load_warm", "peak_memory"]
    document = bench("--engines", "sippet,wllama-3.8.1,native", "--tests", ",".join(tests))
    assert document["browser"]["name"] == "chromium"
    assert document["browser"]["version"]
    rows = document["results"]
    expected = {("sippet", build, threads) for build in BUILDS for threads in ((1, 2) if "pthread" in build else (1,))}
    expected |= {("wllama", "3.8.1", 1), ("wllama", "3.8.1", 2)}
    found = {(row["engine"], row["variant"], row["threads"]) for row in rows if row["engine"] != "native"}
    assert found == expected
    for engine, variant, threads in found:
        of_one = [row for row in rows if (row["engine"], row["variant"], row["threads"]) == (engine, variant, threads)]
        assert [row["test"] for row in of_one] == tests
        for row in of_one:
            assert row["min"] == row["median"] == row["max"] > 0
            assert row["ratio_to_native"] > 0
            assert row["ratio_to_wllama"] > 0


def test_wllama_2_gives_numbers_through_its_own_class(bench: Bench) -> None:
    if not (paths.cache_dir() / PEERS / OldWllama.folder).is_dir():
        pytest.skip("its package was not fetched: python3 tools/dev.py bench")
    rows = bench("--engines", "wllama-2.4.0", "--tests", "pp32,tg8")["results"]
    assert [(row["threads"], row["test"]) for row in rows] == [(1, "pp32"), (1, "tg8"), (2, "pp32"), (2, "tg8")]
    assert all(row["median"] > 0 for row in rows)


def test_it_measures_in_firefox_too(bench: Bench) -> None:
    if not FIREFOX:
        pytest.skip("no Firefox on this machine")
    engines = ["sippet-single-simd128", "wllama-3.8.1"]
    tests = ["pp32", "tg8", "load_cold", "load_warm", "peak_memory"]
    document = bench(
        "--browser", "firefox", "--engines", ",".join(engines), "--threads", "1", "--tests", ",".join(tests)
    )
    assert document["browser"]["name"] == "firefox"
    assert [row["test"] for row in document["results"]] == tests * len(engines)
    assert all(row["median"] > 0 for row in document["results"])


@pytest.mark.usefixtures("bench")
@pytest.mark.parametrize("engine", ["sippet-single-simd128", "wllama-3.8.1"])
def test_what_an_engine_refuses_is_said_at_once(engine: str) -> None:
    done = command("--engines", engine, "--tests", "pp600", "--threads", "1")
    assert isinstance(done.exception, BenchUnavailable)
    assert "context size (512 tokens)" in str(done.exception)
