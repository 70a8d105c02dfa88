"""Every error that Sippet raises, in one tree.

    SippError
    ├── UsageError                 the call is wrong: fix the program
    │   ├── InvalidOption          unknown option, wrong type, out of range      (names the option)
    │   ├── UnsupportedOption      this endpoint can't honour the option         (names the option)
    │   ├── UnsupportedOperation   this model or endpoint has no such operation
    │   ├── EndpointNotFound       no endpoint with that id
    │   ├── AmbiguousEndpoint      several endpoints could serve: name one
    │   └── ClientClosed           the client was closed
    ├── PlatformError              this place can't do it: choose another way
    │   ├── UnsupportedEnvironment a feature of the browser or platform is missing
    │   ├── AssetError             a file of the runtime is missing, blocked or altered
    │   └── StorageError           no room, no permission, or storage is damaged
    ├── ModelError                 the model file is at fault
    │   ├── ModelNotFound          no such file, URL or registered name
    │   ├── InvalidModel           not GGUF, truncated, corrupt, absurd
    │   ├── UnsupportedModel       a sound file that the engine can't run
    │   └── ModelTooLarge          it does not fit the memory of this place
    ├── EngineError                the engine failed
    │   ├── EngineCrashed          it ended in the middle of its work; load again
    │   ├── ContextOverflow        the prompt is longer than the context
    │   ├── SchemaMismatch         the answer is not what json_schema asked for
    │   └── QueueFull              too many requests wait already
    ├── RemoteError                a server answered with an error, or not at all
    │   ├── AuthenticationFailed   the server refused the credentials
    │   ├── RateLimited            the server asks to slow down
    │   └── RemoteUnavailable      no connection, a time-out, a cut stream
    └── Cancelled                  the caller cancelled

Each class has a stable ``code`` (the same in JavaScript), a message that says what happened and a ``hint`` that says
what to do. ``details`` carries the facts as plain JSON values. The codes are checked against the JavaScript side by a
test.
"""

from __future__ import annotations

import copyreg
from collections.abc import Mapping
from typing import Any, ClassVar


