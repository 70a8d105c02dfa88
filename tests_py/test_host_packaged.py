"""Models out of wheels: verified, cached, healed. Small wheels in a folder stand for the index."""

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
from sippet.models.manifest import Manifest, ModelFacts, ModelFile
from sippet.models.registry import DEFAULT_MODEL, MODELS, RegistryEntry
from sippet_host import packaged as module
from sippet_host import paths
from sippet_host.errors import DownloadFailed, HashMismatch
from sippet_host.hashcache import HashCache
from sippet_host.models import ModelEntry, describe
from sippet_host.packaged import PACKAGED, PackagedModel, Wheel, default_model, packaged_model

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


def _publish(index: Path, *parts: bytes) -> PackagedModel:
    """Writes wheels that would fail if anything in them were run, and returns what their model must be."""
    parts = parts or (MODEL,)
    content = b"".join(parts)
    file = ModelFile("tiny.Q4_1.gguf", len(content), sha256=hashlib.sha256(content).hexdigest())
    manifest = Manifest("tiny", "Tiny", (file,), facts=ModelFacts(license="CC0-1.0"))
    wheels = tuple(_wheel(index, number, part) for number, part in enumerate(parts))
    return PackagedModel(RegistryEntry(manifest, 1, "Tiny."), wheels)


def _wheel(index: Path, number: int, content: bytes) -> Wheel:
    package = f"sippet_test_model{number}"
    path = index / f"{package}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{package}/__init__.py", "raise SystemExit('imported')")
        archive.writestr(f"{package}/tiny.part", content)
        dist = f"{package}-1.0.dist-info"
        archive.writestr(f"{dist}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        archive.writestr(
            f"{dist}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{dist}/RECORD", "")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return Wheel(f"{package}==1.0".replace("_", "-"), path.stat().st_size, sha256, f"{package}/tiny.part")


def _get(cache: Path, model: PackagedModel) -> ModelEntry:
    return packaged_model(model, cache, HashCache(cache / "hashes.json"))


def _left_over(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "models").iterdir() if not path.name.endswith(".lock"))


def test_the_model_is_taken_out_of_its_wheel(index: Path, cache: Path) -> None:
    model = _publish(index)
    entry = _get(cache, model)
    file = entry.files[0]
    assert (entry.id, entry.name, entry.license) == ("tiny", "Tiny", "CC0-1.0")
    assert (file.path, (file.size, file.sha256)) == (cache / "models/tiny.Q4_1.gguf", model.identity)
    assert file.path.read_bytes() == MODEL
    assert _left_over(cache) == ["tiny.Q4_1.gguf"]


def test_a_model_in_several_wheels_is_put_together(index: Path, cache: Path) -> None:
    model = _publish(index, MODEL[:40_000], MODEL[40_000:90_000], MODEL[90_000:])
    assert _get(cache, model).files[0].path.read_bytes() == MODEL
    with pytest.raises(HashMismatch, match="is not tiny"):
        _get(cache / "other", replace(model, wheels=model.wheels[::-1]))


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


@pytest.mark.parametrize(
    "change",
    [{"sha256": "0" * 64}, {"member": "sippet_test_model0/other.gguf"}, {"member": "sippet_test_model0/__init__.py"}],
)
def test_another_wheel_under_the_same_version_is_refused(index: Path, cache: Path, change: dict[str, str]) -> None:
    model = _publish(index)
    with pytest.raises(HashMismatch) as caught:
        _get(cache, replace(model, wheels=(replace(model.wheels[0], **change),)))  # type: ignore[arg-type]
    assert caught.value.code == "hash_mismatch"
    assert _left_over(cache) == []


def test_without_a_connection_the_error_says_what_to_do(index: Path, cache: Path) -> None:
    model = _publish(index)
    (index / "sippet_test_model0-1.0-py3-none-any.whl").unlink()
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
    assert _get(cache, model).files[0].sha256 == model.identity[1]


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


def test_what_is_pinned_is_what_the_registry_says() -> None:
    assert PACKAGED.keys() == {id for id, entry in MODELS.items() if entry.wheels}
    for id, model in PACKAGED.items():
        assert model.registered is MODELS[id]
        assert tuple(wheel.requirement for wheel in model.wheels) == model.registered.wheels


@pytest.mark.slow
def test_the_real_default_model_is_what_its_listing_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS", "PIP_CONFIG_FILE"):
        monkeypatch.delenv(name)
    cache = paths.cache_dir()
    hashes = HashCache(cache / "model-hashes.json")
    entry = default_model(cache, hashes)
    hashes.save()
    assert entry.files[0].sha256 == MODELS[DEFAULT_MODEL].manifest.files[0].sha256
    described = describe(entry.files[0].name, entry.files)
    for fact in ("quantization", "context", "parameters", "capabilities", "license"):
        assert getattr(described, fact) == getattr(entry, fact)
    assert entry.describe()["sampling"] == {"temperature": 0.2, "topP": 0.9, "repeatPenalty": 1.1}
