"""The results as Markdown tables, for a terminal and for a README."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from .results import Result

_DASH = "–"
Row = tuple[str, str, int]


def render(
    machine: Mapping[str, Any],
    browser: Mapping[str, Any] | None,
    results: Sequence[Result],
    notes: Mapping[tuple[str, str], str],
    rounds: int,
) -> str:
    """Two tables for each model: what was measured, and its ratios to native llama.cpp and to wllama."""
    parts = [_conditions(machine, browser, rounds)]
    for model in dict.fromkeys(result.model for result in results):
        rows = [result for result in results if result.model == model]
        parts.append(f"### {model}\n\n`{rows[0].sha256}`")
        parts.append(_table(rows, _value))
        if any(_ratios(result) for result in rows):
            parts.append("Divided by native llama.cpp · by wllama, same threads:")
            parts.append(_table(rows, _ratios))
    if notes:
        parts.append(
            "Not measured:\n\n"
            + "\n".join(f"- {subject}, {model}: {reason}" for (subject, model), reason in notes.items())
        )
    return "\n\n".join(parts) + "\n"


def _conditions(machine: Mapping[str, Any], browser: Mapping[str, Any] | None, rounds: int) -> str:
    where = f"{machine['cpu'] or 'unknown processor'}, {machine['cores']} cores, {machine['system']}"
    page = f"; {browser['name']} {browser['version']}" if browser else ""
    return f"Medians of {rounds} interleaved rounds (lowest to highest). {where}{page}."


def _table(results: Iterable[Result], cell: Callable[[Result], str]) -> str:
    """Engines with their threads down, tests across."""
    cells: dict[Row, dict[str, str]] = {}
    tests: dict[str, str] = {}
    for result in results:
        tests[result.test] = f"{result.test} ({result.unit})" if cell is _value else result.test
        cells.setdefault((result.engine, result.variant, result.threads), {})[result.test] = cell(result)
    lines = [
        ["engine", "threads", *tests.values()],
        ["---", "---:", *["---:"] * len(tests)],
        *(
            [f"{engine} {variant}", str(threads), *(row.get(test) or _DASH for test in tests)]
            for (engine, variant, threads), row in cells.items()
        ),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _value(result: Result) -> str:
    return f"{_number(result.median)} ({_number(result.min)} to {_number(result.max)})"


def _ratios(result: Result) -> str:
    if result.ratio_to_native is None and result.ratio_to_wllama is None:
        return ""
    return f"{_ratio(result.ratio_to_native)} · {_ratio(result.ratio_to_wllama)}"


def _ratio(value: float | None) -> str:
    return _DASH if value is None else f"{value:.2f}" if value < 10 else f"{value:.1f}"


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"
