"""The order of measuring.

In each round every engine is opened anew, warmed up, measured for each case, and closed, one after the other: at any
time one engine alone has the machine, and a drift of the machine's speed meets all of them alike. Each round begins
with another engine, so that none is always the first or always follows the same one. What takes a second or less is
measured a few times in a round, and their median counts.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from sippet.errors import SippError

from .cases import WARM_UP, Case, context_size, make_prompt
from .results import Key, Values
from .subjects import Job, Session, Subject
from .weights import Weights

if TYPE_CHECKING:
    from .browser import Browsers

WARM_UP_SECONDS = 2.5
"""Browsers compile what runs often a second time, better: it takes about this long until they have."""

REPEAT_SECONDS, MOST_REPEATS = 3.0, 5
"""How long, and how often at most, a case is measured in a round: a moment's disturbance is as long as a short case."""

T = TypeVar("T")


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        models, subjects, threads, cases: each with each, where they go together.
        rounds: how often.
    """

    models: Sequence[Weights]
    subjects: Sequence[Subject]
    threads: Sequence[int]
    cases: Sequence[Case]
    rounds: int


class Measurement:
    """Runs a plan.

    Args:
        plan: what to measure.
        browsers: for engines in pages; may be ``None`` where none of the subjects needs it.
        say: takes a line of progress.

    Attributes:
        values: what was found.
        notes: why something was not measured, by engine and model.
    """

    def __init__(self, plan: Plan, browsers: Browsers | None, say: Callable[[str], None]) -> None:
        self._plan = plan
        self._browsers = browsers
        self._say = say
        self.values = Values()
        self.notes: dict[tuple[str, str], str] = {}

    async def run(self) -> None:
        """Measures everything. What fails is left out from then on, and noted."""
        for weights in self._plan.models:
            present = []
            for subject in self._plan.subjects:
                if reason := subject.missing(weights):
                    self._note(subject.name, weights, reason)
                else:
                    present.append(subject)
            for number in range(1, self._plan.rounds + 1):
                for threads in self._plan.threads:
                    for subject in rotated(present, number - 1):
                        if (
                            subject.computes_with(threads)
                            and (_label(subject, threads), weights.name) not in self.notes
                        ):
                            await self._one(subject, weights, threads, number)

    async def _one(self, subject: Subject, weights: Weights, threads: int, number: int) -> None:
        """One engine's part of one round."""
        cases = self._plan.cases
        warm = any(case.kind == "load_warm" for case in cases)
        found: dict[Case, float] = {}
        try:
            session = await subject.open(Job(weights, threads, context_size(cases), warm), self._browsers)
            try:
                if any(case.computes for case in cases):
                    await _warm_up(session, weights, number)
                for case in sorted(cases, key=lambda case: case.kind == "peak_memory"):  # memory last: it is the peak
                    value = await _measure(session, case, weights, number)
                    if value is not None:
                        found[case] = value
            finally:
                await session.close()
        except SippError as error:
            self._note(_label(subject, threads), weights, f"failed: {error}")
            return
        for case in cases:
            if case in found:
                self.values.add(Key(subject, weights, threads, case), found[case])
        text = ", ".join(f"{case.name} {found[case]:.0f}" for case in cases if case in found)
        self._say(f"{weights.name} {number}/{self._plan.rounds} {_label(subject, threads)}: {text}")

    def _note(self, engine: str, weights: Weights, reason: str) -> None:
        self.notes[engine, weights.name] = reason
        self._say(f"{weights.name}: not measured: {engine}: {reason}")


async def _warm_up(session: Session, weights: Weights, number: int) -> None:
    until = time.perf_counter() + WARM_UP_SECONDS
    passes = 0
    while not passes or time.perf_counter() < until:
        passes += 1
        await session.complete(make_prompt(weights, WARM_UP[0], f"warm-up {number} {passes}"), WARM_UP[1])


async def _measure(session: Session, case: Case, weights: Weights, number: int) -> float | None:
    if case.computes:
        length, tokens = case.request()
        until, speeds = time.perf_counter() + REPEAT_SECONDS, list[float]()
        while not speeds or (len(speeds) < MOST_REPEATS and time.perf_counter() < until):
            prompt = make_prompt(weights, length, f"{case.name} {number} {len(speeds)}")
            timings = await session.complete(prompt, tokens)
            speeds.append(timings.prefill if case.kind == "prefill" else timings.decode)
        return statistics.median(speeds)
    if case.kind == "peak_memory":
        return session.peak_memory()
    return session.cold_ms if case.kind == "load_cold" else session.warm_ms


def rotated(items: Sequence[T], by: int) -> list[T]:
    """The items in their order, beginning with another one."""
    start = by % len(items) if items else 0
    return [*items[start:], *items[:start]]


def _label(subject: Subject, threads: int) -> str:
    return f"{subject.name}, {threads} thread{'' if threads == 1 else 's'}"
