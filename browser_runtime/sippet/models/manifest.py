"""The manifest of a model: its files, the SHA-256 of every chunk of them, and what the model is.

    {"version": 1, "id": "tiny-chat-f16", "name": "tiny-chat", "chunk_size": 524288,
     "files": [{"name": "tiny-chat-f16.gguf", "url": "tiny-chat-f16.gguf", "size": 1723104,
                "sha256": "f431…", "chunks": ["9c1a…"], "mirrors": []}],
     "projector": null, "architecture": "llama", "quantization": "F16", "context": 512, "parameters": 853120,
     "vocabulary": 512, "chat_template": true, "license": "cc0-1.0", "capabilities": ["chat", "completion"]}

It is a static file for any server. URLs in it are relative to its own. Hashes may be missing where nobody worked them
out: ``chunks`` empty, ``sha256`` null.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeGuard
from urllib.parse import quote, urljoin, urlsplit

from .. import _json
from ..errors import InvalidModel, InvalidOption
from ..platform.base import Source
from ..platform.http import sendable
from ._transfer import MAX_BYTES
from .checks import check_model, check_shards
from .gguf import read_header
from .header import GgufHeader, invalid
from .pairing import check_projector

VERSION = 1
CHUNK = 512 << 10  # browsers hash pieces of under a megabyte almost twice as fast as larger ones
MOST_CHUNKS = 1024  # of a model whose size is known: its record is read at each start
MIN_CHUNK, MAX_CHUNK = 64 << 10, 256 << 20
MAX_FILES = 10_000
MAX_MIRRORS = 16
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[^\\/:*?\"<>|\x00-\x1f\ud800-\udfff]{1,200}")
_PIECE = 1 << 20


@dataclass(frozen=True)
class ModelFile:
    """One file of a model.

    Attributes:
        name: its file name.
        size: bytes; ``None`` where unknown.
        url: where to fetch it; empty for a file that is installed or was picked by a user.
        sha256: of the whole, in hexadecimal.
        chunks: SHA-256 of every ``chunk_size`` bytes.
        mirrors: further addresses of the very same bytes, asked in turn where ``url`` fails; of use only with hashes.
    """

    name: str
    size: int | None = None
    url: str = ""
    sha256: str | None = None
    chunks: tuple[str, ...] = ()
    mirrors: tuple[str, ...] = ()

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where to fetch it, in order."""
        return (self.url, *self.mirrors)

    @property
    def is_identified(self) -> bool:
        """Whether its bytes are told from others by hashes."""
        return bool(self.sha256 or self.chunks)

    def parts(self, chunk_size: int) -> list[tuple[int, int]]:
        """Offset and length of each chunk."""
        size = self.size or 0
        return [(offset, min(chunk_size, size - offset)) for offset in range(0, size, chunk_size)]

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "name": self.name,
            "url": self.url,
            "size": self.size,
            "sha256": self.sha256,
            "chunks": list(self.chunks),
            "mirrors": list(self.mirrors),
        }


@dataclass(frozen=True)
class ModelFacts:
    """What a model is, from its GGUF header.

    Attributes:
        architecture: such as ``llama``.
        quantization: such as ``Q4_K_M``.
        context: tokens that it was trained on.
        parameters: how many weights.
        vocabulary: how many tokens.
        chat_template: whether it has one.
        license: as the file names it.
        capabilities: of ``chat``, ``completion``, ``embedding``, ``rerank``, ``vision``.
    """

    architecture: str = ""
    quantization: str | None = None
    context: int | None = None
    parameters: int | None = None
    vocabulary: int | None = None
    chat_template: bool | None = None
    license: str | None = None
    capabilities: tuple[str, ...] = ()

    @classmethod
    def of(cls, headers: Sequence[GgufHeader], *, projector: bool = False) -> ModelFacts:
        """The facts of a model from the headers of all its files."""
        first = headers[0]
        return cls(
            architecture=first.architecture,
            quantization=first.quantization or None,
            context=first.context_length,
            parameters=sum(header.parameters for header in headers) or None,
            vocabulary=first.vocabulary,
            chat_template=first.chat_template is not None,
            license=first.license,
            capabilities=_capabilities(first, projector),
        )


