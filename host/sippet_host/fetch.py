"""Downloads models from http(s) URLs into the cache: once, resumed after a break, never spliced from two versions."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import re
import time
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from .errors import DownloadFailed, NotAModel
from .hashcache import HashCache, atomic_write
from .locks import file_lock
from .models import ModelEntry, ModelFile, describe, load_model, shard_names
from .paths import named_path
from .progress import Progress, say
from .urls import checked_url, is_url
from .version import __version__

_TIMEOUT = 30.0
_ATTEMPTS = 4
_PIECE = 256 * 1024
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)")


@dataclass(frozen=True)
class _Record:
    """What is noted beside a download, so that it can be resumed and later be described without the network."""

    etag: str | None
    size: int | None
    sha256: str | None = None


@dataclass(frozen=True)
class _Source:
    """A URL, and the ``user:password`` that was written into it; kept apart so that messages can't show it."""

    url: str
    secret: str | None

    def request(self, headers: dict[str, str]) -> urllib.request.Request:
        request = urllib.request.Request(self.url, headers=headers)
        if self.secret is not None:
            token = base64.b64encode(self.secret.encode()).decode()
            # Not sent on to the target of a redirect.
            request.add_unredirected_header("Authorization", f"Basic {token}")
        return request

    def __str__(self) -> str:
        return _shown(self.url)


