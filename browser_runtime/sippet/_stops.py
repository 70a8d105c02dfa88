"""Stop texts, looked for here: llama.cpp holds back what may become one, and at the limit of tokens loses it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any

_TEXTS = ("content", "reasoning_content", "text")
"""Fields of a chunk that bring text; a stop text is looked for in each by itself."""


class StopTexts:
    """Finds the first stop text in a text that comes in pieces."""

    def __init__(self, stops: Sequence[str]) -> None:
        """
        Args:
            stops: the stop texts, none of them empty.
        """
        self._stops = stops
        self._held = ""

    def feed(self, piece: str) -> tuple[str, bool]:
        """Take in a piece. Returns what can be told for certain, and whether a stop text follows it."""
        text = self._held + piece
        found = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if found:
            self._held = ""
            return text[: min(found)], True
        end = len(text) - self._undecided(text)
        self._held = text[end:]
        return text[:end], False

    def rest(self) -> str:
        """What was held back, where nothing follows."""
        held, self._held = self._held, ""
        return held

    def _undecided(self, text: str) -> int:
        """How many characters at the end may be the start of a stop text."""
        longest = min(len(text), max(map(len, self._stops)) - 1)
        ends = (size for size in range(longest, 0, -1) if any(stop.startswith(text[-size:]) for stop in self._stops))
        return next(ends, 0)


async def until(
    stream: AsyncGenerator[dict[str, Any], None], stops: Sequence[str]
) -> AsyncGenerator[dict[str, Any], None]:
    """The chunks of an answer up to the first stop text, which ends the engine's work.

    Args:
        stream: an engine's chunks.
        stops: the stop texts.
    """
    finders = {name: StopTexts(stops) for name in _TEXTS}
    try:
        async for chunk in stream:
            choices = chunk.get("choices")
            if not choices:
                yield chunk
                continue
            choice, stopped = dict(choices[0]), False
            if "delta" in choice:
                choice["delta"] = dict(choice["delta"])
            texts = choice.get("delta", choice)
            for name in _TEXTS:
                if texts.get(name) and not stopped:
                    texts[name], stopped = finders[name].feed(texts[name])
            if stopped:
                choice["finish_reason"] = "stop"
            elif choice.get("finish_reason"):
                for name, finder in finders.items():
                    if held := finder.rest():
                        texts[name] = (texts.get(name) or "") + held
            yield {**chunk, "choices": [choice]}
            if stopped:
                return
    finally:
        await stream.aclose()
