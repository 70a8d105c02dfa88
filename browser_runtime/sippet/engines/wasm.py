"""Which WebAssembly engine runs here, and how: threads, build, and the reasons where something is left out."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from ..endpoints import BackendChoice
from ..errors import InvalidOption, UnsupportedEnvironment
from ..platform.base import Environment, ExecutionMode, WasmThreading

MAX_THREADS = 8
"""More threads than this have not been seen to help; memory bandwidth is the limit."""

EngineChoice = Literal["auto", "sippet", "wllama"]
"""``sippet`` is our own CPU build of llama.cpp, ``wllama`` the one for WebGPU and the fallback."""


@dataclass(frozen=True)
class WasmPlan:
    """How to open the engine.

    Attributes:
        engine: the engine, ``sippet`` or ``wllama``.
        build: which of its builds.
        mode: where its host runs.
        threads: compute threads, 1 without a thread pool.
        suspend: files are read asynchronously, through JSPI.
        gpu: let it use WebGPU.
        degraded: sentences: what runs in a lesser way, why, and what to do.
    """

    engine: Literal["sippet", "wllama"]
    build: str
    mode: Literal["worker", "main-thread"]
    threads: int
    suspend: bool
    gpu: bool
    degraded: tuple[str, ...]

    def on_wllama(self, environment: Environment, reason: str) -> WasmPlan:
        """The same plan on the fallback engine."""
        degraded = (*self.degraded, f"The slower engine runs: {reason}")
        return dataclasses.replace(self, engine="wllama", build=_wllama_build(environment), degraded=degraded)


def plan(
    environment: Environment,
    *,
    execution_mode: ExecutionMode = "auto",
    wasm_threading: WasmThreading = "auto",
    backend: BackendChoice = "auto",
    n_threads: int | None = None,
    engine: EngineChoice = "auto",
) -> WasmPlan:
    """Choose, or refuse with the reason.

    Raises:
        UnsupportedEnvironment: what was asked for can't run here. ``details["feature"]`` names what is missing.
        InvalidOption: options contradict each other.
    """
    if not environment.simd:
        raise _missing("simd", "This browser's WebAssembly has no SIMD instructions.", "Use a current browser.")
    mode: Literal["worker", "main-thread"] = "main-thread" if execution_mode == "main-thread" else "worker"
    degraded: list[str] = []
    threads = _threads(environment, wasm_threading, n_threads, degraded)
    gpu = _gpu(environment, backend)
    blocking = mode == "main-thread" and environment.ui_thread
    if (blocking or gpu) and not environment.suspending:
        what = "WebGPU" if gpu else "Running the engine in the page's own thread"
        raise _missing(
            "suspending",
            f"{what} needs WebAssembly's promise integration (JSPI), which this browser lacks.",
            'Use execution_mode="worker" and backend="cpu".',
        )
    if blocking:
        degraded.append(
            "The engine runs in the page's own thread, so the page stutters while it computes: "
            'use execution_mode="worker" outside of debugging.'
        )
    if gpu and engine == "sippet":
        raise InvalidOption("engine", "engine 'sippet' computes on the CPU, but backend is 'webgpu'.")
    ours = engine != "wllama" and not gpu
    return WasmPlan(
        engine="sippet" if ours else "wllama",
        build=_sippet_build(environment, threads) if ours else _wllama_build(environment),
        mode=mode,
        threads=threads,
        suspend=blocking or gpu,
        gpu=gpu,
        degraded=tuple(degraded),
    )


def _sippet_build(env: Environment, threads: int) -> str:
    return f"sippet-{'pthread' if threads > 1 else 'single'}-{'relaxed' if env.relaxed_simd else 'simd128'}"


def _wllama_build(env: Environment) -> str:
    return "wllama" if env.memory64 else "wllama-compat"


def _threads(env: Environment, threading: WasmThreading, wanted: int | None, degraded: list[str]) -> int:
    if threading == "single-thread":
        if wanted not in (None, 1):
            raise InvalidOption("n_threads", f"n_threads is {wanted}, but wasm_threading is 'single-thread'.")
        return 1
    missing = _why_no_threads(env)
    if missing:
        feature, reason, remedy = missing
        if threading == "pthread" or (wanted or 1) > 1:
            raise _missing(feature, f"Threads can't run here: {reason}", remedy)
        degraded.append(f"One thread only: {reason} {remedy}")
        return 1
    return wanted or default_threads(env.cores)


def _why_no_threads(env: Environment) -> tuple[str, str, str] | None:
    if not env.isolated:
        return (
            "cross_origin_isolation",
            "the page is not cross-origin isolated.",
            "Serve it with the headers Cross-Origin-Opener-Policy: same-origin and "
            "Cross-Origin-Embedder-Policy: require-corp.",
        )
    if not env.shared_memory:
        return ("shared_memory", "this browser has no shared WebAssembly memory.", "Use a current browser.")
    return None


def _gpu(env: Environment, backend: BackendChoice) -> bool:
    if backend == "webgpu" and not env.gpu:
        raise _missing("webgpu", "No WebGPU adapter with half-precision shaders is here.", 'Use backend="cpu".')
    return backend == "webgpu"


def default_threads(cores: int) -> int:
    """Half of the logical processors where there are many (they come in pairs), all of a few."""
    return max(1, min(cores if cores <= 4 else cores // 2, MAX_THREADS))


def _missing(feature: str, message: str, hint: str) -> UnsupportedEnvironment:
    return UnsupportedEnvironment(message, hint=hint, details={"feature": feature})