class _HttpOnly(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https only, and never from https to http."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: http.client.HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        scheme = urlsplit(newurl).scheme.lower()
        if scheme not in ("http", "https") or (req.type == "https" and scheme == "http"):
            raise DownloadFailed(f"{_shown(req.full_url)} redirects to a {scheme} URL.", hint="Use the final URL.")
        return super().redirect_request(req, fp, code, msg, headers, checked_url(newurl))

    def http_error_302(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: http.client.HTTPMessage
    ) -> Any:
        try:
            return super().http_error_302(req, fp, code, msg, headers)
        except urllib.error.HTTPError:
            raise  # closes it
        except BaseException:
            fp.close()  # urllib leaves it open
            raise

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


_opener = urllib.request.build_opener(_HttpOnly)


def find_model(name: str, cache: Path, hashes: HashCache) -> ModelEntry:
    """The model of a path, or of a URL, which is downloaded once.

    Raises:
        NoSuchModel, NotAModel, DownloadFailed: as `load_model` and `fetch_model` do.
    """
    return fetch_model(name, cache, hashes) if is_url(name) else load_model(named_path(name), hashes)


def fetch_model(url: str, cache: Path, hashes: HashCache) -> ModelEntry:
    """The model behind a URL, from the cache where it was downloaded before.

    Args:
        url: of a ``.gguf`` file; of a split model, of its first shard.
        cache: the cache folder; files go to ``models/`` in it.
        hashes: remembers that a cached file is still what was downloaded.

    Raises:
        DownloadFailed: no connection, an error of the server, no room.
        NotAModel: what the server sends isn't GGUF.
    """
    parts = urlsplit(checked_url(url))
    secret = f"{unquote(parts.username)}:{unquote(parts.password or '')}" if parts.username else None
    parts = parts._replace(netloc=parts.netloc.rpartition("@")[2])
    name = re.sub(r"[^\w.+-]", "_", unquote(parts.path).rsplit("/", 1)[-1]).lstrip(".")
    # As long as a file's name can be, with the endings that are put to it; its own end tells a shard.
    name = name.encode()[-200:].decode(errors="ignore") or "model.gguf"
    if not name.lower().endswith(".gguf"):
        name += ".gguf"
    files = []
    for part in shard_names(name):
        path = parts.path if part == name else f"{parts.path.rpartition('/')[0]}/{part}"
        part_url = parts._replace(path=path).geturl()
        folder = cache / "models" / f"url-{hashlib.sha256(part_url.encode()).hexdigest()[:16]}"
        try:
            with file_lock(folder / ".lock", on_wait=lambda: say("Another process is fetching this model; waiting.")):
                files.append(_fetch_file(_Source(part_url, secret), folder / part, hashes))
        except OSError as error:
            raise DownloadFailed(f"{part} can't be stored: {error}.", hint="Make room, or set SIPPET_CACHE.") from error
    return describe(name, tuple(files))


def _fetch_file(source: _Source, target: Path, hashes: HashCache) -> ModelFile:
    record_file = target.with_name(target.name + ".json")
    record = _read_record(record_file)
    if not (target.is_file() and record and record.sha256 == hashes.sha256(target)[0]):
        partial = target.with_name(target.name + ".part")
        record = _download(source, partial, record if partial.exists() else None, record_file)
        partial.replace(target)
        atomic_write(record_file, json.dumps(asdict(record)).encode())
    sha256, fingerprint = hashes.sha256(target)
    return ModelFile(target, target.name, fingerprint.size, sha256, fingerprint)


def _download(source: _Source, partial: Path, record: _Record | None, record_file: Path) -> _Record:
    """Fills the partial file to its end, over as many connections as it takes."""
    for attempt in range(_ATTEMPTS):
        try:
            record = _transfer(source, partial, record, record_file)
            break
        except (http.client.HTTPException, urllib.error.URLError, ConnectionError, TimeoutError) as error:
            reason = getattr(error, "reason", error) or type(error).__name__
            if attempt == _ATTEMPTS - 1 or (isinstance(error, urllib.error.HTTPError) and error.code < 500):
                status = f"the server answers {error.code}" if isinstance(error, urllib.error.HTTPError) else reason
                raise DownloadFailed(
                    f"{source} can't be fetched: {status}.",
                    hint="Check the URL and the network; what has come so far is kept.",
                ) from error
            say(f"The connection broke ({reason}); trying again.")
            time.sleep(0.5 * 2**attempt)
            record = _read_record(record_file)
    assert record is not None
    with partial.open("rb") as file:
        return _Record(record.etag, partial.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def _transfer(source: _Source, partial: Path, record: _Record | None, record_file: Path) -> _Record:
    have = partial.stat().st_size if partial.exists() else 0
    headers = {"User-Agent": f"sippet/{__version__}", "Accept-Encoding": "identity"}
    # Only a strong tag can vouch that the rest belongs to the same version; without one the download starts anew.
    if have and record and record.etag and not record.etag.startswith("W/"):
        headers |= {"Range": f"bytes={have}-", "If-Range": record.etag}
    try:
        response = _opener.open(source.request(headers), timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        with error:
            if error.code != 416:
                raise
            if record is not None and have == record.size:
                return record  # it was complete already
            partial.unlink()
            raise http.client.HTTPException("the server has fewer bytes than were there before") from error
    except ValueError as error:  # the URL was checked: it is a redirect's
        raise http.client.HTTPException("the server redirects to what is no URL") from error
    with response:
        start, size = 0, _length(response.headers.get("Content-Length"))
        if response.status == 206:
            match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if match is None or int(match[1]) != have or "Range" not in headers or record is None:
                partial.unlink(missing_ok=True)
                raise http.client.HTTPException("the server sent another range than the one asked for")
            start, size = have, _length(match[2])
            grown = None not in (size, record.size) and size != record.size
            if grown or response.headers.get("ETag") != record.etag:  # not every server heeds If-Range
                partial.unlink()
                raise http.client.HTTPException("the server has another version of the file now")
        record = _Record(response.headers.get("ETag"), size)
        atomic_write(record_file, json.dumps(asdict(record)).encode())
        with Progress(f"Fetching {partial.name.removesuffix('.part')}", size) as progress:
            with partial.open("r+b" if start else "wb") as out:
                out.seek(start)
                done = start
                while piece := _read(response):
                    if done == 0 and not piece.startswith(b"GGUF"[: len(piece)]):
                        out.close()
                        partial.unlink()
                        raise NotAModel(f"{source} is not a GGUF file.", hint="Use the URL of the file itself.")
                    out.write(piece)
                    done += len(piece)
                    progress.update(done)
            if size is not None and done != size:
                raise http.client.IncompleteRead(b"", size - done)
            if done < 4:
                partial.unlink()
                raise NotAModel(f"{source} is empty.", hint="Use the URL of a .gguf file.")
    return record


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read(_PIECE)
    except OSError as error:  # such as a fault of TLS; an OSError of its own would be taken for the disk's
        raise ConnectionError(str(error)) from error


def _length(value: str | None) -> int | None:
    return int(value) if value and value.isdecimal() and len(value) < 19 else None


def _read_record(file: Path) -> _Record | None:
    try:
        return _Record(**json.loads(file.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def _shown(url: str) -> str:
    """A URL for a message: without user, password and query, which can hold secrets."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