@dataclass(frozen=True)
class Manifest:
    """A model's files and facts.

    Attributes:
        id: names it among the installed models.
        name: for people.
        files: the file, or its shards in order.
        chunk_size: bytes that one entry of ``ModelFile.chunks`` covers.
        projector: the image projector that belongs to it.
        facts: what it is.
    """

    id: str
    name: str
    files: tuple[ModelFile, ...]
    chunk_size: int = CHUNK
    projector: ModelFile | None = None
    facts: ModelFacts = field(default_factory=ModelFacts)

    @property
    def all_files(self) -> tuple[ModelFile, ...]:
        """The model's files and its projector."""
        return (*self.files, self.projector) if self.projector else self.files

    @property
    def size(self) -> int | None:
        """Bytes of all files; ``None`` where one is unknown."""
        sizes = [file.size for file in self.all_files]
        return None if None in sizes else sum(size for size in sizes if size is not None)

    def to_dict(self) -> dict[str, Any]:
        """The manifest as JSON values."""
        facts = {**vars(self.facts), "capabilities": list(self.facts.capabilities)}
        return {
            "version": VERSION,
            "id": self.id,
            "name": self.name,
            "chunk_size": self.chunk_size,
            "files": [file.to_dict() for file in self.files],
            "projector": self.projector.to_dict() if self.projector else None,
            **facts,
        }

    def to_json(self) -> bytes:
        """The manifest as a file: the same values give the same bytes."""
        return (json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes | str, base_url: str = "") -> Manifest:
        """Read a manifest.

        Args:
            data: the file.
            base_url: where it came from; URLs in it are resolved against this.

        Raises:
            InvalidModel: it is not a manifest (``details["reason"]`` is ``bad_manifest``).
        """
        try:
            values = _json.loads(data)
        except ValueError as error:
            raise _bad("it is not JSON") from error
        return cls.from_dict(values, base_url)

    @classmethod
    def from_dict(cls, values: Any, base_url: str = "") -> Manifest:
        """Read a manifest from JSON values; see :meth:`from_json`."""
        if not isinstance(values, Mapping) or not isinstance(values.get("files"), list):
            raise _bad("it has no list of files")
        version = values.get("version", VERSION)
        if version != VERSION:
            raise _bad(f"it is of version {version!r}; this Sippet reads version {VERSION}")
        chunk_size = values.get("chunk_size", CHUNK)
        if not _whole(chunk_size) or not MIN_CHUNK <= chunk_size <= MAX_CHUNK:
            raise _bad(f"chunk_size must be from {MIN_CHUNK} to {MAX_CHUNK}")
        if not 1 <= len(values["files"]) <= MAX_FILES:
            raise _bad(f"it must list from 1 to {MAX_FILES} files")
        files = tuple(_file(item, chunk_size, base_url) for item in values["files"])
        projector = _file(values["projector"], chunk_size, base_url) if values.get("projector") else None
        names = [file.name for file in files] + ([projector.name] if projector else [])
        if len({name.casefold() for name in names}) != len(names):
            raise _bad("two files have one name")
        return cls(
            id=_text(values, "id") or files[0].name,
            name=_text(values, "name") or files[0].name,
            files=files,
            chunk_size=chunk_size,
            projector=projector,
            facts=_facts(values),
        )


async def build_manifest(
    sources: Sequence[Source],
    *,
    projector: Source | None = None,
    id: str | None = None,
    name: str | None = None,
    chunk_size: int | None = None,
    on_bytes: Any = None,
) -> Manifest:
    """Make the manifest of a model: reads all of its bytes once.

    Args:
        sources: its files, in order.
        projector: its image projector.
        id, name: by default from the first file's name and header.
        chunk_size: bytes that are verified together, and the most that a resumed download fetches twice; by default
            :func:`fitting_chunk`.
        on_bytes: called with the bytes hashed so far.
    """
    if chunk_size is None:
        chunk_size = fitting_chunk(sum(source.size for source in sources))
    if not MIN_CHUNK <= chunk_size <= MAX_CHUNK:
        raise InvalidOption("chunk_size", f"chunk_size must be from {MIN_CHUNK} to {MAX_CHUNK} bytes.")
    headers = [await read_header(source) for source in sources]
    check_shards(headers)
    check_model(headers[0])
    if projector is not None:
        check_projector(await read_header(projector), headers[0])
    done = 0

    async def describe(source: Source) -> ModelFile:
        nonlocal done
        before = done
        file = await hash_file(source, chunk_size, lambda nbytes: on_bytes and on_bytes(before + nbytes))
        done += source.size
        return replace(file, url=quote(source.name))

    stem = shard_stem(sources[0].name)
    return Manifest(
        id=id or slug(stem),
        name=name or headers[0].text("general.name") or stem,
        files=tuple([await describe(source) for source in sources]),
        chunk_size=chunk_size,
        projector=await describe(projector) if projector is not None else None,
        facts=ModelFacts.of(headers, projector=projector is not None),
    )


def fitting_chunk(nbytes: int) -> int:
    """The bytes of a chunk for a model of a known size: as few as give a list of hashes that is not too long."""
    chunk = CHUNK
    while chunk * MOST_CHUNKS < nbytes and chunk < MAX_CHUNK:
        chunk *= 2
    return chunk


