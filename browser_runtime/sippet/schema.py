"""JSON schemas: made from Python types, and checked against.

A schema can be given as a mapping, a dataclass, a ``TypedDict`` or any type hint, or a pydantic model where the user
has pydantic. :func:`schema_of` makes the JSON schema that constrains the engine; the value is then checked and built
here, because a constrained answer can still be cut off, or use a keyword that the engine's grammar leaves out.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from . import _json
from ._fields import show
from .errors import InvalidOption, SchemaMismatch

Json = dict[str, Any]

_PLAIN: Mapping[Any, Json] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
    Any: {},
    dict: {"type": "object"},
    list: {"type": "array"},
}


def schema_of(hint: Any) -> Json:
    """The JSON schema of a type.

    Args:
        hint: a type hint, dataclass, ``TypedDict``, enumeration or pydantic model; a mapping is a schema already.
            A class that contains itself is under ``$defs``, and referred to.

    Raises:
        InvalidOption: there is no JSON for it.
    """
    if isinstance(hint, Mapping):
        return dict(hint)
    maker = SchemaMaker()
    return maker.closed(maker.make(hint))


class SchemaMaker:
    """Makes schemas that share one document: those of the parameters of a function, say."""

    def __init__(self) -> None:
        self._definitions: dict[str, Json] = {}
        self._names: dict[type, str] = {}
        self._open: list[type] = []

    def closed(self, schema: Json) -> Json:
        """A document's outermost schema, with the definitions that the schemas in it refer to."""
        return {**schema, "$defs": self._definitions} if self._definitions else schema

    def make(self, hint: Any) -> Json:
        """The schema of a type, for a place in the document.

        Raises:
            InvalidOption: there is no JSON for it.
        """
        if hasattr(hint, "model_json_schema"):
            return self._of_pydantic(hint)
        if isinstance(hint, typing.Hashable) and hint in _PLAIN:
            return dict(_PLAIN[hint])
        made = self._of_class(hint) if isinstance(hint, type) else self._of_generic(hint)
        if made is None:
            raise InvalidOption(
                "json_schema",
                f"There is no JSON schema for {show(hint)}.",
                hint="Use a mapping, a dataclass, a TypedDict, a pydantic model, or types made of str, int, float, "
                "bool, list, dict, Literal and None.",
            )
        return made

    def _of_pydantic(self, model: Any) -> Json:
        """Its definitions become the document's, with its name before theirs."""
        name = self._name(model)
        schema = dict(model.model_json_schema(ref_template=f"#/$defs/{name}.{{model}}"))
        for inner, definition in schema.pop("$defs", {}).items():
            self._definitions[f"{name}.{inner}"] = definition
        return schema

    def _of_class(self, cls: type) -> Json | None:
        if issubclass(cls, enum.Enum):
            return {"enum": [member.value for member in cls]}
        if not dataclasses.is_dataclass(cls) and not typing.is_typeddict(cls):
            return None
        if cls in self._open:  # inside itself
            return {"$ref": f"#/$defs/{self._name(cls)}"}
        self._open.append(cls)
        schema = self._of_fields(cls)
        self._open.pop()
        if cls not in self._names:
            return schema
        self._definitions[self._names[cls]] = schema
        return {"$ref": f"#/$defs/{self._names[cls]}"}

    def _of_fields(self, cls: type) -> Json:
        hints = get_type_hints(cls, include_extras=True)
        if dataclasses.is_dataclass(cls):
            fields = [item for item in dataclasses.fields(cls) if item.init]
            needed = [
                item.name
                for item in fields
                if item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
            ]
            return _object({item.name: self.make(hints[item.name]) for item in fields}, needed)
        required: frozenset[str] = getattr(cls, "__required_keys__", frozenset())
        # A hint that is written as a text hides Required and NotRequired from the class, not from get_type_hints.
        marks = {name: get_origin(hint) for name, hint in hints.items()}
        needed = [
            n for n, m in marks.items() if m is typing.Required or (m is not typing.NotRequired and n in required)
        ]
        return _object({name: self.make(hint) for name, hint in hints.items()}, needed)

    def _of_generic(self, hint: Any) -> Json | None:
        origin, args = get_origin(hint), get_args(hint)
        if origin is typing.Annotated:
            notes = [note for note in args[1:] if isinstance(note, str)]
            return {**self.make(args[0]), **({"description": notes[0]} if notes else {})}
        if origin in (typing.Required, typing.NotRequired):
            return self.make(args[0])
        if origin is Literal:
            return {"enum": list(args)}
        if origin in (Union, types.UnionType):
            return {"anyOf": [self.make(arg) for arg in args]}
        if origin is tuple and args and args[-1] is not Ellipsis:
            return {
                "type": "array",
                "prefixItems": [self.make(a) for a in args],
                "minItems": len(args),
                "maxItems": len(args),
            }
        if isinstance(origin, type) and issubclass(origin, Mapping):
            return {"type": "object", "additionalProperties": self.make(args[1]) if args else {}}
        if isinstance(origin, type) and issubclass(origin, (Sequence, set, frozenset)):
            return {"type": "array", "items": self.make(args[0]) if args else {}}
        return None

    def _name(self, cls: type) -> str:
        """A class's name among the definitions; a number tells classes of the same name apart."""
        if cls not in self._names:
            taken = [other.__name__ for other in self._names]
            same = taken.count(cls.__name__)
            self._names[cls] = f"{cls.__name__}_{same + 1}" if same else cls.__name__
        return self._names[cls]


