"""Typed, documented, checked option fields: the one place where options are validated.

An option group is a frozen dataclass whose fields are made with :func:`option`. The field's metadata carries what the
reference page, the checks and the capability table need: description, unit, range, choices and the backends that
honour it. :func:`check` runs in ``__post_init__``, so that no unchecked value ever exists.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import reprlib
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from ._json import is_text
from .errors import InvalidOption

Backend = Literal["wasm", "native", "remote"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)
LOCAL: tuple[Backend, ...] = ("wasm", "native")
REMOTE: tuple[Backend, ...] = ("remote",)

MOST = 2**31 - 1
"""The largest whole number that engines and servers take."""

T = TypeVar("T")


def option(
    doc: str,
    *,
    default: Any = None,
    factory: Callable[[], Any] | None = None,
    low: float | None = None,
    high: float | None = None,
    unit: str = "",
    backends: Sequence[Backend] = BACKENDS,
    wire: str | None = None,
) -> Any:
    """A dataclass field with its documentation and limits.

    Args:
        doc: one sentence on its effect.
        default: the value when it isn't given; ``None`` leaves the choice to the model or the engine.
        factory: makes the default, for mutable ones.
        low, high: inclusive limits of a number, or of every number in a sequence or mapping.
        unit: the unit of a number ("tokens", "seconds").
        backends: the backends that honour it; the others refuse it by name.
        wire: its name in llama-server's JSON where that differs.
    """
    metadata = {"doc": doc, "low": low, "high": high, "unit": unit, "backends": tuple(backends), "wire": wire}
    if factory is not None:
        return dataclasses.field(default_factory=factory, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def check(group: Any) -> None:
    """Refuse a value of the wrong type or out of range, by the option's name."""
    hints = _hints(type(group))
    for item in dataclasses.fields(group):
        value = getattr(group, item.name)
        hint = hints[item.name]
        if not _matches(value, hint):
            raise InvalidOption(
                item.name,
                f"{item.name} must be {describe(hint)}, not {show(value) if item.repr else type(value).__name__}.",
                hint=str(item.metadata.get("doc", "")),
            )
        _check_range(item.name, value, item.metadata)


def build(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """Make ``cls`` from ``values``; an unknown name is an error that suggests the nearest known one.

    Args:
        cls: a dataclass of options.
        values: names and values, as a caller or a JSON document gives them.
        where: what the options belong to, for the message ("chat()", "RuntimeConfig.context").
    """
    known = [item.name for item in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            guess = f"Did you mean {near[0]!r}?" if near else f"Known options: {', '.join(known)}."
            raise InvalidOption(str(name), f"{where} has no option {name!r}.", hint=guess)
    for item in dataclasses.fields(cls):  # type: ignore[arg-type]
        if item.name not in values and item.default is item.default_factory is dataclasses.MISSING:
            raise InvalidOption(item.name, f"{where} needs {item.name}.", hint="Give it.")
    return cls(**values)


def check_text(name: str, value: Any) -> str:
    """An argument that must be a text.

    Raises:
        InvalidOption: it is something else, or has half of a character.
    """
    if not isinstance(value, str):
        raise InvalidOption(name, f"{name} must be a string, not {type(value).__name__}.")
    if not is_text(value):
        raise InvalidOption(name, f"{name} has half of a character (a lone surrogate).", hint="Give whole characters.")
    return value


def given(group: Any) -> dict[str, Any]:
    """The fields that differ from their defaults, by name."""
    found = {}
    for item in dataclasses.fields(group):
        value = getattr(group, item.name)
        default = item.default_factory() if item.default_factory is not dataclasses.MISSING else item.default
        if value != default:
            found[item.name] = value
    return found


def describe(hint: Any) -> str:
    """A type hint in words, for messages."""
    origin, args = get_origin(hint), get_args(hint)
    if hint is type(None):
        return "None"
    if origin is Literal:
        return "one of " + ", ".join(repr(a) for a in args)
    if origin in (Union, types.UnionType):
        return " or ".join(describe(a) for a in args)
    if origin in (list, tuple, Sequence, typing.Sequence) and args:
        return f"a list of {describe(args[0])}"
    if origin is not None and issubclass(origin, Mapping):
        return "a mapping" if args[1] is Any else f"a mapping of {describe(args[0])} to {describe(args[1])}"
    names = {int: "a whole number", float: "a number", str: "a string", bool: "True or False"}
    return names.get(hint, getattr(hint, "__name__", str(hint)))


def _hints(cls: type) -> dict[str, Any]:
    cached = cls.__dict__.get("__sippet_hints__")
    if cached is None:
        cached = get_type_hints(cls)
        cls.__sippet_hints__ = cached  # type: ignore[attr-defined]
    return typing.cast("dict[str, Any]", cached)


def _matches(value: Any, hint: Any) -> bool:
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin is Literal:
        return any(value == a and type(value) is type(a) for a in args)
    if origin in (Union, types.UnionType):
        return any(_matches(value, a) for a in args)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if origin is Callable or origin is typing.get_origin(Callable[..., Any]):
        return callable(value)
    if origin is not None and issubclass(origin, Mapping):
        key, item = args
        return isinstance(value, Mapping) and all(_matches(k, key) and _matches(v, item) for k, v in value.items())
    if origin is not None and issubclass(origin, Sequence):
        return (
            isinstance(value, Sequence)
            and not isinstance(value, (str, bytes))
            and all(_matches(v, args[0]) for v in value)
        )
    return isinstance(value, origin or hint)


def _check_range(name: str, value: Any, metadata: Mapping[str, Any]) -> None:
    low, high, unit = metadata.get("low"), metadata.get("high"), metadata.get("unit", "")
    if isinstance(value, (Mapping, Sequence)) and not isinstance(value, (str, bytes)):
        for item in [*value, *value.values()] if isinstance(value, Mapping) else value:
            if isinstance(item, (str, int, float)):  # what is nested deeper is checked by whoever knows what it means
                _check_range(name, item, metadata)
        return
    if isinstance(value, str):
        check_text(name, value)
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        raise InvalidOption(name, f"{name} must be a number of at most 64 bits.")
    if math.isnan(value) or math.isinf(value):
        raise InvalidOption(name, f"{name} must be a finite number, not {value}.")
    if (low is not None and value < low) or (high is not None and value > high):
        limits = f"at least {low}" if high is None else f"at most {high}" if low is None else f"from {low} to {high}"
        raise InvalidOption(name, f"{name} must be {limits}{' ' + unit if unit else ''}, not {value}.")


def show(value: Any) -> str:
    """A wrong value in a message: short, whatever it is, and with its type."""
    return f"{_SHORT.repr(value)} ({type(value).__name__})"


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60
