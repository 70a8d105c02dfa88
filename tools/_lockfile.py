"""The vendor lock (`tools/vendor.lock.json`): which files of which published packages the browser gets.

Every path, size and hash that vendoring trusts comes from here. Members are paths inside the package (npm's
leading `package/` folder left out); `None` as a member means the archive itself, which keeps a wheel whole.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from _files import ROOT, sha256
from _report import ToolError

LOCK_FILE = ROOT / "tools" / "vendor.lock.json"


@dataclass(frozen=True)
class LockedFile:
    """One file taken out of a package: where from, where to (below `static/vendor/`), and what it must be."""

    member: str | None
    to: str
    sha256: str
    size: int


@dataclass(frozen=True)
class DerivedFile:
    """One file made from a vendored one by a fixed transformation (`_derive.py`), locked by its result."""

    source: str
    form: str
    to: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Component:
    """Something of somebody else's that is compiled into a package's files."""

    name: str
    licence: str


@dataclass(frozen=True)
class Package:
    """One published package at one version."""

    registry: str
    name: str
    version: str
    licence: str
    integrity: str
    purpose: str
    files: tuple[LockedFile, ...]
    derived: tuple[DerivedFile, ...] = ()
    contains: tuple[Component, ...] = ()

    @property
    def outputs(self) -> tuple[LockedFile | DerivedFile, ...]:
        """Every file that this package puts into `static/vendor/`."""
        return (*self.files, *self.derived)

    @property
    def label(self) -> str:
        """Name and version, for messages."""
        return f"{self.name} {self.version}"

    @property
    def archive(self) -> str:
        """The archive's file name, as `npm pack` or `pip download` writes it."""
        if self.registry == "npm":
            return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"
        return f"{self.name.replace('-', '_')}-{self.version}-py3-none-any.whl"


@dataclass(frozen=True)
class Lock:
    """The whole lock: packages, and a public CDN's address template for each registry that has one."""

    packages: tuple[Package, ...]
    cdn: dict[str, str] = field(default_factory=dict)

    @property
    def files(self) -> dict[str, LockedFile | DerivedFile]:
        """Every file of `static/vendor/`, by its destination."""
        return {f.to: f for p in self.packages for f in p.outputs}


def matches_integrity(data: bytes, integrity: str) -> bool:
    """Whether bytes match a subresource-integrity string (`sha512-<base64>`, W3C SRI)."""
    algorithm, _, expected = integrity.partition("-")
    return base64.b64encode(hashlib.new(algorithm, data).digest()).decode() == expected


def is_as_locked(data: bytes, entry: LockedFile | DerivedFile) -> bool:
    """Whether bytes are exactly what the lock promises."""
    return len(data) == entry.size and sha256(data) == entry.sha256


def _checked_destination(path: str) -> str:
    parts = PurePosixPath(path).parts
    if len(parts) < 2 or path.startswith("/") or ".." in parts or "\\" in path:
        raise ToolError("vendor-lock-invalid", f"{path!r} in the vendor lock is not a path like folder/file")
    return path


def _package(raw: dict[str, Any]) -> Package:
    files = tuple(LockedFile(f["member"], _checked_destination(f["to"]), f["sha256"], f["size"]) for f in raw["files"])
    derived = tuple(
        DerivedFile(d["source"], d["form"], _checked_destination(d["to"]), d["sha256"], d["size"])
        for d in raw.get("derived", ())
    )
    contains = tuple(Component(c["name"], c["licence"]) for c in raw.get("contains", ()))
    if raw["registry"] not in ("npm", "pypi"):
        raise ToolError("vendor-lock-invalid", f"unknown registry kind {raw['registry']!r} in the vendor lock")
    return Package(
        raw["registry"],
        raw["name"],
        raw["version"],
        raw["licence"],
        raw["integrity"],
        raw["purpose"],
        files,
        derived,
        contains,
    )


def read_lock(path: Path = LOCK_FILE) -> Lock:
    """Read the lock. Raises `ToolError` (`vendor-lock-invalid`) where it is damaged."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        lock = Lock(tuple(map(_package, raw["packages"])), raw["cdn"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ToolError(
            "vendor-lock-invalid", f"{path} can't be read ({error!r}); restore it from version control"
        ) from error
    destinations = [f.to for p in lock.packages for f in p.outputs]
    if len(destinations) != len(set(destinations)):
        raise ToolError("vendor-lock-invalid", f"{path} names a destination twice")
    return lock
