"""wllama's frames: what is written is read back, and what is not a frame is refused."""

from __future__ import annotations

import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sippet.engines import _glue
from sippet.errors import EngineCrashed

VALUES = {
    "bool": st.booleans(),
    "int": st.integers(-(2**31), 2**31 - 1),
    "float": st.floats(width=32, allow_nan=False),
    "str": st.text(),
    "raw": st.binary(),
}
VALUES |= {f"arr_{kind}": st.lists(values, max_size=4) for kind, values in VALUES.items()}


@st.composite
def frames(draw: st.DrawFn) -> tuple[str, dict[str, object]]:
    name = draw(st.sampled_from(sorted(_glue.MESSAGES)))
    fields = _glue.MESSAGES[name]
    return name, {field: draw(st.none() | VALUES[kind]) for field, kind in fields}


@given(frames())
def test_a_frame_reads_back_as_it_was_written(frame: tuple[str, dict[str, object]]) -> None:
    name, values = frame
    assert _glue.decode(_glue.encode(name, values)) == values


def test_the_bytes_are_those_of_the_protocol() -> None:
    """Written out by hand from the package's own encoder."""
    assert _glue.encode("gres_req", {"req_id": 7}) == b"GLUE\x01\0\0\0gres_req" + struct.pack("<Ii", 2, 7)


def test_fixed_places_are_where_decoding_finds_them() -> None:
    frame = _glue.encode("gres_res", {"success": True, "has_more": True, "is_error": False, "data_json": "abc"})
    assert struct.unpack_from("<I", frame, _glue.field_offset("gres_res", "has_more")) == (1,)
    assert struct.unpack_from("<I", frame, _glue.field_offset("gres_res", "data_json")) == (3,)


def test_a_field_after_a_text_has_no_fixed_place() -> None:
    with pytest.raises(ValueError, match="varies"):
        _glue.field_offset("cmpl_req", "files")


@given(frames(), st.data())
def test_a_damaged_frame_is_a_crash_or_another_frame_but_never_an_accident(
    frame: tuple[str, dict[str, object]], data: st.DataObject
) -> None:
    encoded = bytearray(_glue.encode(*frame))
    place = data.draw(st.integers(0, len(encoded) - 1))
    encoded[place] ^= data.draw(st.integers(1, 255))
    kept = data.draw(st.integers(0, len(encoded)))
    with suppress(EngineCrashed):
        _glue.decode(bytes(encoded[:kept]))


def test_an_unknown_field_is_a_mistake_in_the_program() -> None:
    with pytest.raises(KeyError):
        _glue.encode("gres_req", {"request": 1})
