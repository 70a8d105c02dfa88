"""The files that Pyodide loads: archives rewritten deterministically, and a wheel that any Python can use."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import _bytecode
import _wheel
import _xbuildenv
import build_wheel
import fake_registry
import pytest
from _report import ToolError

MODULES = {
    "pet/__init__.py": b'"""A pet."""\nfrom .voice import speak\n',
    "pet/voice.py": b"def speak(n: int) -> str:\n    return 'meow' * n\n",
    "pet/py.typed": b"",
}


def archive(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, data in files.items():
            zipped.writestr(name, data)
    return packed.getvalue()


def names(data: bytes) -> list[str]:
    with zipfile.ZipFile(io.BytesIO(data)) as zipped:
        return zipped.namelist()


def run_python(code: str, path: Path) -> str:
    """What a fresh interpreter prints that finds modules only in `path` and its standard library."""
    command = [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(path)!r})\n{code}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def check_record(data: bytes) -> None:
    """Every file of the wheel is in its RECORD with the right hash and size, and nothing else is."""
    with zipfile.ZipFile(io.BytesIO(data)) as zipped:
        record = next(n for n in zipped.namelist() if n.endswith(".dist-info/RECORD"))
        rows = list(csv.reader(io.StringIO(zipped.read(record).decode())))
        assert sorted(row[0] for row in rows) == sorted(zipped.namelist())
        for name, digest, size in rows:
            if name != record:
                content = zipped.read(name)
                right = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
                assert (digest, size) == (f"sha256={right}", str(len(content))), name


# Rewriting archives (in this interpreter; Pyodide runs the same module)


def test_a_compiled_library_imports_without_its_sources(tmp_path: Path) -> None:
    library = tmp_path / "library.zip"
    library.write_bytes(_bytecode.compile_library(archive(MODULES)))
    assert names(library.read_bytes()) == ["pet/__init__.pyc", "pet/py.typed", "pet/voice.pyc"]
    assert run_python("import pet; print(pet.speak(2), pet.__doc__)", library) == "meowmeow A pet."


def test_a_compiled_wheel_keeps_its_sources_and_records_the_byte_code(tmp_path: Path) -> None:
    wheel = _bytecode.compile_wheel(fake_registry.wheel("pet", "1.0", MODULES))
    tag = sys.implementation.cache_tag
    assert {"pet/voice.py", f"pet/__pycache__/voice.{tag}.pyc", "pet/py.typed"} <= set(names(wheel))
    check_record(wheel)
    with zipfile.ZipFile(io.BytesIO(wheel)) as zipped:
        zipped.extractall(tmp_path)
    # Unchecked byte code is used whatever the source says, which shows that it is used at all.
    (tmp_path / "pet/voice.py").write_text("raise ImportError('the source was compiled')")
    assert run_python("import pet; print(pet.speak(1))", tmp_path) == "meow"


def test_rewriting_is_deterministic_and_stores_plain_bytes() -> None:
    wheel = fake_registry.wheel("pet", "1.0", MODULES)
    shuffled = dict(reversed(MODULES.items()))
    for rewrite in (_bytecode.compile_wheel, _bytecode.compile_library, _bytecode.store):
        once = rewrite(wheel)
        assert once == rewrite(wheel) == rewrite(rewrite_order(wheel, shuffled)), rewrite.__name__
        with zipfile.ZipFile(io.BytesIO(once)) as zipped:
            for entry in zipped.infolist():
                assert entry.compress_type == zipfile.ZIP_STORED
                assert entry.date_time == (1980, 1, 1, 0, 0, 0)


def rewrite_order(wheel: bytes, first: dict[str, bytes]) -> bytes:
    """The same files packed in another order."""
    with zipfile.ZipFile(io.BytesIO(wheel)) as zipped:
        rest = {n: zipped.read(n) for n in zipped.namelist() if n not in first}
    return archive({**first, **rest})


def test_a_module_that_does_not_compile_is_an_error() -> None:
    with pytest.raises(Exception, match="invalid syntax"):
        _bytecode.compile_library(archive({"broken.py": b"def ("}))


def test_the_runtime_lock_lists_only_the_given_wheels_for_the_same_runtime() -> None:
    info = {"abi_version": "1", "python": "3.14.2"}
    pyodide = {"info": info, "packages": {"numpy": {"name": "numpy"}}}
    lock = build_wheel.runtime_lock(pyodide, {"pet-1.0-py3-none-any.whl": b"bytes"})
    assert lock["info"] == info
    (package,) = lock["packages"].values()
    assert package["file_name"] == "pet-1.0-py3-none-any.whl"
    assert (package["name"], package["version"], package["imports"]) == ("pet", "1.0", ["pet"])
    assert package["sha256"] == hashlib.sha256(b"bytes").hexdigest()


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_the_cross_build_environment_answers_what_pyodide_build_asks(tmp_path: Path) -> None:
    pyodide, root = tmp_path / "pyodide", tmp_path / "root"
    pyodide.mkdir()
    info = {"python": "3.14.2", "abi_version": "2026_0", "platform": "emscripten_5_0_3", "arch": "wasm32"}
    (pyodide / "pyodide-lock.json").write_text(json.dumps({"info": info, "packages": {}}))
    (pyodide / "package.json").write_text('{"version": "314.0.7"}')
    data = "_sysconfigdata__emscripten_wasm32-emscripten.py"
    (pyodide / "python_stdlib.zip").write_bytes(archive({data: b"build_time_vars = {}\n"}))
    _xbuildenv.lay_out(pyodide, root)
    command = ["make", "-f", str(root / "Makefile.envs"), ".output_vars"]
    environment = {**os.environ, "PYODIDE_ROOT": str(root)}
    printed = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=True).stdout
    variables = dict(line.partition("=")[::2] for line in printed.splitlines())
    assert variables["PYVERSION"] == "3.14.2"
    assert variables["PYODIDE_VERSION"] == "314.0.7"
    assert variables["PYODIDE_EMSCRIPTEN_VERSION"] == "5.0.3"
    assert Path(variables["SYSCONFIGDATA_DIR"], data).read_bytes() == b"build_time_vars = {}\n"


# What a set-up has built (`dev.py test` builds it before it runs this)

built = pytest.mark.skipif(not build_wheel.is_current(), reason="run `python3 tools/dev.py setup` first")


def runtime_wheel() -> Path:
    (wheel,) = build_wheel.RUNTIME.glob("sippet-*.whl")
    return wheel


@built
def test_every_wheel_of_the_runtime_is_as_its_lock_says() -> None:
    lock = json.loads((build_wheel.RUNTIME / "pyodide-lock.json").read_text())
    assert lock["packages"].keys() == {"sippet", "micropip"}
    for package in lock["packages"].values():
        data = (build_wheel.RUNTIME / package["file_name"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == package["sha256"]
        check_record(data)


@built
def test_the_runtimes_wheel_installs_and_imports_in_this_python(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(tmp_path)]
    subprocess.run([*pip, str(runtime_wheel())], check=True, capture_output=True)
    path = run_python("from sippet import client; print(client.SippClient and client.__file__)", tmp_path)
    assert Path(path).is_relative_to(tmp_path)


@built
def test_the_runtime_holds_all_of_the_package_and_nothing_of_the_engine_build() -> None:
    inside = {n for n in names(runtime_wheel().read_bytes()) if n.startswith("sippet/") and "__pycache__" not in n}
    folder = _wheel.PROJECT
    assert inside == {p.relative_to(folder).as_posix() for p in _wheel.sources() if p.is_relative_to(folder / "sippet")}


@built
@pytest.mark.slow
def test_pyodide_build_and_hatchling_make_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        _wheel.pyodide_build_python()
    except _wheel.NotHere as reason:
        pytest.skip(f"pyodide-build can't run here: {reason}")
    pyodide = build_wheel.VENDOR / "pyodide"
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    by_pyodide = _wheel.build(pyodide, tmp_path / "a").read_bytes()
    check_record(by_pyodide)

    def not_here() -> Path:
        raise _wheel.NotHere("for this test")

    monkeypatch.setattr(_wheel, "pyodide_build_python", not_here)
    assert _wheel.build(pyodide, tmp_path / "b").read_bytes() == by_pyodide


def test_without_the_vendored_files_the_error_says_what_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_wheel, "VENDOR", tmp_path)
    with pytest.raises(ToolError, match=r"python3 tools/vendor\.py") as caught:
        build_wheel.ensure()
    assert caught.value.code == "wheel-no-vendor"
