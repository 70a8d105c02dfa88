"""Reads a model's headers from where it is, without fetching the rest."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from ..platform.http import HttpClient, HttpResponse
from ._transfer import Changed, Validator, fetch_range
from .checks import check_model, check_shards
from .gguf import read_header
from .header import GgufHeader, invalid
from .manifest import Manifest, ModelFacts, ModelFile
from .pairing import check_projector
from .sources import Wanted

_TIMEOUT = 30.0


class _Prefix:
    """The start of a body that is still arriving, as a source: as much is read as is asked for."""

    def __init__(self, response: HttpResponse, size: int | None) -> None:
        self.size = size
        self._pieces = response.iter_bytes()
        self._data = bytearray()

    async def read(self, offset: int, length: int) -> bytes:
        while len(self._data) < offset + length:
            piece = await anext(self._pieces, b"")
            if not piece:
                break
            self._data += piece
        return bytes(self._data[offset : offset + length])


async def read_headers(wanted: Wanted, http: HttpClient) -> tuple[list[GgufHeader], Manifest]:
    """The headers of all files, checked, and the manifest with what they tell (sizes and facts).

    Raises:
        InvalidModel, UnsupportedModel: it is not a sound model.
        ModelNotFound, RemoteUnavailable, RemoteError: the server.
    """
    headers, files = [], []
    for file in wanted.manifest.all_files:
        local = wanted.local.get(file.name)
        if local is not None:
            headers.append(await read_header(local))
            files.append(replace(file, size=local.size))
            continue
        async with _opened(file, http) as prefix:
            headers.append(await read_header(prefix))
            files.append(replace(file, size=prefix.size))
    count = len(wanted.manifest.files)
    check_shards(headers[:count])
    check_model(headers[0])
    for header in headers[count:]:
        check_projector(header, headers[0])
    facts = ModelFacts.of(headers[:count], projector=len(headers) > count)
    projector = files[count] if wanted.manifest.projector else None
    return headers, replace(wanted.manifest, files=tuple(files[:count]), projector=projector, facts=facts)


@asynccontextmanager
async def _opened(file: ModelFile, http: HttpClient) -> AsyncIterator[_Prefix]:
    try:
        request = fetch_range(http, file.url, 0, None, known=Validator(), size=file.size, timeout=_TIMEOUT)
        async with request as answer:
            yield _Prefix(answer.response, file.size if file.size is not None else answer.total)
    except Changed:
        raise invalid(
            "hash_mismatch", f"{file.name} has another size than its manifest says.", "The manifest is out of date."
        ) from None
