"""Byte ranges: the arithmetic of RFC 9110, section 14."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sippet_host.ranges import ByteRange, Unsatisfiable, parse_range

sizes = st.integers(0, 2**45)


@pytest.mark.parametrize(
    ("header", "start", "length"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-99", 0, 100),
        ("bytes=10-19", 10, 10),
        ("bytes=99-99", 99, 1),
        ("bytes=90-", 90, 10),
        ("bytes=90-1000", 90, 10),
        ("bytes=-1", 99, 1),
        ("bytes=-100", 0, 100),
        ("bytes=-1000", 0, 100),
        ("BYTES=5-6", 5, 2),
        ("bytes= 5-6 ", 5, 2),
        ("bytes=,, 5-6 ,", 5, 2),
        ("bytes=005-006", 5, 2),
        ("bytes=0-" + "9" * 6000, 0, 100),
        ("bytes=-" + "9" * 6000, 0, 100),
        ("bytes=200-300,5-6", 5, 2),
    ],
)
def test_one_range_of_a_hundred_bytes_is_found(header: str, start: int, length: int) -> None:
    assert parse_range(header, 100) == ByteRange(start, length)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "bytes",
        "bytes=",
        "bytes=,",
        "bytes=-",
        "bytes=a-b",
        "bytes=1",
        "bytes=1-2-3",
        "bytes=+1-2",
        "bytes=1 - 2",
        "bytes=0x1-2",
        "bytes=١-٢",
        "bytes=7-5",
        "bytes=" + "9" * 6000 + "-5",
        "bytes=0-1,7-5",
        "chars=0-1",
        "bytes 0-1",
    ],
)
def test_a_malformed_header_means_the_whole_file(header: str) -> None:
    assert parse_range(header, 100) is None


@pytest.mark.parametrize(
    "header", ["bytes=100-", "bytes=100-200", "bytes=-0", "bytes=200-300,400-", "bytes=" + "9" * 6000 + "-"]
)
def test_a_range_behind_the_end_is_unsatisfiable(header: str) -> None:
    with pytest.raises(Unsatisfiable):
        parse_range(header, 100)


def test_several_ranges_mean_the_whole_file() -> None:
    assert parse_range("bytes=0-1,5-6", 100) is None


def test_an_empty_file_has_no_range_but_answers_a_suffix_with_all_of_itself() -> None:
    with pytest.raises(Unsatisfiable):
        parse_range("bytes=0-", 0)
    assert parse_range("bytes=-5", 0) is None


@given(st.integers(0, 2**46), st.integers(0, 2**46), sizes)
def test_a_range_is_the_slice_that_python_would_take(first: int, last: int, size: int) -> None:
    header = f"bytes={first}-{last}"
    if last < first:
        assert parse_range(header, size) is None
    elif first >= size:
        with pytest.raises(Unsatisfiable):
            parse_range(header, size)
    else:
        expected = range(size)[first : last + 1]
        assert parse_range(header, size) == ByteRange(expected.start, len(expected))


@given(st.integers(1, 2**46), st.integers(1, 2**45))
def test_a_suffix_is_the_end_that_python_would_take(count: int, size: int) -> None:
    expected = range(size)[-count:]
    assert parse_range(f"bytes=-{count}", size) == ByteRange(expected.start, len(expected))


@given(st.text(alphabet="bytes=-, 0123456789x", max_size=40), st.integers(0, 1000))
def test_whatever_is_sent_the_answer_lies_within_the_file(header: str, size: int) -> None:
    try:
        found = parse_range(header, size)
    except Unsatisfiable:
        return
    if found is not None:
        assert found.length >= 1
        assert 0 <= found.start <= found.start + found.length <= size
        first, last = found.content_range(size).removeprefix("bytes ").partition("/")[0].split("-")
        assert int(last) - int(first) + 1 == found.length


@given(st.lists(st.integers(1, 400), min_size=1, max_size=20))
def test_consecutive_ranges_tile_the_file(lengths: list[int]) -> None:
    size = sum(lengths)
    at, covered = 0, 0
    for length in lengths:
        found = parse_range(f"bytes={at}-{at + length - 1}", size)
        assert found is not None
        assert found.start == covered
        covered += found.length
        at += length
    assert covered == size
