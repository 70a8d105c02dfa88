"""Writes the API reference, ``browser_runtime/REFERENCE.md``, from the package's docstrings and tables.

python3 tools/reference.py            # write it
python3 tools/reference.py --check    # say whether it is current
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_type_hints

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "browser_runtime" / "REFERENCE.md"
sys.path.insert(0, str(ROOT / "browser_runtime"))

import sippet  # noqa: E402
from sippet import simple, sync  # noqa: E402
from sippet._fields import MOST, describe  # noqa: E402
from sippet._remote_fields import RemoteFields  # noqa: E402
from sippet.capabilities import ENGINES, table  # noqa: E402
from sippet.errors import ERRORS  # noqa: E402
from sippet.models.store import ModelStore  # noqa: E402

HEAD = """# API reference

Made by `python3 tools/reference.py` from the docstrings; don't edit it. JavaScript has the same names in camelCase
(`max_tokens` is `maxTokens`), declared in `static/js/sippet.d.ts`.
"""

DESCRIPTORS = (sippet.LocalModel, sippet.Gateway, sippet.Provider)
RESULTS = (
    sippet.TextResult, sippet.TokenBatch, sippet.Usage, sippet.Timings, sippet.TokenLogprob, sippet.EmbedResult,
    sippet.RerankResult, sippet.RankedDocument, sippet.ToolsResult, sippet.EngineInfo, sippet.Status,
    sippet.ClientEvent,
)  # fmt: skip


def render() -> str:
    """The whole page."""
    return "\n".join(line.rstrip() for part in _parts() for line in part.splitlines()).strip() + "\n"


def _parts() -> Iterator[str]:
    yield HEAD
    yield "\n## SippClient\n\n" + _text(sippet.SippClient)
    yield "\n### Options of `SippClient()`\n\n" + _options(sippet.ClientOptions)
    yield from _methods(sippet.SippClient)
    yield "\n## Endpoints\n"
    for descriptor in DESCRIPTORS:
        yield f"\n### {descriptor.__name__}\n\n" + _text(descriptor)
    yield "\n### Fields of Gateway and Provider\n\n" + _options(RemoteFields)
    yield "\n## Request options\n\n### Sampling\n\n" + _options(sippet.SamplingOptions)
    yield "\n### query() and chat()\n\n" + _options(sippet.TextOptions, skip=sippet.SamplingOptions)
    yield "\n### embed()\n\n" + _options(sippet.EmbedOptions)
    yield "\n## RuntimeConfig\n\n" + _text(sippet.RuntimeConfig)
    for item in dataclasses.fields(sippet.RuntimeConfig):
        group = _class(item)
        yield f"\n### {item.name}\n\n" + _text(group)
        yield "" if issubclass(group, sippet.SamplingOptions) else "\n" + _options(group)
    yield "\n## Runs\n"
    for run in (sippet.Run, sippet.TextRun):
        yield f"\n### {run.__name__}\n\n" + _text(run)
        yield from _methods(run, 4)
    yield "\n## Results\n"
    for result in RESULTS:
        yield f"\n### {result.__name__}\n\n" + _text(result) + "\n\n" + _fields(result)
    yield "\n## Tools\n"
    for made in (sippet.tool_schema, sippet.Tool):
        yield f"\n### {made.__name__}\n\n" + _text(made)
    yield "\n## Installed models: `client.models`\n\n" + _text(ModelStore)
    yield from _methods(ModelStore)
    yield "\n## The simple engine: `sippet.simple`\n\n" + _text(simple)
    for part in (simple.LocalLLM, simple.SimpleEngine, simple.Generation, simple.Store):
        yield f"\n### {part.__name__}\n\n" + _text(part)
        yield from _methods(part, 4)
    yield "\n## Without await: `sippet.sync`\n\n" + _text(sync)
    yield "\n## Errors\n\n" + _errors()
    yield "\n## What each engine honours\n\n" + _capabilities()


def _methods(cls: type, level: int = 3) -> Iterator[str]:
    for name, item in vars(cls).items():
        if name.startswith("_"):
            continue
        if isinstance(item, property):
            yield f"\n{'#' * level} {cls.__name__}.{name}\n\n" + _text(item)
        elif inspect.isfunction(item):
            kind = "await " if inspect.iscoroutinefunction(item) else ""
            yield f"\n{'#' * level} {kind}{cls.__name__}.{name}{_signature(item)}\n\n" + _text(item)


_STARS: Mapping[Any, str] = {inspect.Parameter.VAR_KEYWORD: "\\*\\*", inspect.Parameter.VAR_POSITIONAL: "\\*"}


def _signature(function: Callable[..., Any]) -> str:
    """Names and defaults; types are in the text."""
    shown, named = [], False
    for parameter in list(inspect.signature(function).parameters.values())[1:]:
        if parameter.kind is parameter.KEYWORD_ONLY and not named:
            named = True
            shown.append("\\*")
        stars = _STARS.get(parameter.kind, "")
        default = "" if parameter.default is parameter.empty else f"={parameter.default!r}"
        shown.append(f"{stars}{parameter.name}{default}")
    return f"({', '.join(shown)})"


def _text(thing: Any) -> str:
    """A docstring as Markdown."""
    text = inspect.getdoc(thing) or ""
    if dataclasses.is_dataclass(thing) and text.startswith(f"{getattr(thing, '__name__', '')}("):
        return ""  # what dataclasses write themselves
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text)
    text = re.sub(r"``([^`]+)``", r"`\1`", text)
    text = re.sub(r"^(?:Example)?::\n\n((?:[ \t]+.*\n?|\n)+)", _code, text + "\n", flags=re.M)
    return re.sub(
        r"^(Args|Attributes|Returns|Raises)( \([^)]*\))?:\n((?:[ \t]+.*\n?|\n)+)", _section, text, flags=re.M
    ).strip()


def _code(match: re.Match[str]) -> str:
    code = textwrap.dedent(match[1]).strip("\n")
    return f"```python\n{code}\n```\n\n"


def _section(match: re.Match[str]) -> str:
    body = textwrap.dedent(match[3]).strip("\n")
    if match[1] == "Returns":
        return f"**Returns** {' '.join(body.split())}\n\n"
    entries = re.split(r"\n(?=\S)", body)
    bullets = []
    for entry in entries:
        name, _, rest = entry.partition(":")
        bullets.append(f"- `{name}`: {' '.join(rest.split())}")
    return f"**{match[1]}{match[2] or ''}**\n\n" + "\n".join(bullets) + "\n\n"


def _options(cls: type, skip: type | None = None) -> str:
    hints = get_type_hints(cls)
    elsewhere = {item.name for item in dataclasses.fields(skip)} if skip else set()
    rows = ["| option | type | default | limits | effect |", "|---|---|---|---|---|"]
    for item in dataclasses.fields(cls):
        if item.name in elsewhere:
            continue
        default = "" if item.default in (None, dataclasses.MISSING) else f"`{item.default!r}`"
        kind = _marked(describe(hints[item.name]).replace(" or None", ""))
        effect = _marked(item.metadata.get("doc", ""))
        rows.append(f"| `{item.name}` | {kind} | {default} | {_limits(item.metadata)} | {effect} |")
    return "\n".join(rows)


def _limits(metadata: Any) -> str:
    low, high, unit = metadata.get("low"), metadata.get("high"), str(metadata.get("unit", ""))
    if low is None and high is None:
        return unit
    limits = f"≥ {low}" if high in (None, MOST) else f"≤ {high}" if low is None else f"{low} to {high}"
    return f"{limits} {unit}".strip()


def _marked(text: str) -> str:
    return text.replace("|", "\\|")


def _fields(cls: type) -> str:
    if "Attributes:" in (cls.__doc__ or ""):
        return ""
    hints = get_type_hints(cls)
    return "Fields: " + ", ".join(
        f"`{item.name}` ({describe(hints[item.name])})" for item in dataclasses.fields(cls)
    ) + "."  # fmt: skip


def _class(item: dataclasses.Field[Any]) -> Any:
    assert isinstance(item.default_factory, type)
    return item.default_factory


def _errors() -> str:
    rows = ["| code | class | meaning |", "|---|---|---|"]
    for code, cls in ERRORS.items():
        meaning = _text(cls).partition("\n\n")[0].replace("\n", " ")
        rows.append(f"| `{code}` | `{cls.__name__}` | {_marked(f'{meaning} {cls.default_hint}'.strip())} |")
    return "\n".join(rows)


def _capabilities() -> str:
    engines = list(ENGINES)
    rows = [
        "✓ is honoured. Anything else is refused by name, before a model is loaded or a request is sent. What a remote",
        "server refuses beyond this depends on the server; it is refused by name too.",
        "",
        f"| option | {' | '.join(engines)} |",
        "|---" * (len(engines) + 1) + "|",
    ]
    groups: list[tuple[str, type]] = [("", sippet.TextOptions), ("embed: ", sippet.EmbedOptions)]
    groups += [
        (f"{item.name}.", _class(item)) for item in dataclasses.fields(sippet.RuntimeConfig) if item.name != "sampling"
    ]
    reasons: dict[str, set[str]] = {}
    for prefix, cls in groups:
        for name, refused in table(cls):
            if prefix.endswith("."):
                refused = {**refused, "remote": "a remote server loads its model itself"}
            rows.append(f"| `{prefix}{name}` | {' | '.join('–' if refused[e] else '✓' for e in engines)} |")
            for engine, reason in refused.items():
                if reason and not reason.startswith("it works only"):
                    reasons.setdefault(reason, set()).add(engine)
    rows += ["", *(f"- {', '.join(sorted(where))}: {reason}." for reason, where in reasons.items())]
    return "\n".join(rows)


def main() -> int:
    """Write the page, or say whether it is current."""
    parser = argparse.ArgumentParser(description="Writes the API reference.")
    parser.add_argument("--check", action="store_true", help="fail where the page is not current")
    if parser.parse_args().check:
        if TARGET.exists() and TARGET.read_text() == render():
            return 0
        print(f"{TARGET} is not current: run python3 tools/reference.py", file=sys.stderr)
        return 1
    TARGET.write_text(render())
    return 0


if __name__ == "__main__":
    sys.exit(main())
