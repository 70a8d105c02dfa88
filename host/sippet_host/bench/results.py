"""What was measured: medians, spread, and ratios to two yardsticks."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .cases import Case
from .subjects import Subject
from .weights import Weights


@dataclass(frozen=True)
class Key:
    """Which measurement a value is one of."""

    subject: Subject
    weights: Weights
    threads: int
    case: Case


@dataclass(frozen=True)
class Result:
    """One row.

    Attributes:
        engine, variant: what was measured.
        model: the name of the model's file.
        sha256: the model's.
        threads: that computed.
        test: the case's name.
        median, min, max: of the rounds, in ``unit``.
        ratio_to_native, ratio_to_wllama: ``median`` divided by the median of native llama.cpp, and by that of the
            newest wllama: same model, threads and test, same run. ``None`` where that wasn't measured.
    """

    engine: str
    variant: str
    model: str
    sha256: str
    threads: int
    test: str
    median: float
    min: float
    max: float
    unit: str
    ratio_to_native: float | None
    ratio_to_wllama: float | None

    def to_json(self) -> dict[str, Any]:
        """The row, its numbers with four decimals."""
        return {name: round(value, 4) if isinstance(value, float) else value for name, value in asdict(self).items()}


class Values:
    """The values of all rounds."""

    def __init__(self) -> None:
        self._values: dict[Key, list[float]] = {}

    def add(self, key: Key, value: float) -> None:
        """Notes one round's value."""
        self._values.setdefault(key, []).append(value)

    def __bool__(self) -> bool:
        return bool(self._values)

    def results(self, native: Subject, wllama: Subject) -> list[Result]:
        """The rows, in the order in which they were first measured."""
        return [self._row(key, values, native, wllama) for key, values in self._values.items()]

    def _row(self, key: Key, values: Sequence[float], native: Subject, wllama: Subject) -> Result:
        median = statistics.median(values)
        return Result(
            engine=key.subject.engine,
            variant=key.subject.variant,
            model=key.weights.name,
            sha256=key.weights.sha256,
            threads=key.threads,
            test=key.case.name,
            median=median,
            min=min(values),
            max=max(values),
            unit=key.case.unit,
            ratio_to_native=self._ratio(median, key, native),
            ratio_to_wllama=self._ratio(median, key, wllama),
        )

    def _ratio(self, median: float, key: Key, yardstick: Subject) -> float | None:
        values = self._values.get(Key(yardstick, key.weights, key.threads, key.case))
        return median / statistics.median(values) if values else None


def report(machine: dict[str, Any], browser: dict[str, Any] | None, results: Iterable[Result]) -> dict[str, Any]:
    """The whole as JSON values."""
    return {"machine": machine, "browser": browser, "results": [result.to_json() for result in results]}