async def hash_file(source: Source, chunk_size: int, on_bytes: Callable[[int], object]) -> ModelFile:
    """A file with the hashes of its chunks and of the whole.

    Args:
        source: the file.
        chunk_size: bytes of a chunk.
        on_bytes: called with the bytes hashed so far.
    """
    whole, chunks = hashlib.sha256(), []
    for start in range(0, source.size, chunk_size):
        chunk = hashlib.sha256()
        end = min(start + chunk_size, source.size)
        for offset in range(start, end, _PIECE):
            piece = await source.read(offset, min(_PIECE, end - offset))
            whole.update(piece)
            chunk.update(piece)
        chunks.append(chunk.hexdigest())
        on_bytes(end)
    return ModelFile(source.name, source.size, "", whole.hexdigest(), tuple(chunks))


def shard_stem(name: str) -> str:
    """A model file's name without shard numbers and suffix."""
    return re.sub(r"(-\d{5}-of-\d{5})?\.gguf$", "", name, flags=re.IGNORECASE)


def slug(text: str) -> str:
    """A name as an id: lower case, of letters, digits, ``.``, ``_`` and ``-``."""
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-._")[:80] or "model"


def _file(values: Any, chunk_size: int, base_url: str) -> ModelFile:
    if not isinstance(values, Mapping):
        raise _bad("a file is not an object")
    name, size = values.get("name"), values.get("size")
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name.strip(". ") != name:
        raise _bad(f"{name!r} is not a usable file name")
    if size is not None and (not _whole(size) or not 0 < size <= MAX_BYTES):
        raise _bad(f"the size of {name} is {size!r}")
    sha256, chunks, url = values.get("sha256"), values.get("chunks") or [], values.get("url") or ""
    if sha256 is not None and not _is_sha256(sha256):
        raise _bad(f"the sha256 of {name} is not one")
    if not isinstance(chunks, list) or not all(map(_is_sha256, chunks)):
        raise _bad(f"the chunks of {name} are not a list of SHA-256")
    if chunks and (size is None or len(chunks) != math.ceil(size / chunk_size)):
        raise _bad(f"the chunks of {name} do not cover its size")
    mirrors = values.get("mirrors") or []
    if not isinstance(mirrors, list) or len(mirrors) > MAX_MIRRORS or "" in mirrors:
        raise _bad(f"the mirrors of {name} are not a list of URLs")
    return ModelFile(
        name,
        size,
        _url(url, base_url, name) if url != "" else "",
        sha256,
        tuple(chunks),
        tuple(_url(mirror, base_url, name) for mirror in mirrors),
    )


def _url(value: Any, base_url: str, name: str) -> str:
    """A URL of a manifest, resolved against the manifest's own. It may stay relative: a page resolves it."""
    try:
        url = urljoin(base_url, value)
        return sendable(url) if urlsplit(url).scheme in ("http", "https") else quote(url, safe=string.punctuation)
    except (ValueError, TypeError, AttributeError, InvalidOption):
        raise _bad(f"{str(value)[:200]!a} among the URLs and mirrors of {name} is no URL") from None


def _facts(values: Mapping[str, Any]) -> ModelFacts:
    def number(key: str) -> int | None:
        value = values.get(key)
        return value if _whole(value) and value >= 0 else None

    template, capabilities = values.get("chat_template"), values.get("capabilities")
    return ModelFacts(
        architecture=_text(values, "architecture") or "",
        quantization=_text(values, "quantization"),
        context=number("context"),
        parameters=number("parameters"),
        vocabulary=number("vocabulary"),
        chat_template=template if isinstance(template, bool) else None,
        license=_text(values, "license"),
        capabilities=tuple(item for item in capabilities if isinstance(item, str))
        if isinstance(capabilities, list)
        else (),
    )


def with_single_chunks(manifest: Manifest) -> Manifest:
    """The manifest where the hash of a file that is a single chunk is also that chunk's."""

    def known(file: ModelFile) -> ModelFile:
        single = file.sha256 and not file.chunks and file.size is not None and file.size <= manifest.chunk_size
        return replace(file, chunks=(file.sha256,)) if single and file.sha256 else file

    projector = known(manifest.projector) if manifest.projector else None
    return replace(manifest, files=tuple(map(known, manifest.files)), projector=projector)


def _capabilities(header: GgufHeader, projector: bool) -> tuple[str, ...]:
    pooling = header.integer(f"{header.architecture}.pooling_type")
    if pooling == 4:  # LLAMA_POOLING_TYPE_RANK
        return ("rerank",)
    if pooling or header.hyper("attention.causal") is False or "bert" in header.architecture:
        return ("embedding",)
    chat = ("chat",) if header.chat_template else ()
    return (*chat, "completion", *(("vision",) if projector else ()))


def _text(values: Mapping[str, Any], key: str) -> str | None:
    value = values.get(key)
    # A lone surrogate, which JSON can hold, could not be written again.
    return value[:500].encode(errors="replace").decode() if isinstance(value, str) and value else None


def _whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def _bad(what: str) -> InvalidModel:
    return invalid(
        "bad_manifest", f"This is not a usable model manifest: {what}.", "Make it by `sippet models manifest`."
    )
