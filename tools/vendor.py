#!/usr/bin/env python3
"""Fetch the third-party files that the browser needs into `static/vendor/`, as `vendor.lock.json` pins them.

    python3 tools/vendor.py                    fetch what is missing (a second run only looks)
    python3 tools/vendor.py --from DIR_OR_URL  ask this place first
    python3 tools/vendor.py --verify           hash every file that is there

Standard library only. Each file is checked by SHA-256 before anything is written; a wrong hash stops the run
and keeps nothing of it. The next source is asked only where one lacks the package or can't be reached.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from _derive import derive
from _fetch import Unavailable
from _files import ROOT, exclusive, read_json, sha256, sha256_file, write_atomic, write_json
from _lockfile import LOCK_FILE, Lock, Package, is_as_locked, read_lock
from _report import ToolError, megabytes, note, run, say
from _sources import Members, Source, default_sources

VENDOR = ROOT / "static" / "vendor"
_STAMP = ".stamp.json"


class Vendor:
    """Brings one folder to the state that a lock describes."""

    def __init__(self, lock: Lock, folder: Path, sources: Mapping[str, Sequence[Source]]) -> None:
        self.lock = lock
        self.folder = folder
        self.sources = sources
        self._down: dict[str, str] = {}

    def is_current(self, *, verify: bool = False) -> bool:
        """Whether every file is there: by size and time as last stamped, or by hash with `verify`."""
        stamp = read_json(self.folder / _STAMP)
        known: Any = stamp if isinstance(stamp, dict) else {}
        return (
            not any(self._stale(to, None if verify else known.get(to)) for to in self.lock.files)
            and not self._strangers()
        )

    def update(self, *, verify: bool = False) -> bool:
        """Fetch what is missing or different. Returns whether anything had to be done."""
        with exclusive(self.folder / ".lock"):
            if self.is_current(verify=verify):
                return False
            fetched: dict[str, bytes] = {}
            try:
                for package in self.lock.packages:
                    if any(self._stale(f.to, None) for f in package.outputs):
                        fetched |= self._build(package)
            except Unavailable as error:
                self._install(fetched)  # whole, verified packages: the next run needn't fetch them again
                raise ToolError("vendor-unavailable", str(error)) from error
            self._install(fetched)
            for stranger in self._strangers():
                stranger.unlink()
            self._write_stamp()
            return True

    def _stale(self, to: str, stamped: Any) -> bool:
        entry = self.lock.files[to]
        try:
            status = (self.folder / to).stat()
        except OSError:
            return True
        if stamped is not None:
            return bool(stamped != [status.st_size, status.st_mtime_ns, entry.sha256])
        return status.st_size != entry.size or sha256_file(self.folder / to) != entry.sha256

    def _strangers(self) -> list[Path]:
        """Files that the lock doesn't put here: what an older version left, or a broken run's scratch."""
        ours = {self.folder / to for to in self.lock.files} | {self.folder / _STAMP, self.folder / ".lock"}
        return [path for path in sorted(self.folder.rglob("*")) if path.is_file() and path not in ours]

    def _build(self, package: Package) -> dict[str, bytes]:
        """All files of one package, fetched, checked and derived, by destination."""
        members, source = self._fetch(package)
        built = {}
        for file in package.files:
            data = members[file.member]
            if not is_as_locked(data, file):
                raise ToolError(
                    "vendor-hash-mismatch",
                    f"{source} gave {file.member or package.archive} of {package.label} with SHA-256 "
                    f"{sha256(data)} ({len(data)} bytes), locked is {file.sha256} ({file.size} bytes); "
                    "nothing was kept. Use another source (--from), or find out why its bytes differ",
                )
            built[file.to] = data
        for made in package.derived:
            data = derive(made.form, built[made.source])
            if not is_as_locked(data, made):
                raise ToolError(
                    "vendor-derive-mismatch",
                    f"{made.to} comes out with SHA-256 {sha256(data)}, not as locked: "
                    "tools/_derive.py was changed without running tools/relock.py",
                )
            built[made.to] = data
        size = megabytes(sum(map(len, built.values())))
        note(f"{package.label}: {len(built)} files, {size}, from {source}")
        return built

    def _fetch(self, package: Package) -> tuple[Members, str]:
        reasons = []
        for source in self.sources[package.registry]:
            if source.name in self._down:
                reasons.append(self._down[source.name])
                continue
            try:
                members = source.fetch(package)
            except Unavailable as error:
                reasons.append(str(error))
                if error.down:
                    self._down[source.name] = str(error)
                continue
            if missing := [f.member for f in package.files if f.member not in members]:
                reasons.append(f"{source.name} has no {', '.join(map(str, missing))}")
                continue
            return members, source.name
        tried = "".join(f"\n  - {reason}" for reason in reasons)
        raise Unavailable(
            f"{package.label} could not be fetched. Connect to the network (HTTPS_PROXY is honoured), set "
            "npm_config_registry or PIP_INDEX_URL to a registry that can be reached, install npm or pip, or "
            f"name a folder that holds {package.archive} with SIPPET_VENDOR_FROM. Tried:{tried}"
        )

    def _install(self, files: Mapping[str, bytes]) -> None:
        for to, data in files.items():
            write_atomic(self.folder / to, data)

    def _write_stamp(self) -> None:
        stamp = {}
        for to, entry in self.lock.files.items():
            status = (self.folder / to).stat()
            stamp[to] = [status.st_size, status.st_mtime_ns, entry.sha256]
        write_json(self.folder / _STAMP, stamp)


def ensure(
    given: str | None = None, *, verify: bool = False, lock_file: Path = LOCK_FILE, folder: Path = VENDOR
) -> bool:
    """Bring `static/vendor/` up to date, asking `given` (folder or address) first. True: it changed."""
    lock = read_lock(lock_file)
    vendor = Vendor(lock, folder, default_sources(given, lock.cdn, ROOT))
    return not vendor.is_current(verify=verify) and vendor.update(verify=verify)


def _main() -> int:
    parser = argparse.ArgumentParser(description="Fetch the pinned third-party files into static/vendor/.")
    parser.add_argument(
        "--from",
        dest="given",
        metavar="DIR_OR_URL",
        default=os.environ.get("SIPPET_VENDOR_FROM"),
        help="ask this place first: archives, NAME@VERSION/FILE as CDNs have it, or a copy of static/vendor/ "
        "(default: SIPPET_VENDOR_FROM)",
    )
    parser.add_argument("--verify", action="store_true", help="hash every file instead of looking at size and time")
    options = parser.parse_args()
    changed = ensure(options.given, verify=options.verify)
    say(f"static/vendor: {'fetched and verified' if changed else 'up to date'}")
    return 0


if __name__ == "__main__":
    sys.exit(run(_main))