def _object(properties: Json, required: list[str]) -> Json:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def parser_of(hint: Any, schema: Json) -> Callable[[str], Any]:
    """What turns an answer into a value of ``hint``, or raises :class:`SchemaMismatch`."""

    def parse(text: str) -> Any:
        try:
            value = _json.loads(text)
        except ValueError as error:
            raise SchemaMismatch(f"The answer is not JSON: {error}.", details={"text": text}) from error
        try:
            problem = mismatch(value, schema)
        except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
            raise InvalidOption(
                "json_schema", f"json_schema is no JSON schema: {type(error).__name__}: {error}.", text=text
            ) from error
        if problem:
            raise SchemaMismatch(f"The answer does not match json_schema: {problem}.", details={"text": text})
        try:
            return build_value(value, hint)
        except (TypeError, ValueError, RecursionError) as error:  # a check of the class's own, pydantic's included
            raise SchemaMismatch(
                f"The answer does not fit {getattr(hint, '__name__', hint)}: {error}.", details={"text": text}
            ) from error

    return parse


def build_value(value: Any, hint: Any) -> Any:
    """A JSON value as a value of a type: dataclasses, enumerations and pydantic models are made, recursively."""
    if isinstance(hint, Mapping) or hint is Any:
        return value
    if hasattr(hint, "model_validate"):
        return hint.model_validate(value)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        hints = get_type_hints(hint)
        return hint(**{name: build_value(item, hints[name]) for name, item in value.items()})
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return hint(value)
    if hint is float and isinstance(value, int):
        return float(value)
    return _build_generic(value, hint)


def _build_generic(value: Any, hint: Any) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (typing.Annotated, typing.Required, typing.NotRequired):
        return build_value(value, args[0])
    if origin in (Union, types.UnionType):
        fitting = [arg for arg in args if not mismatch(value, schema_of(arg))]
        return build_value(value, fitting[0]) if fitting else value
    if origin is tuple and args and args[-1] is not Ellipsis:
        return tuple(build_value(item, arg) for item, arg in zip(value, args, strict=True))
    if isinstance(origin, type) and args and issubclass(origin, Mapping):
        return {key: build_value(item, args[1]) for key, item in value.items()}
    if isinstance(origin, type) and args and issubclass(origin, (Sequence, set, frozenset)):
        made = [build_value(item, args[0]) for item in value]
        return origin(made) if origin in (set, frozenset, tuple) else made
    return value


def mismatch(value: Any, schema: Json | bool, root: Json | None = None, path: str = "") -> str | None:
    """The first way in which ``value`` breaks ``schema``, in words; ``None`` where it is valid.

    Checks the keywords that a grammar can express: type, enum, const, the limits of numbers, strings, arrays and
    objects, properties, items, combinations and references inside the document (JSON Schema 2020-12).
    """
    if isinstance(schema, bool):
        return None if schema else f"{path or 'the value'} is not allowed"
    root = schema if root is None else root
    if "$ref" in schema:
        return mismatch(value, _resolve(schema["$ref"], root), root, path)
    for check in (_check_kind, _check_combination, _check_number, _check_text, _check_array, _check_object):
        problem = check(value, schema, root, path)
        if problem:
            return problem
    return None


_KINDS: Mapping[str, Callable[[Any], bool]] = {
    "string": lambda v: isinstance(v, str),
    "integer": lambda v: (isinstance(v, int) and not isinstance(v, bool)) or (isinstance(v, float) and v.is_integer()),
    "number": lambda v: isinstance(v, (int, float)) and not isinstance(v, bool),
    "boolean": lambda v: isinstance(v, bool),
    "null": lambda v: v is None,
    "array": lambda v: isinstance(v, list),
    "object": lambda v: isinstance(v, dict),
}


