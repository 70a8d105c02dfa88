"""Which engine build runs where, with how many threads, and what is said when less than that runs."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from sippet.engines.wasm import default_threads, plan
from sippet.errors import InvalidOption, UnsupportedEnvironment
from sippet.platform import Environment

ENVIRONMENT = Path(__file__).parents[1] / "static/js/environment.mjs"

# Prints, for each place, what environment.mjs tells of it and which builds it takes for likely.
PLACES = """
import {environment, likelyBuild} from MODULE;
const memory = globalThis.SharedArrayBuffer, validate = WebAssembly.validate;
const define = (name, value) => Object.defineProperty(globalThis, name, {value, configurable: true});
const found = [];
for (const isolated of [true, false])
  for (const shared of [true, false])
    for (const cores of [1, 2, 16])
      for (const relaxed of [true, false]) {
        define("crossOriginIsolated", isolated);
        define("SharedArrayBuffer", shared ? memory : undefined);
        define("navigator", {hardwareConcurrency: cores});
        WebAssembly.validate = (bytes) => bytes.length < 32 || relaxed; // the longer probe is that of relaxed SIMD
        found.push([await environment(), likelyBuild(true), likelyBuild(false)]);
      }
WebAssembly.validate = validate;
console.log(JSON.stringify(found));
"""

FULL = Environment(
    name="browser",
    isolated=True,
    shared_memory=True,
    simd=True,
    relaxed_simd=True,
    memory64=True,
    suspending=True,
    cores=4,
)
OPEN = dataclasses.replace(FULL, isolated=False)


def without(**features: bool) -> Environment:
    return dataclasses.replace(FULL, **features)


@pytest.mark.skipif(shutil.which("node") is None, reason="no Node.js on this machine")
def test_the_page_warms_up_the_build_that_is_planned() -> None:
    program = PLACES.replace("MODULE", json.dumps(ENVIRONMENT.as_uri()))
    told = subprocess.run(
        ["node", "--input-type=module", "-e", program], check=True, capture_output=True, text=True, timeout=60
    )
    places = json.loads(told.stdout)
    for facts, threaded, single in places:
        environment = Environment(**facts)
        assert threaded == plan(environment).build, facts
        assert single == plan(environment, wasm_threading="single-thread").build, facts
    assert {build for _, threaded, single in places for build in (threaded, single)} == {
        f"sippet-{threads}-{simd}" for threads in ("pthread", "single") for simd in ("relaxed", "simd128")
    }


def test_an_isolated_page_gets_threads_in_a_worker() -> None:
    chosen = plan(FULL)
    assert (chosen.mode, chosen.threads, chosen.suspend, chosen.gpu) == ("worker", 4, False, False)
    assert chosen.degraded == ()


def test_a_page_that_is_not_isolated_gets_one_thread_and_is_told_why() -> None:
    chosen = plan(OPEN)
    assert chosen.threads == 1
    (reason,) = chosen.degraded
    assert "Cross-Origin-Opener-Policy" in reason


def test_isolation_without_shared_memory_gives_one_thread() -> None:
    """WebKitGTK says that it is isolated and has no SharedArrayBuffer."""
    assert plan(without(shared_memory=False)).threads == 1


@pytest.mark.parametrize(
    ("environment", "feature"), [(OPEN, "cross_origin_isolation"), (without(shared_memory=False), "shared_memory")]
)
def test_threads_that_were_asked_for_are_not_silently_dropped(environment: Environment, feature: str) -> None:
    for wish in ({"wasm_threading": "pthread"}, {"n_threads": 2}):
        with pytest.raises(UnsupportedEnvironment) as refused:
            plan(environment, **wish)  # type: ignore[arg-type]
        assert refused.value.details["feature"] == feature


def test_single_thread_with_two_threads_is_a_contradiction() -> None:
    with pytest.raises(InvalidOption) as refused:
        plan(FULL, wasm_threading="single-thread", n_threads=2)
    assert refused.value.option == "n_threads"


def test_single_thread_needs_no_isolation_and_is_not_degraded() -> None:
    assert plan(OPEN, wasm_threading="single-thread").degraded == ()


def test_the_page_s_own_thread_reads_files_by_suspending() -> None:
    chosen = plan(without(ui_thread=True), execution_mode="main-thread")
    assert (chosen.mode, chosen.suspend) == ("main-thread", True)
    assert "own thread" in chosen.degraded[0]


def test_a_worker_s_own_thread_reads_files_directly() -> None:
    assert not plan(FULL, execution_mode="main-thread").suspend


def test_the_page_s_own_thread_is_refused_where_nothing_can_suspend() -> None:
    with pytest.raises(UnsupportedEnvironment) as refused:
        plan(without(ui_thread=True, suspending=False), execution_mode="main-thread")
    assert refused.value.details["feature"] == "suspending"


def test_webgpu_without_an_adapter_is_refused() -> None:
    with pytest.raises(UnsupportedEnvironment) as refused:
        plan(FULL, backend="webgpu")
    assert refused.value.details["feature"] == "webgpu"


def test_webgpu_with_an_adapter_suspends() -> None:
    chosen = plan(without(gpu=True), backend="webgpu")
    assert (chosen.gpu, chosen.suspend) == (True, True)


def test_a_browser_without_simd_is_refused() -> None:
    with pytest.raises(UnsupportedEnvironment) as refused:
        plan(without(simd=False))
    assert refused.value.details["feature"] == "simd"


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 2), (4, 4), (8, 4), (16, 8), (64, 8)])
def test_threads_follow_the_cores(cores: int, threads: int) -> None:
    assert default_threads(cores) == threads
