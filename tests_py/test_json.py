"""JSON that others wrote is read like any other, but for what is nested so deeply that it would end Python in a tab."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sippet import _json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_what_is_json_is_read(value: Any) -> None:
    assert _json.loads(json.dumps(value)) == value
    assert _json.loads(json.dumps(value).encode()) == value


@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"a":'])
@pytest.mark.parametrize("levels", [_json.DEEPEST + 1, 100_000])
def test_what_is_nested_too_deeply_is_refused(opening: str, levels: int) -> None:
    with pytest.raises(ValueError, match="too deeply"):
        _json.loads(opening * levels)


def test_many_brackets_beside_each_other_or_in_texts_are_no_depth() -> None:
    flat = [[], {}, "[" * 1000, '\\"[' * 1000, {"[[[": "}"}] * 300
    assert _json.loads(json.dumps(flat)) == flat


@pytest.mark.parametrize("data", ["", "{", '"', '"\\', "[1,]", b"\xff", "nul"])
def test_what_is_no_json_is_a_value_error(data: str | bytes) -> None:
    with pytest.raises(ValueError):
        _json.loads(data)
