"""Python functions as tools of a model: :func:`tool_schema` describes one, :class:`Toolbox` calls them."""

from __future__ import annotations

import inspect
import json
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_type_hints

from . import _json
from .errors import InvalidOption
from .schema import SchemaMaker, build_value, mismatch


def tool_schema(function: Callable[..., Any]) -> dict[str, Any]:
    """The OpenAI-shaped description of a function, from its signature and docstring.

    Args:
        function: its parameters have type hints; its docstring says what it does, and under ``Args:`` what each
            parameter means.

    Raises:
        InvalidOption: it takes ``*args`` or ``**kwargs``, or a parameter has no JSON type.
    """
    name = getattr(function, "__name__", "")
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,63}", name):
        raise InvalidOption("tools", f"{function!r} has no name that a model could call.", hint="Use def.")
    hints = get_type_hints(function, include_extras=True)
    summary, notes = _docstring(function)
    maker = SchemaMaker()
    properties: dict[str, Any] = {}
    required = []
    for parameter in inspect.signature(function).parameters.values():
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
    """

    schema: Mapping[str, Any]
    invoke: Callable[..., Any]

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
        if not tools:
            raise InvalidOption("tools", "tools is empty.", hint="Pass at least one function.")
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
        problem = mismatch(values, tool.parameters)
        if problem:
            return _complaint(problem)
        hints = get_type_hints(tool.invoke)
        try:
            result = tool.invoke(**{key: build_value(value, hints.get(key, Any)) for key, value in values.items()})
            if inspect.isawaitable(result):
                result = await result
        except Exception as error:  # the function is the user's: whatever it raises is news for the model
            return _complaint(f"{type(error).__name__}: {error}")
        return result if isinstance(result, str) else json.dumps(result, ensure_ascii=False, default=_plain)


def _plain(value: Any) -> Any:
    for method in ("model_dump", "_asdict"):
        if hasattr(value, method):
            return getattr(value, method)()
    if hasattr(value, "__dataclass_fields__"):
        return {name: getattr(value, name) for name in value.__dataclass_fields__}
    return list(value) if isinstance(value, (set, frozenset, Mapping)) else str(value)


def _complaint(text: str) -> str:
    return json.dumps({"error": text}, ensure_ascii=False)


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
