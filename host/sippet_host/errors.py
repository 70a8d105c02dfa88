"""What the host answers, and what its command line reports, when something is wrong.

All are `sippet.errors.SippError`: a stable ``code``, a message that says what happened, a hint that says what to do.

    HostError
    ├── HttpError                     an answer to a request; has an HTTP status
    │   ├── NotFound                  404
    │   ├── AssetVersionGone          404: the page is older than the files
    │   ├── MethodNotAllowed          405
    │   ├── PreconditionFailed        412
    │   ├── RequestTooLarge           413, 414, 431
    │   ├── RangeNotSatisfiable       416
    │   ├── WrongHost                 421
    │   ├── ForeignOrigin             403
    │   ├── Unauthorized              401: the gateway knows no such key
    │   ├── Forbidden                 403: the key has no right to this
    │   ├── BadRequest                400 and other faults of the client
    │   └── InternalError             500
    ├── ConfigurationError            the settings contradict each other or name something that isn't there
    ├── PortInUse                     another program listens there
    ├── InstallationIncomplete        a file of the installation is missing
    ├── NoSuchModel                   a model was named that isn't there
    ├── NotAModel                     a file was named that isn't GGUF
    ├── BenchUnavailable              nothing can be measured here: a browser or a package is missing
    ├── DownloadFailed                no connection, or a server refused
    └── HashMismatch                  a download is not the file that it should be
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from sippet.errors import SippError


class HostError(SippError):
    """The root of the host's errors."""

    code = "host"


class HttpError(HostError):
    """An error that is the answer to a request."""

    code = "http"
    status: ClassVar[int] = 500

    def __init__(self, message: str, *, hint: str | None = None, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message, hint=hint)
        self.headers = dict(headers or {})


class NotFound(HttpError):
    """Nothing is served under that URL."""

    code = "not_found"
    status = 404
    default_hint = "Check the URL."


class AssetVersionGone(NotFound):
    """The URL names a version of the assets that is no longer served."""

    code = "asset_version_gone"
    default_hint = "Reload the page."


class MethodNotAllowed(HttpError):
    """The URL exists, but not for this method. The Allow header lists the ones that work."""

    code = "method_not_allowed"
    status = 405


class PreconditionFailed(HttpError):
    """If-Match or If-Unmodified-Since named another version of the file."""

    code = "precondition_failed"
    status = 412
    default_hint = "The file has changed: start again from its first byte."


class RequestTooLarge(HttpError):
    """The URL, the headers or the body are longer than the host accepts."""

    code = "request_too_large"
    status = 413
    default_hint = "Send less."


class RangeNotSatisfiable(HttpError):
    """The range begins behind the end of the file."""

    code = "range_not_satisfiable"
    status = 416
    default_hint = "Content-Range gives the length of the file."


class WrongHost(HttpError):
    """The Host header names a host that this server is not (DNS rebinding, or a proxy that was not announced)."""

    code = "wrong_host"
    status = 421
    default_hint = "If this name is right, start the server with --allowed-host NAME."


class ForeignOrigin(HttpError):
    """A page of another origin tried to change something."""

    code = "foreign_origin"
    status = 403


class Unauthorized(HttpError):
    """No key, an unknown one, or a token that has ended."""

    code = "authentication_failed"
    status = 401


class Forbidden(HttpError):
    """The key has no right to this."""

    code = "forbidden"
    status = 403


class BadRequest(HttpError):
    """The request breaks HTTP's rules, or asks for something that the host doesn't do."""

    code = "bad_request"
    status = 400


class InternalError(HttpError):
    """A fault of the host; its log has the details."""

    code = "internal_error"
    status = 500
    default_hint = "The server's log says more."


class ConfigurationError(HostError):
    """The settings contradict each other, or name something that isn't there."""

    code = "configuration"


class PortInUse(HostError):
    """The port is taken."""

    code = "port_in_use"


class InstallationIncomplete(HostError):
    """A file that belongs to the installation is missing."""

    code = "installation_incomplete"


class NoSuchModel(HostError):
    """No model has that path, URL or name."""

    code = "model_not_found"


class NotAModel(HostError):
    """The file is not GGUF, or a shard of it is missing."""

    code = "invalid_model"


class BenchUnavailable(HostError):
    """Something that measuring needs is not on this machine."""

    code = "bench_unavailable"


class DownloadFailed(HostError):
    """A download could not be completed."""

    code = "download_failed"


class HashMismatch(HostError):
    """The bytes are not those that the pinned SHA-256 names. Nothing was kept."""

    code = "hash_mismatch"


def reason_of(error: Exception) -> str:
    """What the system says of a failure, without the path that our message names."""
    return str(getattr(error, "strerror", None) or error)
