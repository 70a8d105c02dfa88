"""What single tests and benchmarks need besides: other engines, compilers for C++ and TypeScript, a GPU in software."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import _apt
import vendor
from _files import ROOT, cache_folder
from _report import ToolError, note
from engine_build.toolchain import CLANG

_ENGINES = ROOT / "tools" / "bench" / "peers.lock.json"
_TYPESCRIPT = ROOT / "tools" / "typescript.lock.json"
_VULKAN = Path("/usr/share/vulkan/icd.d")


def engines() -> None:
    """Fetch the other engines that `sippet bench` measures into the cache folder.

    Raises `ToolError`: `vendor-unavailable`, `vendor-hash-mismatch`.
    """
    _fetch(_ENGINES, "peers")


def for_tests() -> None:
    """Fetch all that single tests need. Where something can't be had, these tests say that they skip."""
    if shutil.which(CLANG) is None and not _apt.install(CLANG):
        note(f"no {CLANG}, so that no part of the engine is built again")
    if sys.platform == "linux" and not any(_VULKAN.glob("lvp*")):
        _apt.install("mesa-vulkan-drivers")
    for lock, folder in ((_ENGINES, "peers"), (_TYPESCRIPT, "typescript")):
        try:
            _fetch(lock, folder)
        except ToolError as error:
            if error.code != "vendor-unavailable":
                raise
            note(str(error))


def _fetch(lock: Path, folder: str) -> None:
    vendor.ensure(os.environ.get("SIPPET_VENDOR_FROM"), lock_file=lock, folder=cache_folder() / folder)
