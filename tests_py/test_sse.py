"""The parser of server-sent events: cut anywhere, it gives the same events."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sippet.engines._sse import EventTooLarge, SseEvent, SseParser

TEXT = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=12)


def parse(*pieces: bytes, limit: int = 1000) -> list[SseEvent]:
    parser = SseParser(limit)
    return [event for piece in pieces for event in parser.feed(piece)]


@given(st.lists(st.lists(TEXT, min_size=1, max_size=3), max_size=5), st.sampled_from(["\n", "\r\n", "\r"]), st.data())
def test_events_do_not_depend_on_where_the_body_is_cut(events: list[list[str]], end: str, data: st.DataObject) -> None:
    body = "".join("".join(f"data: {line}{end}" for line in lines) + end for lines in events).encode()
    cuts = sorted(data.draw(st.sets(st.integers(0, len(body)), max_size=8)))
    pieces = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    assert parse(*pieces) == [SseEvent("\n".join(lines)) for lines in events]


def test_types_comments_and_unknown_fields() -> None:
    body = b": comment\nevent: error\nid: 1\nretry: 5\nother: x\ndata: a\ndata:b\n\ndata\n\nevent: lost\n\ndata: c\n\n"
    assert parse(body) == [SseEvent("a\nb", "error"), SseEvent(""), SseEvent("c")]


def test_a_byte_order_mark_and_one_space_are_left_out() -> None:
    assert parse(b"\xef\xbb\xbfdata:  a\n\n") == [SseEvent(" a")]


def test_an_event_without_its_blank_line_is_not_given() -> None:
    assert parse(b"data: a\n\ndata: b\n") == [SseEvent("a")]


def test_damaged_utf8_is_replaced() -> None:
    assert parse(b"data: \xff\xc3(\n\n") == [SseEvent("\ufffd\ufffd(")]


def test_a_long_line_and_many_lines_are_refused() -> None:
    with pytest.raises(EventTooLarge):
        parse(b"data: " + b"x" * 2000)
    with pytest.raises(EventTooLarge):
        parse(*([b"data: " + b"x" * 100 + b"\n"] * 20))
    assert len(parse(*([b"data: " + b"x" * 100 + b"\n\n"] * 20))) == 20
