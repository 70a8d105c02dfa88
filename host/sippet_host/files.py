"""Sends files over HTTP: validators, preconditions and byte ranges as RFC 9110 has them, bytes by sendfile.

aiohttp's own file response is not used: it reads If-Range as a date only, so that a resumed download can be spliced
from two versions of a file, and it answers a range with bytes of a compressed neighbour.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import time
from collections.abc import Callable, Mapping
from email.utils import formatdate, parsedate_to_datetime
from pathlib import Path

from aiohttp import web

from .errors import NotFound, PreconditionFailed, RangeNotSatisfiable
from .hashcache import Fingerprint
from .ranges import ByteRange, Unsatisfiable, parse_range

# The file is looked at again before each slice, so that a file which is overwritten in place while it is being sent
# ends the connection instead of being spliced. Larger slices look less often, smaller ones cost system calls.
_SLICE = 8 * 1024 * 1024

# A date has a resolution of a second: a younger file could change again without its date changing, and If-Range by
# date would splice. Such a file is sent without Last-Modified, and only its ETag can be used.
_DATE_SETTLED_SECONDS = 2.0

_MISSING = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.EINVAL,
     errno.ENXIO, errno.EISDIR, errno.EMLINK}
)  # fmt: skip


class OpenFile:
    """A regular file opened for sending; a context manager. One version of the bytes, whatever happens to the name."""

    def __init__(self, path: Path, *, follow_symlinks: bool) -> None:
        """Opens without ever blocking, also on a FIFO.

        Raises:
            NotFound: there is no such regular file, or it may not be read.
        """
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
        if not follow_symlinks:
            flags |= getattr(os, "O_NOFOLLOW", 0)
        try:
            descriptor = os.open(path, flags)
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno not in _MISSING:
                raise
            raise NotFound("There is no such file.") from None
        self.file = os.fdopen(descriptor, "rb", buffering=0)
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            self.file.close()
            raise NotFound("There is no such file.")
        self.fingerprint = Fingerprint.of(status)
        self.modified = status.st_mtime

    def __enter__(self) -> OpenFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def changed(self) -> bool:
        """Whether the bytes may have been altered in place since the file was opened."""
        now = Fingerprint.of(os.fstat(self.file.fileno()))
        # The inode's ctime changes when the name is replaced or removed, which leaves these bytes alone.
        return (now.size, now.mtime_ns) != (self.fingerprint.size, self.fingerprint.mtime_ns)


async def open_file(path: Path, *, follow_symlinks: bool = False) -> OpenFile:
    """`OpenFile` without blocking the loop on a slow disk."""
    return await asyncio.to_thread(OpenFile, path, follow_symlinks=follow_symlinks)


def file_etag(fingerprint: Fingerprint) -> str:
    """A strong validator for a file whose hash is not known, without its quotes."""
    return f"{fingerprint.size:x}-{fingerprint.mtime_ns:x}-{fingerprint.ctime_ns:x}"


async def send_file(
    request: web.Request,
    path: Path,
    *,
    content_type: str,
    etag: Callable[[Fingerprint], str] = file_etag,
    headers: Mapping[str, str] | None = None,
    ranges: bool = True,
    follow_symlinks: bool = False,
) -> web.StreamResponse:
    """Answers a GET or HEAD with a file, a part of it, 304, 412 or 416.

    Args:
        path: the file.
        content_type: the Content-Type header's value.
        etag: makes the strong entity tag (without quotes) of the version that was opened; may raise to refuse it.
        headers: further headers, on 304 too.
        ranges: False for a compressed variant: its byte positions are not the file's.
        follow_symlinks: the last component of the path may be a link.

    Raises:
        NotFound, PreconditionFailed, RangeNotSatisfiable: the answer is an error.
    """
    with await open_file(path, follow_symlinks=follow_symlinks) as opened:
        size = opened.fingerprint.size
        tag = f'"{etag(opened.fingerprint)}"'
        modified = int(opened.modified) if time.time() - opened.modified > _DATE_SETTLED_SECONDS else None

        common = dict(headers or {})
        common["ETag"] = tag
        if ranges:
            common["Accept-Ranges"] = "bytes"
        if modified is not None:
            common["Last-Modified"] = formatdate(modified, usegmt=True)

        if not_modified(request, tag, modified):
            response = web.StreamResponse(status=304, headers=common)
            await response.prepare(request)
            await response.write_eof()
            return response

        part: ByteRange | None = None
        if ranges and request.method == "GET" and range_applies(request, tag, modified):
            try:
                part = parse_range(request.headers["Range"], size)
            except Unsatisfiable:
                raise RangeNotSatisfiable(
                    f"The file has {size} bytes.", headers={"Content-Range": f"bytes */{size}"}
                ) from None
        if part:
            common["Content-Range"] = part.content_range(size)
        start, length = (part.start, part.length) if part else (0, size)

        response = web.StreamResponse(status=206 if part else 200, headers=common)
        response.headers["Content-Type"] = content_type
        response.content_length = length
        await response.prepare(request)
        if request.method != "HEAD" and length:
            await _send_bytes(request, opened, start, length)
        await response.write_eof()
        return response


def not_modified(request: web.Request, tag: str, modified: int | None) -> bool:
    """Evaluates the preconditions in the order of RFC 9110, 13.2.2. True: the answer is 304.

    Raises:
        PreconditionFailed: the answer is 412.
    """
    sent = request.headers
    if "If-Match" in sent:
        if not _lists(request, "If-Match", tag, weak=False):
            raise PreconditionFailed("The file is another version than the one asked for.")
    elif modified is not None and (since := _date(sent.get("If-Unmodified-Since"))) is not None and modified > since:
        raise PreconditionFailed("The file has changed since.")
    if "If-None-Match" in sent:
        return _lists(request, "If-None-Match", tag, weak=True)
    since = _date(sent.get("If-Modified-Since"))
    return modified is not None and since is not None and modified <= since


def range_applies(request: web.Request, tag: str, modified: int | None) -> bool:
    """Whether a Range header is present and its If-Range condition, if any, holds (RFC 9110, 13.1.5)."""
    if len(request.headers.getall("Range", [])) != 1:
        return False
    conditions = request.headers.getall("If-Range", [])
    if not conditions:
        return True
    if len(conditions) > 1:
        return False
    condition = conditions[0].strip()
    if condition.startswith(('"', "W/")):
        return condition == tag  # a weak tag never equals a strong one
    return modified is not None and _date(condition) == modified


def _lists(request: web.Request, name: str, tag: str, *, weak: bool) -> bool:
    """Whether an If-Match or If-None-Match header names ``tag`` or ``*``. Our tags hold no commas."""
    for value in request.headers.getall(name):
        for item in value.split(","):
            candidate = item.strip()
            if candidate == "*" or candidate == tag or (weak and candidate == f"W/{tag}"):
                return True
    return False


def _date(value: str | None) -> int | None:
    """An HTTP date in seconds since the epoch; None where there is none or it is malformed."""
    if value is None:
        return None
    try:
        return int(parsedate_to_datetime(value).timestamp())
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


async def _send_bytes(request: web.Request, opened: OpenFile, start: int, length: int) -> None:
    """Sends a part of the file, or ends the connection where the file no longer has these bytes."""
    loop = asyncio.get_running_loop()
    end = start + length
    while start < end:
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client went away")
        if opened.changed():
            sent = 0
        else:
            # Works over TLS too: the loop then falls back to reads and writes in bounded pieces.
            sent = await loop.sendfile(transport, opened.file, start, min(_SLICE, end - start))
        if sent <= 0:
            # The status line promised bytes that are gone. A connection that ends early is the only way to say so.
            transport.abort()
            raise ConnectionResetError("the file changed while it was being sent")
        start += sent
