"""What every measured engine offers to the rounds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from sippet.errors import EngineError

from .cases import Prompt
from .weights import Weights

if TYPE_CHECKING:
    from .browser import Browsers


_SLACK = 0.05
"""How far a prompt may be from its length where an engine's own tokenizer cut it; what is cached is far more."""


@dataclass(frozen=True)
class Job:
    """How an engine is to be opened.

    Attributes:
        weights: the model.
        threads: that compute.
        context: tokens.
        warm: open it a second time, for ``load_warm``.
    """

    weights: Weights
    threads: int
    context: int
    warm: bool


@dataclass(frozen=True)
class Timings:
    """What one completion took, in llama.cpp's terms.

    Attributes:
        prompt_n: tokens of the prompt that were computed.
        prompt_ms: up to the first token of the answer.
        predicted_n: tokens of the answer.
        predicted_ms: from its first token to its last.
    """

    prompt_n: int
    prompt_ms: float
    predicted_n: int
    predicted_ms: float

    @classmethod
    def of(cls, values: Mapping[str, Any] | None, prompt: int, tokens: int) -> Timings:
        """The timings as an engine reported them.

        Raises:
            EngineError: it gave none, or didn't compute what was asked for, so that its speed would mean nothing.
        """
        if not values:
            raise EngineError("It gave no timings.")
        found = cls(values["prompt_n"], values["prompt_ms"], values["predicted_n"], values["predicted_ms"])
        if abs(found.prompt_n - prompt) > prompt * _SLACK or found.predicted_n != tokens:
            raise EngineError(
                f"{prompt} tokens of prompt and {tokens} of answer were asked for, "
                f"{found.prompt_n} and {found.predicted_n} were computed."
            )
        return found

    @property
    def prefill(self) -> float:
        """Tokens of prompt a second."""
        return self.prompt_n / self.prompt_ms * 1e3

    @property
    def decode(self) -> float:
        """Tokens of answer a second, the first one left out: it came out of the prefill."""
        return (self.predicted_n - 1) / self.predicted_ms * 1e3


class Session(ABC):
    """An engine with a model in it.

    Attributes:
        cold_ms, warm_ms: what opening it took the first and the second time; ``warm_ms`` only where it was asked for.
    """

    cold_ms: float
    warm_ms: float | None = None

    @abstractmethod
    async def complete(self, prompt: Prompt, tokens: int) -> Timings:
        """Computes a prompt and generates so many tokens, greedily, past any end of text.

        Raises:
            EngineError: it failed.
        """

    @abstractmethod
    def peak_memory(self) -> float | None:
        """The most memory that the computing process held so far, in MB; ``None`` where the system doesn't tell."""

    @abstractmethod
    async def close(self) -> None:
        """Ends the engine; a second time does nothing."""


class Subject(ABC):
    """One engine build.

    Attributes:
        engine: whose it is, such as ``sippet``.
        variant: which build of it.
        needs_browser: it runs in a page.
    """

    engine: str
    variant: str
    needs_browser: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """What `--engines` calls it."""
        return f"{self.engine}-{self.variant}" if self.variant else self.engine

    @abstractmethod
    def missing(self, weights: Weights) -> str | None:
        """Why it can't be measured with this model here, and what to do about it; ``None`` where it can."""

    def computes_with(self, threads: int) -> bool:
        """Whether it can run on so many threads."""
        return threads >= 1

    @abstractmethod
    async def open(self, job: Job, browsers: Browsers | None) -> Session:
        """Starts it and loads the model.

        Args:
            browsers: where its page is opened; ``None`` only where nothing that is measured ``needs_browser``.

        Raises:
            SippError: it can't.
        """


def peak_memory_of(pid: int | str) -> float | None:
    """The most memory that a process held at once, in MB: Linux's ``VmHWM``."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    return None
