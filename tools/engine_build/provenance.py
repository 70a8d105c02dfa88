"""Says what the committed engine builds were made of: sources, tools, flags, and the hash of every output."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import brotli  # type: ignore[import-untyped]

from .plan import Plan
from .sources import Source
from .toolchain import Toolchain

BROTLI_QUALITY = 11
BROTLI_WINDOW = 22


def compress(module: Path, output: Path) -> dict[str, Any]:
    """Write `module` Brotli-compressed to `output`; returns sizes and hashes of both."""
    data = module.read_bytes()
    packed = brotli.compress(data, quality=BROTLI_QUALITY, lgwin=BROTLI_WINDOW)
    output.write_bytes(packed)
    return {
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "brotli_bytes": len(packed),
        "brotli_sha256": hashlib.sha256(packed).hexdigest(),
    }


def portable_flags(flags: tuple[str, ...], tools: Toolchain, llama: Path) -> list[str]:
    """The flags with this machine's folders replaced by names, as the prefix maps replace them in the objects."""
    names = {str(tools.zig_lib): "zig", str(llama): "llama", str(tools.engine): "engine", str(tools.build): "build"}
    result = []
    for flag in flags:
        if flag.startswith("-ffile-prefix-map="):
            continue
        for path, name in names.items():
            flag = flag.replace(path, name)
        result.append(flag)
    return result


def object_hashes(plan: Plan, tools: Toolchain) -> dict[str, str]:
    """SHA-256 of every object made of our own files: a test rebuilds one in seconds to check this record."""
    units = [*plan.shared, *(unit for units in plan.kernels.values() for unit in units)]
    ours = sorted(unit.output for unit in units if unit.source.is_relative_to(tools.engine))
    return {str(path.relative_to(tools.build)): hashlib.sha256(path.read_bytes()).hexdigest() for path in ours}


def describe(
    lock: dict[str, Source], tools: Toolchain, plan: Plan, llama: Path, outputs: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """The whole provenance record."""
    kernel = plan.kernels["relaxed"][0]
    return {
        "sources": {key: {"package": s.package, "version": s.version, "sha256": s.sha256} for key, s in lock.items()},
        "toolchain": tools.versions(),
        "flags": {
            "shared": portable_flags(plan.shared[-1].flags, tools, llama),
            "kernels": portable_flags(kernel.flags, tools, llama),
        },
        "engine_sha256": engine_digest(tools.engine),
        "objects": object_hashes(plan, tools),
        "outputs": outputs,
    }


def engine_digest(engine: Path) -> str:
    """One hash over every file of ours that goes into the build, with its path."""
    digest = hashlib.sha256()
    for path in sorted(p for p in engine.rglob("*") if p.is_file() and p.suffix != ".md"):
        digest.update(str(path.relative_to(engine)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def write(path: Path, record: dict[str, Any]) -> None:
    """Write the record as readable JSON."""
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
