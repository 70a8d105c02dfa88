#!/usr/bin/env python3
"""Record the sizes and hashes of every package in `tools/vendor.lock.json` anew. For maintainers.

Edit a version (or add a package, with empty hashes) in the lock, run this, read the diff, then run
`tools/notices.py`. Archives come from the npm and pip clients; whoever commits the result vouches for it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path

from _derive import derive
from _fetch import Unavailable
from _files import sha256, write_atomic
from _lockfile import LOCK_FILE, read_lock
from _report import ToolError, note, run
from _sources import ArchiveSource, NpmClient, PipClient, unpack


def relock(path: Path = LOCK_FILE) -> None:
    """Rewrite the lock in place. Raises `ToolError` where a package can't be fetched or lacks a member."""
    clients: dict[str, ArchiveSource] = {"npm": NpmClient(), "pypi": PipClient((sys.executable,))}
    raw = json.loads(path.read_text(encoding="utf-8"))
    for entry, package in zip(raw["packages"], read_lock(path).packages, strict=True):
        client = clients[package.registry]
        try:
            archive = client.archive(package)
        except Unavailable as error:
            raise ToolError("vendor-unavailable", str(error)) from error
        algorithm = "sha512" if package.registry == "npm" else "sha256"  # what each registry publishes itself
        digest = base64.b64encode(hashlib.new(algorithm, archive).digest()).decode()
        entry["integrity"] = f"{algorithm}-{digest}"
        members = unpack(archive, replace(package, integrity=entry["integrity"]), client.name)
        built: dict[str, bytes] = {}
        for file in entry["files"]:
            if file["member"] not in members:
                raise ToolError("vendor-lock-invalid", f"{package.label} has no file {file['member']}")
            data = built[file["to"]] = members[file["member"]]
            file["sha256"], file["size"] = sha256(data), len(data)
        for made in entry.get("derived", ()):
            data = derive(made["form"], built[made["source"]])
            made["sha256"], made["size"] = sha256(data), len(data)
        note(f"{package.label}: {entry['integrity']}")
    write_atomic(path, (json.dumps(raw, indent=2) + "\n").encode())


def _main() -> int:
    relock()
    return 0


if __name__ == "__main__":
    sys.exit(run(_main))