class SippError(Exception):
    """The root of the tree.

    Args:
        message: what happened, in a sentence.
        hint: what the reader can do about it.
        details: facts that a program can use, as JSON values.
    """

    code: ClassVar[str] = "error"
    default_hint: ClassVar[str] = ""

    def __init__(self, message: str, *, hint: str | None = None, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = self.default_hint if hint is None else hint
        self.details: dict[str, Any] = dict(details or {})

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".rstrip() if self.hint else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        """Made again without ``__init__``, whose arguments differ from class to class."""
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]

    def to_dict(self) -> dict[str, Any]:
        """The error as it crosses to JavaScript: code, message, hint, details and the cause's text."""
        cause = self.__cause__
        return {
            "code": self.code,
            "message": self.message,
            "hint": self.hint,
            "details": self.details,
            "cause": None if cause is None else f"{type(cause).__name__}: {cause}",
        }


class UsageError(SippError):
    """The call is wrong; the program must be changed."""

    code = "usage"


class InvalidOption(UsageError):
    """An option is unknown, has the wrong type or is out of range. ``details["option"]`` names it."""

    code = "invalid_option"

    def __init__(self, option: str, message: str, *, hint: str | None = None, **details: Any) -> None:
        super().__init__(message, hint=hint, details={"option": option, **details})
        self.option = option


class UnsupportedOption(UsageError):
    """A sound option that this endpoint can't honour. ``details["option"]`` names it."""

    code = "unsupported_option"

    def __init__(self, option: str, message: str, *, hint: str | None = None, **details: Any) -> None:
        super().__init__(message, hint=hint, details={"option": option, **details})
        self.option = option


class UnsupportedOperation(UsageError):
    """The model or the endpoint has no such operation."""

    code = "unsupported_operation"


class EndpointNotFound(UsageError):
    """No endpoint has that id."""

    code = "endpoint_not_found"


class AmbiguousEndpoint(UsageError):
    """Several endpoints could serve the request."""

    code = "ambiguous_endpoint"
    default_hint = "Pass endpoint=... to say which one."


class ClientClosed(UsageError):
    """The client was closed."""

    code = "client_closed"
    default_hint = "Make a new SippClient."


class PlatformError(SippError):
    """This place can't do what was asked."""

    code = "environment"


class UnsupportedEnvironment(PlatformError):
    """A feature of the browser or the platform is missing. ``details["feature"]`` names it."""

    code = "unsupported_environment"


class AssetError(PlatformError):
    """A file of the runtime is missing, blocked by a policy, or not the one that the lock file names."""

    code = "asset"
    default_hint = "Serve the runtime's files unchanged; `sippet doctor` says which one is at fault."


class StorageError(PlatformError):
    """The storage of this place is full, denied or damaged."""

    code = "storage"


class ModelError(SippError):
    """The model is at fault."""

    code = "model"


class ModelNotFound(ModelError):
    """No such file, URL or registered name."""

    code = "model_not_found"


class InvalidModel(ModelError):
    """The file is not a sound GGUF model. ``details["reason"]`` says which way."""

    code = "invalid_model"


class UnsupportedModel(ModelError):
    """A sound file of a kind that this engine can't run."""

    code = "unsupported_model"


class ModelTooLarge(ModelError):
    """The model does not fit into the memory of this place."""

    code = "model_too_large"


class EngineError(SippError):
    """The engine failed."""

    code = "engine"


class EngineCrashed(EngineError):
    """The engine ended in the middle of its work."""

    code = "engine_crashed"
    default_hint = "Add the endpoint again to load a fresh engine."


class ContextOverflow(EngineError):
    """The prompt is longer than the context."""

    code = "context_overflow"
    default_hint = "Shorten the prompt or load the model with a larger context (RuntimeConfig.context.n_ctx)."


class SchemaMismatch(EngineError):
    """The answer is not what ``json_schema`` asked for. ``details["text"]`` is the answer."""

    code = "schema_mismatch"
    default_hint = "Send the request again, or with a simpler schema."


class QueueFull(EngineError):
    """Too many requests wait already."""

    code = "queue_full"
    default_hint = "Wait for a run to end, or raise RuntimeConfig.scheduler.max_queued_requests."


class RemoteError(SippError):
    """A server answered with an error, or not at all."""

    code = "remote"


class AuthenticationFailed(RemoteError):
    """The server refused the credentials."""

    code = "authentication_failed"


class RateLimited(RemoteError):
    """The server asks to slow down."""

    code = "rate_limited"


class RemoteUnavailable(RemoteError):
    """No connection, a time-out, or a stream that was cut."""

    code = "remote_unavailable"


class Cancelled(SippError):
    """The caller cancelled a load or a download. (A cancelled run ends with ``finish_reason="cancelled"`` instead.)"""

    code = "cancelled"


def _all_errors() -> list[type[SippError]]:
    found: list[type[SippError]] = []
    queue: list[type[SippError]] = [SippError]
    while queue:
        cls = queue.pop(0)
        found.append(cls)
        queue.extend(cls.__subclasses__())
    return found


ERRORS: Mapping[str, type[SippError]] = {cls.code: cls for cls in _all_errors()}
"""Every error class by its code."""


def from_dict(data: Mapping[str, Any]) -> SippError:
    """The error that :meth:`SippError.to_dict` wrote; an unknown code becomes a plain :class:`SippError`."""
    cls = ERRORS.get(str(data.get("code")), SippError)
    error = cls.__new__(cls)
    SippError.__init__(error, str(data.get("message", "")), hint=data.get("hint"), details=data.get("details") or {})
    if isinstance(error, (InvalidOption, UnsupportedOption)):
        error.option = str(error.details.get("option", ""))
    return error
