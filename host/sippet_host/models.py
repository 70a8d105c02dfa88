"""The models that a host serves: what they are, which files they have, how URLs name them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sippet.protocol import camel

from .errors import HostError, NoSuchModel, NotAModel, reason_of
from .facts import PROJECTOR, read_facts
from .hashcache import Fingerprint, HashCache

MANIFEST_VERSION = 1

# llama.cpp's name for a part of a split model.
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE)

# Hashing this much at start costs well under a second, and the answer is remembered.
_HASH_AT_START = 256 * 1024 * 1024


@dataclass(frozen=True)
class ModelFile:
    """One file of a model.

    Attributes:
        path: where it is.
        name: the last part of its URL.
        size: bytes.
        sha256: hexadecimal, or None where it isn't known.
        fingerprint: the version of the file that size and hash describe.
    """

    path: Path
    name: str
    size: int
    sha256: str | None
    fingerprint: Fingerprint

    @classmethod
    def of(cls, path: Path, sha256: str | None = None) -> ModelFile:
        """Describes a file as it is now, whatever it holds.

        Raises:
            OSError: it can't be looked at.
        """
        fingerprint = Fingerprint.of(path.stat())
        return cls(path, path.name, fingerprint.size, sha256, fingerprint)

    def is_current(self) -> bool:
        """Whether the file is still the version that was described."""
        try:
            return Fingerprint.of(self.path.stat()) == self.fingerprint
        except OSError:
            return False

    def etag(self, fingerprint: Fingerprint) -> str:
        """The entity tag of the version just opened: by content where that is known, else by size and times."""
        if self.sha256 is not None and fingerprint == self.fingerprint:
            return f"sha256-{self.sha256}"
        return f"{fingerprint.size:x}-{fingerprint.mtime_ns:x}-{fingerprint.ctime_ns:x}"


@dataclass(frozen=True)
class ModelEntry:
    """A model as it is listed.

    Attributes:
        id: unique among the served models; a part of the URL.
        name: for people.
        files: the file, or its shards in order.
        quantization: such as ``Q4_1``.
        license: SPDX identifier where there is one.
        context: tokens that the model was trained for.
        parameters: number of weights.
        capabilities: of ``chat``, ``completion``, ``embedding``, ``rerank``, ``vision``, ``projector``.
        memory: bytes that it takes in a tab with its default context, as far as the header tells.
        sampling: options of a request that suit it best, by the names of `TextOptions`.
        projector: what makes images readable for it, where that lies beside it.
    """

    id: str
    name: str
    files: tuple[ModelFile, ...]
    quantization: str | None = None
    license: str | None = None
    context: int | None = None
    parameters: int | None = None
    capabilities: tuple[str, ...] = ()
    memory: int | None = None
    sampling: Mapping[str, float] = field(default_factory=dict)
    projector: ModelFile | None = None

    @property
    def all_files(self) -> tuple[ModelFile, ...]:
        """Its files and its projector."""
        return (*self.files, self.projector) if self.projector else self.files

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(file.size for file in self.all_files)

    def with_projector(self, projector: ModelFile) -> ModelEntry:
        """The same model, seeing."""
        memory = None if self.memory is None else self.memory + projector.size
        return replace(self, projector=projector, capabilities=(*self.capabilities, "vision"), memory=memory)

    def is_current(self) -> bool:
        """Whether its files are still those that it describes."""
        return all(file.is_current() for file in self.all_files)

    def file(self, name: str) -> ModelFile | None:
        """The file whose URL ends with ``name``."""
        return next((file for file in self.all_files if file.name == name), None)

    def describe(self, prefix: str = "/models/") -> dict[str, Any]:
        """The entry as JSON values, for the manifest and for the page.

        ``url`` and ``sha256`` are the first file's; ``files`` lists all but the projector; ``manifest`` is the URL of
        what a verified download needs.
        """

        def described(file: ModelFile) -> dict[str, Any]:
            url = f"{prefix}{quote(self.id)}/{quote(file.name)}"
            return {"name": file.name, "url": url, "size": file.size, "sha256": file.sha256}

        files = [described(file) for file in self.files]
        return {
            "id": self.id,
            "name": self.name,
            "url": files[0]["url"],
            "manifest": f"{prefix}{quote(self.id)}/manifest.json",
            "size": self.size,
            "sha256": files[0]["sha256"] if len(files) == 1 else None,
            "files": files,
            "projector": described(self.projector) if self.projector else None,
            "quantization": self.quantization,
            "license": self.license,
            "context": self.context,
            "parameters": self.parameters,
            "capabilities": list(self.capabilities),
            "memory": self.memory,
            "sampling": {camel(name): value for name, value in self.sampling.items()},
        }


def manifest(models: Iterable[ModelEntry]) -> dict[str, Any]:
    """What ``/models/manifest.json`` says."""
    return {"version": MANIFEST_VERSION, "models": [model.describe() for model in models]}


def load_file(path: Path, hashes: HashCache | None = None) -> ModelFile:
    """Describes one file.

    Args:
        path: may be a symbolic link: it was named by whoever runs the server.
        hashes: where to look up or note its SHA-256; without it the hash stays unknown.

    Raises:
        NoSuchModel: there is no such file, or it can't be read.
    """
    with readable(path):
        real = path.resolve(strict=True)
        if not real.is_file():
            raise NoSuchModel(f"{path} is not a file.", hint="Name a .gguf file, or use --models-dir for a folder.")
        status = real.stat()
        digest = None
        fingerprint = Fingerprint.of(status)
        if hashes is not None:
            if status.st_size <= _HASH_AT_START:
                digest, fingerprint = hashes.sha256(real)
            else:
                digest = hashes.peek(real, fingerprint)
    return ModelFile(real, path.name, fingerprint.size, digest, fingerprint)


def load_model(path: Path, hashes: HashCache | None = None) -> ModelEntry:
    """Describes the model of a file; of a split model the path to the first shard stands for all of them.

    Raises:
        NoSuchModel: there is no such file, or it can't be read.
        NotAModel: it isn't sound GGUF, a shard is missing, or its name can't be a part of a URL.
    """
    try:
        path.name.encode()
    except UnicodeEncodeError as error:
        raise NotAModel(f"The name of {path} is not UTF-8.", hint="Rename the file.") from error
    parts = [path.with_name(name) for name in shard_names(path.name)]
    with readable(path):
        missing = [part.name for part in parts[1:] if not part.is_file()]
    if missing:
        raise NotAModel(
            f"{path.name} lacks {len(missing)} of {len(parts)} shards: {', '.join(missing[:3])}.",
            hint="Put all shards in one folder.",
        )
    return describe(path.name, tuple(load_file(part, hashes) for part in parts))


def describe(name: str, files: tuple[ModelFile, ...]) -> ModelEntry:
    """An entry for files, from the name of the first and from what their headers say.

    Raises:
        NotAModel: a header is damaged.
        NoSuchModel: a file can't be read any more.
    """
    match = _SHARD.fullmatch(name)
    stem = match["stem"] if match else re.sub(r"\.gguf$", "", name, flags=re.IGNORECASE)
    with readable(files[0].path):
        facts = read_facts([file.path for file in files])
    return ModelEntry(id=slug(stem), name=stem, files=files, **asdict(facts))


def shard_names(name: str) -> list[str]:
    """The file names of a model, in order, from the name of its first or only file.

    Raises:
        NotAModel: the name is that of a later shard.
    """
    match = _SHARD.fullmatch(name)
    if match is None:
        return [name]
    number, count = int(match["number"]), int(match["count"])
    if number != 1 or count < 1:
        raise NotAModel(
            f"{name} is shard {number} of {count}.", hint="Name the first shard: it stands for all of them."
        )
    suffix = name[-len(".gguf") :]
    return [f"{match['stem']}-{i:05d}-of-{count:05d}{suffix}" for i in range(1, count + 1)]


def load_directory(
    folder: Path, hashes: HashCache | None = None, known: Sequence[ModelEntry] = ()
) -> tuple[list[ModelEntry], list[HostError]]:
    """The models directly in a folder, by name, and what is wrong with those that can't be served.

    Hidden files, projectors and links that leave the folder are left out.

    Args:
        folder: it is not searched below.
        hashes: as in `load_model`.
        known: what was found earlier; what hasn't changed since is not read again.
    """
    earlier = {(model.files[0].name, model.files[0].path): model for model in known}
    found: list[ModelEntry] = []
    problems: list[HostError] = []
    try:
        root = folder.resolve(strict=True)
        paths = sorted(folder.iterdir())
    except (OSError, RuntimeError) as error:
        return [], [NoSuchModel(f"The folder {folder} can't be read: {reason_of(error)}.", hint="Check --models-dir.")]
    for path in paths:
        if path.name.startswith(".") or path.suffix.lower() != ".gguf":
            continue
        try:
            model = _load_from(root, path, earlier, hashes)
        except HostError as problem:
            problems.append(problem)
        else:
            if model is not None:
                found.append(model)
    return found, problems


def _load_from(
    root: Path, path: Path, earlier: Mapping[tuple[str, Path], ModelEntry], hashes: HashCache | None
) -> ModelEntry | None:
    """The model of an entry of a folder; ``None`` for one that isn't to be served.

    Raises:
        NoSuchModel, NotAModel: it ought to be, but can't.
    """
    shard = _SHARD.fullmatch(path.name)
    if shard is not None and int(shard["number"]) > 1:
        return None
    with readable(path):
        real = path.resolve(strict=True)
        if not real.is_relative_to(root) or not real.is_file():
            return None
    model = earlier.get((path.name, real))
    if model is None or not model.is_current():
        model = load_model(path, hashes)
    if PROJECTOR in model.capabilities:  # a part of another model: it can't be chosen by itself
        return None
    return model if all(file.path.is_relative_to(root) for file in model.files) else None


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Says in our terms what the file system has against a path.

    Raises:
        NoSuchModel: it can't be read.
    """
    try:
        yield
    except FileNotFoundError:
        linked = path.is_symlink()
        message = f"{path} is a link to a file that isn't there." if linked else f"There is no file {path}."
        raise NoSuchModel(message, hint="Check the path.") from None
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: links in a circle, before Python 3.13
        raise NoSuchModel(
            f"{path} can't be read: {reason_of(error)}.", hint="Check the path and its permissions."
        ) from error


def unique_ids(models: Sequence[ModelEntry]) -> tuple[ModelEntry, ...]:
    """The same models without repetition, where a second use of an id gets a number; the first keeps the name."""
    taken: set[str] = set()
    seen: set[tuple[Path, ...]] = set()
    result = []
    for model in models:
        paths = tuple(file.path for file in model.files)
        if paths in seen:
            continue
        seen.add(paths)
        candidate, number = model.id, 1
        while candidate in taken:
            number += 1
            candidate = f"{model.id}-{number}"
        taken.add(candidate)
        result.append(replace(model, id=candidate))
    return tuple(result)


def slug(text: str) -> str:
    """A name as a part of a URL: lower case, of letters, digits, ``.``, ``_`` and ``-``."""
    cleaned = re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-._")
    return cleaned[:80] or "model"
