"""Rewrites archives for a fast start. Runs inside the target interpreter (Pyodide), and in CPython for `store`.

Archives are stored, not deflated: HTTP compression of the plain bytes is smaller than a compressed archive.
Output is deterministic: sorted names, one fixed date, and byte code that is checked against no time or source
(`UNCHECKED_HASH`, PEP 552), which is safe because the archive's own SHA-256 covers both.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import py_compile
import sys
import tempfile
import zipfile
from pathlib import Path

_DATE = (1980, 1, 1, 0, 0, 0)


def store(archive: bytes) -> bytes:
    """The same files, stored."""
    return _pack(_unpack(archive))


def compile_library(archive: bytes) -> bytes:
    """The standard library with each module replaced by its byte code, which is what `zipimport` reads first."""
    place = f"/lib/python{sys.version_info.major}{sys.version_info.minor}.zip"
    return _pack(
        {
            name + "c" if name.endswith(".py") else name: (
                _compile(data, f"{place}/{name}") if name.endswith(".py") else data
            )
            for name, data in _unpack(archive).items()
        }
    )


def compile_wheel(archive: bytes) -> bytes:
    """A wheel with this interpreter's byte code beside each module, and a RECORD that lists it.

    The sources stay: tracebacks show lines, and any other Python can use the same wheel.
    """
    files = _unpack(archive)
    for name in [n for n in files if n.endswith(".py")]:
        folder, _, module = name.rpartition("/")
        cached = f"{folder}/__pycache__/{module[:-3]}.{sys.implementation.cache_tag}.pyc".lstrip("/")
        files[cached] = _compile(files[name], name)
    record = next(name for name in files if name.endswith(".dist-info/RECORD"))
    files[record] = _record(files, record)
    return _pack(files)


def _compile(source: bytes, name: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        module, compiled = Path(folder, "module.py"), Path(folder, "module.pyc")
        module.write_bytes(source)
        mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
        py_compile.compile(str(module), str(compiled), name, doraise=True, invalidation_mode=mode)
        return compiled.read_bytes()


def _record(files: dict[str, bytes], record: str) -> bytes:
    """The RECORD of a wheel (binary distribution format): path, SHA-256, size; itself without the last two."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    for name in sorted(files.keys() - {record}):
        digest = base64.urlsafe_b64encode(hashlib.sha256(files[name]).digest()).rstrip(b"=").decode()
        rows.writerow([name, f"sha256={digest}", len(files[name])])
    rows.writerow([record, "", ""])
    return text.getvalue().encode()


def _unpack(archive: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(archive)) as zipped:
        return {name: zipped.read(name) for name in zipped.namelist() if not name.endswith("/")}


def _pack(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as zipped:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, _DATE)
            entry.create_system = 3  # the same bytes whichever system builds
            entry.external_attr = 0o644 << 16
            zipped.writestr(entry, files[name])
    return packed.getvalue()
