"""Links the objects into one WebAssembly module for each variant."""

from __future__ import annotations

import subprocess
from pathlib import Path

from .toolchain import ARCHIVER, LINKER

STACK_BYTES = 4 << 20
PAGE = 65536
INITIAL_PAGES = 512  # sippet_engine.mjs creates the shared memory with as many
MAX_PAGES = 65536  # 4 GiB, the limit of wasm32


class LinkError(RuntimeError):
    """The linker refused; the message holds its first lines."""


def archive(objects: list[Path], output: Path) -> Path:
    """Bundle objects into a static library with no timestamps or owners."""
    output.unlink(missing_ok=True)
    subprocess.run([ARCHIVER, "rcsD", str(output), *map(str, objects)], check=True)
    return output


def link(objects: list[Path], libraries: list[Path], output: Path, *, shared_memory: bool) -> Path:
    """Link a reactor module (no main); unresolved symbols are errors."""
    command = [LINKER, "-O3", "--gc-sections", "--strip-all", "--no-entry", "--no-check-features", "--fatal-warnings"]
    command += [
        "--export=__wasm_call_ctors",
        "--export=__stack_pointer",
        "-z",
        f"stack-size={STACK_BYTES}",
        "--stack-first",
    ]
    if shared_memory:
        command += [
            "--shared-memory",
            "--import-memory",
            f"--max-memory={MAX_PAGES * PAGE}",
            "--export=__wasm_init_tls",
        ]
        command += ["--export=__tls_size", "--export=__tls_align", f"--initial-memory={INITIAL_PAGES * PAGE}"]
    # Ours come first: where libc and our runtime both define a function (malloc, pthreads), ours is used.
    command += ["--allow-multiple-definition", *map(str, objects), *map(str, libraries), "-o", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = done.stderr.splitlines()
        raise LinkError(f"{output.name}: {len(lines)} lines from the linker\n" + "\n".join(lines[:60]))
    return output