def _check_kind(value: Any, schema: Json, root: Json, path: str) -> str | None:
    where = path or "the value"
    kinds = schema.get("type")
    if kinds is not None:
        names = [kinds] if isinstance(kinds, str) else list(kinds)
        if not any(_KINDS.get(name, lambda _: True)(value) for name in names):
            return f"{where} is not of type {' or '.join(names)}"
    if "enum" in schema and not any(_same(value, item) for item in schema["enum"]):
        return f"{where} is none of {', '.join(json.dumps(item) for item in schema['enum'])}"
    if "const" in schema and not _same(value, schema["const"]):
        return f"{where} is not {json.dumps(schema['const'])}"
    return None


def _check_combination(value: Any, schema: Json, root: Json, path: str) -> str | None:
    for part in schema.get("allOf") or ():
        problem = mismatch(value, part, root, path)
        if problem:
            return problem
    if schema.get("anyOf") and all(mismatch(value, part, root, path) for part in schema["anyOf"]):
        return f"{path or 'the value'} matches none of the alternatives"
    if schema.get("oneOf") and sum(mismatch(value, part, root, path) is None for part in schema["oneOf"]) != 1:
        return f"{path or 'the value'} does not match exactly one of the alternatives"
    if "not" in schema and mismatch(value, schema["not"], root, path) is None:
        return f"{path or 'the value'} matches what it must not"
    return None


def _check_number(value: Any, schema: Json, root: Json, path: str) -> str | None:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    limits: Mapping[str, Callable[[float], bool]] = {
        "minimum": lambda n: value >= n,
        "maximum": lambda n: value <= n,
        "exclusiveMinimum": lambda n: value > n,
        "exclusiveMaximum": lambda n: value < n,
        "multipleOf": lambda n: not n or value % n == 0,
    }
    for name, holds in limits.items():
        if name in schema and not holds(schema[name]):
            return f"{path or 'the value'} breaks {name} {schema[name]}"
    return None


def _check_text(value: Any, schema: Json, root: Json, path: str) -> str | None:
    if not isinstance(value, str):
        return None
    if len(value) < schema.get("minLength", 0) or len(value) > schema.get("maxLength", len(value)):
        return f"{path or 'the value'} has {len(value)} characters"
    if "pattern" in schema and not _found(schema["pattern"], value):
        return f"{path or 'the value'} does not match {schema['pattern']}"
    return None


def _found(pattern: str, text: str) -> bool:
    """Whether a text holds what a pattern means. One that only JavaScript can read is left to the engine's grammar."""
    try:
        return re.search(pattern, text) is not None
    except re.error:
        return True


def _check_array(value: Any, schema: Json, root: Json, path: str) -> str | None:
    if not isinstance(value, list):
        return None
    if len(value) < schema.get("minItems", 0) or len(value) > schema.get("maxItems", len(value)):
        return f"{path or 'the value'} has {len(value)} items"
    if schema.get("uniqueItems") and any(_same(a, b) for i, a in enumerate(value) for b in value[:i]):
        return f"{path or 'the value'} has an item twice"
    first = schema.get("prefixItems") or []
    for number, item in enumerate(value):
        part = first[number] if number < len(first) else schema.get("items", True)
        problem = mismatch(item, part, root, f"{path}[{number}]")
        if problem:
            return problem
    return None


def _check_object(value: Any, schema: Json, root: Json, path: str) -> str | None:
    if not isinstance(value, dict):
        return None
    for name in schema.get("required") or ():
        if name not in value:
            return f"{path or 'the value'} lacks {name}"
    if len(value) < schema.get("minProperties", 0) or len(value) > schema.get("maxProperties", len(value)):
        return f"{path or 'the value'} has {len(value)} properties"
    known = schema.get("properties") or {}
    patterns = schema.get("patternProperties") or {}
    for name, item in value.items():
        parts = [known[name]] if name in known else []
        parts += [part for pattern, part in patterns.items() if _found(pattern, name)]
        for part in parts or [schema.get("additionalProperties", True)]:
            problem = mismatch(item, part, root, f"{path}.{name}" if path else name)
            if problem:
                return problem
    return None


def _resolve(reference: str, root: Json) -> Json:
    """What a reference inside the document points to (RFC 6901)."""
    if not reference.startswith("#"):
        raise InvalidOption("json_schema", f"json_schema refers to another document: {reference}.")
    found: Any = root
    for part in reference[1:].split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(found, Mapping) or name not in found:
            raise InvalidOption("json_schema", f"json_schema has no {reference}.")
        found = found[name]
    return typing.cast("Json", found)


def _same(a: Any, b: Any) -> bool:
    """JSON equality: 1 and 1.0 are the same number, 1 and true are not the same."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    return bool(a == b)
