"""What is measured, and with which prompts.

Prompts are words that are one token each, drawn anew for each measurement from a seed that names it: every engine
computes the same ones, nothing that it may have kept of an earlier prompt helps it, and a second run measures the same.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from ..errors import ConfigurationError
from .weights import Weights

Kind = Literal["prefill", "decode", "load_cold", "load_warm", "peak_memory"]

DEFAULT_CASES = ("pp128", "pp512", "tg64", "load_cold", "load_warm", "peak_memory")
DECODE_PROMPT = 16
"""Tokens in front of what a decode test generates."""
WARM_UP = (64, 8)
"""Tokens of prompt and of answer in each pass before the measurements."""

_COUNTED = re.compile(r"(?P<kind>pp|tg)(?P<tokens>[1-9]\d{0,4})")
_UNITS: dict[Kind, str] = {
    "prefill": "tokens/s",
    "decode": "tokens/s",
    "load_cold": "ms",
    "load_warm": "ms",
    "peak_memory": "MB",
}
_CONTEXT_STEP = 256


@dataclass(frozen=True)
class Case:
    """One thing to measure.

    Attributes:
        name: as it is asked for and reported, such as ``pp128``.
        kind: what it is.
        tokens: how many are prefilled or generated; 0 where that means nothing.
    """

    name: str
    kind: Kind
    tokens: int = 0

    @property
    def unit(self) -> str:
        """The unit of its values."""
        return _UNITS[self.kind]

    @property
    def computes(self) -> bool:
        """Whether a prompt is run for it."""
        return self.tokens > 0

    def request(self) -> tuple[int, int]:
        """How many tokens its prompt has, and how many are generated.

        The first token of an answer comes out of the prefill: ``tg64`` counts the 64 decodes after it.
        """
        return (self.tokens, 1) if self.kind == "prefill" else (DECODE_PROMPT, self.tokens + 1)


def parse_case(name: str) -> Case:
    """The case of that name.

    Raises:
        ConfigurationError: there is none.
    """
    if counted := _COUNTED.fullmatch(name):
        return Case(name, "prefill" if counted["kind"] == "pp" else "decode", int(counted["tokens"]))
    for kind in ("load_cold", "load_warm", "peak_memory"):
        if name == kind:
            return Case(name, kind)
    raise ConfigurationError(
        f"There is no test {name!r}.", hint="Use ppN (prefill), tgN (decode), load_cold, load_warm or peak_memory."
    )


def context_size(cases: Iterable[Case]) -> int:
    """Tokens of context that all of them fit into."""
    needed = max(map(sum, [WARM_UP, *(case.request() for case in cases)]))
    return -(-needed // _CONTEXT_STEP) * _CONTEXT_STEP


@dataclass(frozen=True)
class Prompt:
    """A prompt in both forms.

    Attributes:
        tokens: its tokens' numbers.
        text: for engines that take no numbers; their tokenizer makes as many tokens of it, or nearly so.
    """

    tokens: tuple[int, ...]
    text: str

    def __len__(self) -> int:
        return len(self.tokens)


def make_prompt(weights: Weights, tokens: int, seed: str) -> Prompt:
    """A prompt of so many tokens, the same for the same model and seed."""
    numbers = random.Random(seed).choices(list(weights.words), k=tokens)
    said = numbers[1:] if weights.adds_start else numbers
    return Prompt(tuple(numbers), "".join(f" {weights.words[number]}" for number in said))
