"""Stop texts are found however the text is cut, and nothing that is none is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_engine import delta
from sippet._stops import StopTexts, until

PIECES = st.lists(st.text(alphabet="abc", max_size=4), max_size=12)
STOPS = st.lists(st.text(alphabet="abc", min_size=1, max_size=4), min_size=1, max_size=3)


def ends_of(text: str, stops: list[str]) -> set[int]:
    """Where the text may end: before a stop text that is whole at the first place where any is."""
    whole = min((text.find(stop) + len(stop) for stop in stops if stop in text), default=None)
    return {len(text)} if whole is None else {text.find(s) for s in stops if s in text}


@given(pieces=PIECES, stops=STOPS)
def test_what_is_told_is_the_text_before_the_first_stop_text(pieces: list[str], stops: list[str]) -> None:
    finder, told, stopped = StopTexts(stops), "", False
    for piece in pieces:
        part, stopped = finder.feed(piece)
        told += part
        if stopped:
            break
    text = "".join(pieces)
    told += finder.rest()
    assert stopped == any(stop in text for stop in stops)
    assert text.startswith(told)
    assert len(told) in ends_of(text, stops)
    assert not any(stop in told for stop in stops)


async def chunks(*found: dict[str, Any], closed: list[bool]) -> AsyncGenerator[dict[str, Any], None]:
    try:
        for chunk in found:
            yield chunk
    finally:
        closed.append(True)


@pytest.mark.parametrize(
    ("pieces", "text", "reason", "seen"),
    [
        (["Hel", "lo E", "ND and more"], "Hello ", "stop", 3),
        (["Hello E", "N"], "Hello EN", "length", 4),
        (["Hello"], "Hello", "length", 3),
    ],
)
def test_a_stop_text_ends_the_stream(pieces: list[str], text: str, reason: str, seen: int) -> None:
    async def main() -> None:
        closed: list[bool] = []
        usage = {"choices": [], "usage": {"prompt_tokens": 1}}
        script = [*map(delta, pieces), delta(finish="length"), usage]
        found = [chunk async for chunk in until(chunks(*script, closed=closed), ["END"])]
        choices = [chunk["choices"][0] for chunk in found if chunk["choices"]]
        assert "".join(choice["delta"].get("content") or "" for choice in choices) == text
        assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == [reason]
        assert len(found) == seen
        assert closed == [True], "the engine was told to stop"

    asyncio.run(main())


def test_a_raw_prompts_text_is_cut_too() -> None:
    async def main() -> None:
        script = [{"choices": [{"text": piece, "finish_reason": None}]} for piece in ("a", "bc", "d")]
        found = [chunk async for chunk in until(chunks(*script, closed=[]), ["c"])]
        assert [chunk["choices"][0]["text"] for chunk in found] == ["a", "b"]

    asyncio.run(main())
