"""One ranged request and what its answer means (RFC 9110, sections 13 and 14)."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from ..errors import AuthenticationFailed, ModelNotFound, RateLimited, RemoteError, RemoteUnavailable, SippError
from ..platform.http import HttpClient, HttpResponse, display_url
from .header import invalid

_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")
MAX_BYTES = 1 << 44
_RETRIED = {408, 425, 429, 500, 502, 503, 504}


class Changed(Exception):
    """The server has another version of the file than the one that was begun."""


class NoRanges(Exception):
    """The server's ranges can't be used: the file must be asked for as a whole."""


@dataclass(frozen=True)
class Validator:
    """What tells two versions of a file apart.

    Attributes:
        etag: the entity tag; only a strong one can guard a range.
        modified: the ``Last-Modified`` date.
    """

    etag: str = ""
    modified: str = ""

    @classmethod
    def of(cls, response: HttpResponse) -> Validator:
        """The validator of a response, as far as its headers can be seen."""
        return cls(response.headers.get("etag", ""), response.headers.get("last-modified", ""))

    @property
    def if_range(self) -> str:
        """The value of ``If-Range``; empty where there is nothing to guard with."""
        if self.etag and not self.etag.startswith("W/"):
            return self.etag
        return "" if self.etag else self.modified

    def __bool__(self) -> bool:
        return bool(self.etag or self.modified)

    def contradicts(self, other: Validator) -> bool:
        """Whether both speak, and of different versions."""
        if self.etag and other.etag:
            return self.etag != other.etag
        return bool(self.modified and other.modified and self.modified != other.modified)


@dataclass(frozen=True)
class Answer:
    """A response that can be used.

    Attributes:
        response: its body is still to be read.
        start: the offset of its first byte in the file.
        total: bytes of the whole file; ``None`` where the server doesn't say.
        ranged: whether it is the range that was asked for, or else the whole file.
        validator: of the version that it is from.
    """

    response: HttpResponse
    start: int
    total: int | None
    ranged: bool
    validator: Validator


@asynccontextmanager
async def fetch_range(
    http: HttpClient,
    url: str,
    start: int,
    end: int | None,
    *,
    known: Validator,
    size: int | None,
    timeout: float,  # noqa: ASYNC109 (silence, not a whole)
    headers: Mapping[str, str] | None = None,
) -> AsyncIterator[Answer]:
    """Ask for bytes ``start`` to ``end`` (not included) of a file, or for all of it where ``end`` is ``None``.

    Args:
        known: the version that was begun.
        size: of the file, where known.

    Raises:
        Changed: the server has another version now.
        NoRanges: ask for the whole.
        RemoteUnavailable: with the reason ``range``, what came can't be taken, nor for proof of another version: a
            proxy's page, or an answer that lost its headers on the way.
        InvalidModel: the file is empty.
        ModelNotFound, AuthenticationFailed, RateLimited, RemoteUnavailable, RemoteError: see :func:`refusal`.
    """
    fields = dict(headers or {})
    if end is not None:
        fields["Range"] = f"bytes={start}-{end - 1}"
        if known.if_range and http.may_send("if-range", url):
            fields["If-Range"] = known.if_range
    async with http.request("GET", url, headers=fields, timeout=timeout) as response:
        if response.status == 416:
            raise _unsatisfiable(response, url, size, whole=end is None, first=start == 0)
        if response.status not in (200, 206):
            raise refusal(response, url)
        validator = Validator.of(response)
        if known.contradicts(validator):
            raise Changed
        coded = response.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity")
        if response.status == 206 and end is not None:
            total = _check_range(response, url, start, end, coded)
            _check_size(url, total, size, known, validator)
            yield Answer(response, start, total, True, validator)
            return
        length = response.headers.get("content-length", "")
        total = int(length) if length.isdigit() and len(length) < 19 and not coded else None
        _check_size(url, total, size, known, validator)
        yield Answer(response, 0, total, False, validator)


def _check_size(url: str, total: int | None, size: int | None, known: Validator, validator: Validator) -> None:
    if total is None:
        return
    if total > MAX_BYTES:
        raise RemoteError(
            f"{display_url(url)} claims {total} bytes.", hint="Check the address.", details={"reason": "protocol"}
        )
    if size is not None and total != size:
        raise Changed if validator or not known else unusable(url, f"sends {total} bytes where {size} were begun")


def _unsatisfiable(response: HttpResponse, url: str, size: int | None, *, whole: bool, first: bool) -> Exception:
    """What status 416 means by the size that comes with it (RFC 9110, 15.5.17)."""
    told = re.fullmatch(r"bytes \*/(\d{1,18})", response.headers.get("content-range", "").strip())
    if told is None:
        return NoRanges() if first and not whole else unusable(url, "refuses a range of the file")
    if not int(told[1]):
        return invalid("truncated", f"{display_url(url)} is empty.", size=0)
    return unusable(url, "refuses a range that it has") if int(told[1]) == size else Changed()


def _check_range(response: HttpResponse, url: str, start: int, end: int, coded: bool) -> int | None:
    """The file's size from a 206 answer; refuses one that is not what was asked for."""
    if coded or response.headers.get("content-type", "").lower().startswith("multipart/"):
        raise NoRanges  # ranges of a compressed file, or several in one answer
    header = response.headers.get("content-range")
    if header is None:  # another origin that doesn't expose it: the length must do
        length = response.headers.get("content-length", "")
        if not length.isdigit() or int(length) > end - start:
            raise unusable(url, "does not say which range it sends")
        return None
    match = _CONTENT_RANGE.fullmatch(header.strip())
    if not match or int(match[1]) != start or not start <= int(match[2]) < end:
        raise unusable(url, f"sends another range than asked for ({header[:60]})")
    return None if match[3] == "*" else int(match[3])


def unusable(url: str, what: str) -> RemoteUnavailable:
    """The error for an answer that is not what was asked for, where the next one may be."""
    return RemoteUnavailable(
        f"{display_url(url)} {what}.", hint="Try again.", details={"reason": "range", "url": display_url(url)}
    )


def refusal(response: HttpResponse, url: str) -> SippError:
    """The error for a status that is not a success."""
    shown, status = display_url(url), response.status
    details = {"url": shown, "status": status, "retry": status in _RETRIED}
    if status in (404, 410):
        return ModelNotFound(
            f"There is no file at {shown} (status {status}).", hint="Check the address.", details=details
        )
    if status in (401, 403):
        return AuthenticationFailed(
            f"{shown} refuses access (status {status}).",
            hint="Check that the model is public, or that your access is valid.",
            details=details,
        )
    after = response.headers.get("retry-after", "")
    if after.isdigit() and len(after) < 6:
        details["retry_after"] = int(after)
    if status == 429:
        return RateLimited(f"{shown} asks to slow down.", hint="Try again later.", details=details)
    if status in _RETRIED:
        return RemoteUnavailable(
            f"{shown} failed (status {status}).", hint="Try again later.", details={**details, "reason": "status"}
        )
    return RemoteError(f"{shown} answered with status {status}.", hint="Check the address.", details=details)


def can_retry(error: SippError) -> bool:
    """Whether the same request may work in a moment."""
    if isinstance(error, RateLimited):
        return True
    return isinstance(error, RemoteUnavailable) and error.details.get("reason") in (
        "connect", "network", "timeout", "cut", "protocol", "status", "range",
    )  # fmt: skip
