"""Python functions as tools of a model: :func:`tool_schema` describes one, :class:`Toolbox` calls them."""

from __future__ import annotations

import functools
import inspect
import json
import re
import textwrap
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_type_hints

from . import _json
from ._fields import show
from .errors import InvalidOption
from .options import check_tool
from .schema import SchemaMaker, build_value, mismatch


def tool_schema(function: Callable[..., Any]) -> dict[str, Any]:
    """The OpenAI-shaped description of a function, from its signature and docstring.

    Args:
        function: its parameters have type hints; its docstring says what it does, and under ``Args:`` what each
            parameter means.

    Raises:
        InvalidOption: it takes ``*args`` or ``**kwargs``, or a parameter has no JSON type.
    """
    whole, written, bound = _written(function)
    name = getattr(whole, "__name__", type(whole).__name__)
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,63}", name):
        raise InvalidOption("tools", f"{show(function)} has no name that a model could call.", hint="Use def.")
    try:
        hints, signature = get_type_hints(written, include_extras=True), inspect.signature(function)
    except (NameError, TypeError, ValueError) as error:
        raise InvalidOption(
            "tools", f"The signature of {name}() can't be read: {error}.", hint="Use def, with type hints that exist."
        ) from error
    summary, notes = _docstring(whole)
    maker = SchemaMaker()
    properties: dict[str, Any] = {}
    required = []
    for parameter in signature.parameters.values():
        if parameter.name in bound:
            continue
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise InvalidOption(
                "tools", f"{name}() has the parameter {parameter}, which a model can't name.", hint="Name each one."
            )
        try:
            properties[parameter.name] = maker.make(hints.get(parameter.name, str))
        except InvalidOption as error:
            raise InvalidOption(
                "tools", f"{name}(): the type of {parameter.name} has no JSON: {error.message}"
            ) from error
        if parameter.name in notes:
            properties[parameter.name] = {**properties[parameter.name], "description": notes[parameter.name]}
        if parameter.default is parameter.empty:
            required.append(parameter.name)
    parameters = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    described = {"name": name, "description": summary, "parameters": maker.closed(parameters)}
    return {"type": "function", "function": described}


@dataclass(frozen=True)
class Tool:
    """Something that a model may call, with its description: what :func:`tool_schema` makes, or one's own.

    Attributes:
        schema: OpenAI-shaped.
        invoke: takes the arguments by name; may be a coroutine function.

    Raises:
        InvalidOption: ``schema`` describes no function, or ``invoke`` can't be called.
    """

    schema: Mapping[str, Any]
    invoke: Callable[..., Any]

    def __post_init__(self) -> None:
        if not isinstance(self.schema, Mapping) or check_tool(self.schema) is None:
            raise InvalidOption("tools", "A Tool's schema must describe a function.", hint="As tool_schema() does.")
        if not callable(self.invoke):
            raise InvalidOption("tools", f"The tool {self.name} has nothing to call.", hint="Give it invoke=FUNCTION.")

    @property
    def name(self) -> str:
        return str(self.schema["function"]["name"])

    @property
    def parameters(self) -> dict[str, Any]:
        return dict(self.schema["function"].get("parameters") or {"type": "object"})


class Toolbox:
    """What a model may call."""

    def __init__(self, tools: Sequence[Callable[..., Any] | Tool]) -> None:
        """
        Args:
            tools: functions, coroutine functions or :class:`Tool` objects, each with a name of its own.
        """
        if not isinstance(tools, Sequence) or isinstance(tools, (str, bytes)) or not tools:
            raise InvalidOption("tools", "tools must be a list of functions that is not empty.")
        self._tools: dict[str, Tool] = {}
        for item in tools:
            if not isinstance(item, Tool) and not callable(item):
                raise InvalidOption("tools", f"tools holds {type(item).__name__}, not only functions.")
            tool = item if isinstance(item, Tool) else Tool(tool_schema(item), item)
            if tool.name in self._tools:
                raise InvalidOption("tools", f"Two tools have the name {tool.name}.")
            self._tools[tool.name] = tool

    @property
    def schemas(self) -> list[dict[str, Any]]:
        """What a chat request takes as ``tools``."""
        return [dict(tool.schema) for tool in self._tools.values()]

    async def call(self, name: str, arguments: str) -> str:
        """Call a function as a model asked.

        Args:
            name: the function's.
            arguments: a JSON object, as the model wrote it.

        Returns:
            What the model is told: the returned text, or JSON of the returned value. A wrong name, wrong arguments and
            an exception of the function are told to it too, as ``{"error": ...}``, so that it can do better.
        """
        tool = self._tools.get(name)
        if tool is None:
            return _complaint(f"there is no function {name}; there are {', '.join(self._tools)}")
        try:
            values = _json.loads(arguments or "{}")
        except ValueError:
            return _complaint("the arguments are not JSON")
        try:
            problem = mismatch(values, {"type": "object", **tool.parameters})
            if problem:
                return _complaint(problem)
            hints = _hints(tool.invoke)
            result = tool.invoke(**{key: build_value(value, hints.get(key, Any)) for key, value in values.items()})
            if inspect.isawaitable(result):
                result = await result
            told = result if isinstance(result, str) else json.dumps(result, ensure_ascii=False, default=_plain)
        except Exception as error:  # the function is the user's: whatever it raises is news for the model
            return _complaint(f"{type(error).__name__}: {error}")
        return _text(told)


def _written(function: Callable[..., Any]) -> tuple[Any, Callable[..., Any], Collection[str]]:
    """A callable without what binds arguments to it; what holds its hints; the names that are bound to it."""
    bound: set[str] = set()
    while isinstance(function, functools.partial):
        bound |= function.keywords.keys()
        function = function.func
    plain = inspect.isroutine(function) or inspect.isclass(function)
    return function, function if plain else type(function).__call__, bound


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """Type hints, where there are any that can be read."""
    try:
        return get_type_hints(_written(function)[1])
    except (NameError, TypeError):
        return {}


def _plain(value: Any) -> Any:
    for method in ("model_dump", "_asdict"):
        if hasattr(value, method):
            return getattr(value, method)()
    if hasattr(value, "__dataclass_fields__"):
        return {name: getattr(value, name) for name in value.__dataclass_fields__}
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, (set, frozenset)) else str(value)


def _complaint(text: str) -> str:
    return _text(json.dumps({"error": text}, ensure_ascii=False))


def _text(text: str) -> str:
    """The text without halves of characters, which no request can carry."""
    return text.encode("utf-8", "replace").decode()


def _docstring(function: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """What a docstring says: the text before its sections, and the ``Args:`` section by parameter."""
    text = inspect.getdoc(function) or ""
    parts = re.split(r"^(Args|Arguments|Parameters|Returns|Raises|Yields|Examples?):[ \t]*$", text, flags=re.MULTILINE)
    summary = " ".join(parts[0].split())
    notes: dict[str, str] = {}
    for title, body in zip(parts[1::2], parts[2::2], strict=False):
        if title in ("Args", "Arguments", "Parameters"):
            entries = re.findall(r"^(\w+)(?:\s*\([^)]*\))?:(.*(?:\n(?:[ \t]+.*|[ \t]*))*)", textwrap.dedent(body), re.M)
            notes = {name: " ".join(note.split()) for name, note in entries}
    return summary, notes
