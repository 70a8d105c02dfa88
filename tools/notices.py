#!/usr/bin/env python3
"""Write `THIRD_PARTY_NOTICES.md` from the vendor lock, so that the list can't drift from what is bundled."""

from __future__ import annotations

import sys
from pathlib import Path, PurePosixPath

from _files import ROOT, write_atomic
from _lockfile import Lock, Package, read_lock
from _report import run, say

NOTICES = ROOT / "THIRD_PARTY_NOTICES.md"

_HEAD = """\
# Third-party notices

Written by `tools/notices.py` from `tools/vendor.lock.json`; don't edit.

Sippet's own engine builds in `static/engine/` are compiled from llama.cpp and ggml (MIT), nlohmann/json (MIT),
stb_image (MIT or public domain), miniaudio (MIT-0 or public domain), libc++, libc++abi and libunwind (Apache-2.0 WITH
LLVM-exception), wasi-libc and musl (MIT and others). Their texts are in `static/engine/LICENSES.txt`, their versions
and hashes in `static/engine/provenance.json`.

Sippet's repository holds no third-party source. Setting it up fetches the packages below, by version and
SHA-256, into `static/vendor/`; the host serves them to the browser, and an exported site contains them. Each
package's licence text lies beside its files.

| package | version | licence | what it is for | licence text |
|---|---|---|---|---|
"""

_COMPILED = """
## Compiled into these files

The WebAssembly files contain these components, under their own licences:

| package | component | licence |
|---|---|---|
"""


def notices(lock: Lock) -> str:
    """The whole notices file as Markdown."""
    rows = [_row(package, lock) for package in sorted(lock.packages, key=lambda p: p.name)]
    inside = [
        f"| {package.name} | {component.name} | {component.licence} |\n"
        for package in sorted(lock.packages, key=lambda p: p.name)
        for component in package.contains
    ]
    return _HEAD + "".join(rows) + _COMPILED + "".join(inside)


def _row(package: Package, lock: Lock) -> str:
    folder = PurePosixPath(package.files[0].to).parts[0]
    text = f"{folder}/LICENSE"
    if text not in lock.files:
        raise ValueError(f"the lock keeps no licence text for {package.label}")
    return f"| {package.name} | {package.version} | {package.licence} | {package.purpose} | `static/vendor/{text}` |\n"


def write(path: Path = NOTICES) -> None:
    """Write the notices file."""
    write_atomic(path, notices(read_lock()).encode())


def _main() -> int:
    write()
    say(f"wrote {NOTICES.name}")
    return 0


if __name__ == "__main__":
    sys.exit(run(_main))
