"""What a measurement ran on."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from sippet.engines.native import MODULE


def describe_machine() -> dict[str, Any]:
    """Processor, cores, memory, system, and what native llama.cpp says of its own build; ``None`` where unknown."""
    return {
        "cpu": _cpu(),
        "cores": _cores(),
        "memory_gb": _memory(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "native": _native(),
    }


def _cpu() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or None
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else None


def _cores() -> int | None:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _memory() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (AttributeError, ValueError, OSError):
        return None


def _native() -> str | None:
    """In a process of its own: the module keeps its state in globals."""
    command = [sys.executable, "-c", f"import {MODULE}; print({MODULE}.get_system_info())"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip().strip("| ") or None
