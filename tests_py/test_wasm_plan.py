"""Which engine build runs where, with how many threads, and what is said when less than that runs."""

from __future__ import annotations

import dataclasses

import pytest
from sippet.engines.wasm import default_threads, plan
from sippet.errors import InvalidOption, UnsupportedEnvironment
from sippet.platform import Environment

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
