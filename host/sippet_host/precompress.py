"""Brotli and gzip variants of the assets, made once for each content and kept in the user's cache folder."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import time
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import brotli  # type: ignore[import-untyped]

# Fast enough for the first minute of the first start (about 50 MB/s); an export, which is made once and sent often,
# uses a stronger setting.
BROTLI_QUALITY = 5
GZIP_LEVEL = 6

_PIECE = 1024 * 1024
_SMALLEST = 1024
_KEEP_SECONDS = 30 * 24 * 3600
_WORTH = 0.9  # a variant that saves less than a tenth is not kept


class Precompressor:
    """Finds and makes compressed variants by the SHA-256 of the plain content.

    An empty file in the cache stands for "not worth it". All methods may be called from any thread.
    """

    def __init__(self, folder: Path, quality: int = BROTLI_QUALITY) -> None:
        self._folder = folder
        self._quality = quality
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def variant_path(self, sha256: str, encoding: str) -> Path:
        """Where the variant of a content is kept, whether it exists or not."""
        level = f"{self._quality}.br" if encoding == "br" else f"{GZIP_LEVEL}.gz"
        return self._folder / sha256[:2] / f"{sha256}.{level}"

    def find(self, sha256: str, encoding: str) -> Path | None:
        """The variant, if it was made and is worth sending."""
        path = self.variant_path(sha256, encoding)
        try:
            return path if path.stat().st_size else None
        except OSError:
            return None

    def make(self, source: Path, sha256: str, encoding: str, stop: threading.Event | None = None) -> None:
        """Makes a variant unless it exists. Leaves nothing behind when ``stop`` is set under way.

        Raises:
            OSError: the source can't be read or the cache can't be written.
        """
        target = self.variant_path(sha256, encoding)
        if target.exists():
            return
        if source.stat().st_size < _SMALLEST:
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=".making-")
        try:
            with os.fdopen(handle, "wb") as out, source.open("rb") as file:
                for piece in _compress(file_pieces(file), encoding, self._quality):
                    if stop is not None and stop.is_set():
                        return
                    out.write(piece)
                if out.tell() > source.stat().st_size * _WORTH:
                    out.truncate(0)
            Path(name).replace(target)
        finally:
            with contextlib.suppress(OSError):
                Path(name).unlink()

    def start(self, sources: Iterable[tuple[Path, str]]) -> None:
        """Makes the variants of (file, its SHA-256) pairs in a background thread, Brotli first."""
        self.stop()
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(list(sources), self._stop), name="precompress", daemon=True
        )
        self._thread.start()

    def stop(self, timeout: float = 2.0) -> None:
        """Ends the background thread at its next piece and waits for it."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout)
            self._thread = None

    def wait(self) -> None:
        """Returns when the background thread has finished its list."""
        if self._thread is not None:
            self._thread.join()

    def _run(self, sources: list[tuple[Path, str]], stop: threading.Event) -> None:
        for encoding in ("br", "gzip"):
            for source, sha256 in sources:
                if stop.is_set():
                    return
                # Without a variant the file is sent as it is: a full disk must not end the server.
                with contextlib.suppress(OSError):
                    self.make(source, sha256, encoding, stop)
        with contextlib.suppress(OSError):
            self._prune({sha256 for _, sha256 in sources})

    def _prune(self, used: set[str]) -> None:
        """Removes variants of contents that were replaced long ago."""
        limit = time.time() - _KEEP_SECONDS
        for path in self._folder.glob("??/*"):
            with contextlib.suppress(OSError):
                if path.name.partition(".")[0] not in used and path.stat().st_mtime < limit:
                    path.unlink()


def decompress_brotli(source: Path, target: Path) -> None:
    """Writes the plain content of a ``.br`` file, atomically.

    Raises:
        OSError: it can't be read or written.
        ValueError: it isn't Brotli, or it is truncated.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=".making-")
    try:
        decoder = brotli.Decompressor()
        with os.fdopen(handle, "wb") as out, source.open("rb") as file:
            for piece in file_pieces(file):
                out.write(decoder.process(piece))
        if not decoder.is_finished():
            raise ValueError(f"{source.name} is truncated")
        Path(name).replace(target)
    except brotli.error as error:
        raise ValueError(f"{source.name} is damaged") from error
    finally:
        with contextlib.suppress(OSError):
            Path(name).unlink()


def file_pieces(file: BinaryIO) -> Iterator[bytes]:
    """Reads a binary file in pieces that bound memory and the time until a stop is noticed."""
    while piece := file.read(_PIECE):
        yield piece


def _compress(pieces: Iterator[bytes], encoding: str, quality: int) -> Iterator[bytes]:
    if encoding == "br":
        compressor = brotli.Compressor(quality=quality)
        for piece in pieces:
            yield compressor.process(piece)
        yield compressor.finish()
    else:
        gzip = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, zlib.MAX_WBITS | 16)
        for piece in pieces:
            yield gzip.compress(piece)
        yield gzip.flush()
