#!/usr/bin/env python3
"""Build all variants of the engine: `python tools/build_engine.py`. Users never need it: the builds are in git.

Needs clang-22, lld-22 and llvm-22 of the distribution, pip, and the package `brotli`. The sources are pinned in
browser_runtime/engine/sources.lock.json; the same sources and tools give the same bytes.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from engine_build.compile import CompileError, compile_all
from engine_build.edits import EditError
from engine_build.link import LinkError, archive, link
from engine_build.plan import SIMD_LEVELS, THREADINGS, make_plan
from engine_build.provenance import compress, describe, write
from engine_build.sources import SourceError, fetch, read_lock, unpack
from engine_build.toolchain import Toolchain, ToolchainError

ROOT = Path(__file__).resolve().parent.parent
ENGINE = ROOT / "browser_runtime/engine"
STATIC = ROOT / "static/engine"


def build(folder: Path, downloads: Path, jobs: int) -> None:
    """Fetch, compile, link and compress everything; writes static/engine/*.wasm.br and provenance.json."""
    lock = read_lock(ENGINE / "sources.lock.json")
    zig = unpack(lock["zig"], fetch(lock["zig"], downloads), folder / "src")
    llama = unpack(lock["llama"], fetch(lock["llama"], downloads), folder / "src", ENGINE / "llama.edits")
    tools = Toolchain(zig_lib=zig / "lib", engine=ENGINE, build=folder)
    tools.require()
    libc = tools.libc_archives(zig / "zig")
    plan = make_plan(tools, llama)
    units = [*plan.libcxx, *plan.shared, *(unit for level in SIMD_LEVELS for unit in plan.kernels[level])]
    # the largest files first: none of them is left to run alone at the end
    units.sort(key=lambda unit: -unit.source.stat().st_size)
    started = time.monotonic()
    compiled = compile_all(units, jobs)
    print(f"compiled {compiled} of {len(units)} files in {time.monotonic() - started:.0f} s")
    libraries = [archive([unit.output for unit in plan.libcxx], folder / "libcxx.a"), *libc]
    outputs = {}
    for threading in THREADINGS:
        for level in SIMD_LEVELS:
            name = f"sippet-{threading}-{level}.wasm"
            objects = [unit.output for unit in (*plan.shared, *plan.kernels[level])]
            module = link(objects, libraries, folder / name, shared_memory=threading == "pthread")
            outputs[name] = compress(module, STATIC / f"{name}.br")
            print(f"{name}: {outputs[name]['bytes']:,} bytes, {outputs[name]['brotli_bytes']:,} with Brotli")
    write(STATIC / "provenance.json", describe(lock, tools, plan, llama, outputs))


def main() -> int:
    """Parse the command line; 0 when everything was built."""
    cache = Path.home() / ".cache/sippet"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build-dir", type=Path, default=cache / "engine-build", help="objects and unpacked sources")
    parser.add_argument("--downloads", type=Path, default=cache / "downloads", help="the pinned archives")
    parser.add_argument("--jobs", type=int, default=2, help="compilers at a time")
    args = parser.parse_args()
    try:
        build(args.build_dir.resolve(), args.downloads.resolve(), args.jobs)
    except (SourceError, EditError, ToolchainError, CompileError, LinkError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
