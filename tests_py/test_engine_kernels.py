"""The matrix kernels of every build against ggml's own quantisation and sums in double precision, in a real browser."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from engine_browser import EnginePage, engine_page

# ggml's numbers for the types that our kernels pack
TYPES = {"Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8, "Q4_K": 12, "Q5_K": 13, "Q6_K": 14}
# (rows, columns, tokens): one group of rows, an odd number of groups, parts of a tile, columns beyond one panel
SHAPES = [(4, 256, 1), (8, 256, 2), (12, 512, 3), (4, 768, 4), (20, 2304, 9), (8, 1024, 5), (16, 1280, 33)]
# Tokens are rounded to 8 bits: the error of a product, relative to the norms, is that of many small roundings.
TOLERANCE = 0.0015
VARIANTS = ["sippet-single-simd128.wasm", "sippet-single-relaxed.wasm"]


@pytest.fixture(scope="module")
def browser() -> Iterator[EnginePage]:
    with engine_page({}) as page:
        yield page


def multiply_case(number: int, shape: tuple[int, int, int], seed: int, scale: float) -> dict[str, Any]:
    return {"name": "multiply", "args": [number, *shape, seed, scale]}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", TYPES)
def test_a_product_is_within_the_rounding_of_its_tokens(browser: EnginePage, variant: str, name: str) -> None:
    cases = [multiply_case(TYPES[name], shape, seed, 1.0) for shape in SHAPES for seed in (1, 77)]
    errors = browser("selfTest", {"file": variant, "cases": cases})
    assert all(0 < error < TOLERANCE for error in errors), dict(zip(map(str, cases), errors, strict=True))


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_smallest_row_of_a_plain_format_is_one_unit(browser: EnginePage, variant: str) -> None:
    plain = [
        multiply_case(TYPES[name], (4, 32, tokens), 5, 1.0)
        for name in ("Q4_0", "Q4_1", "Q5_0", "Q8_0")
        for tokens in (1, 6)
    ]
    assert all(0 < error < 3 * TOLERANCE for error in browser("selfTest", {"file": variant, "cases": plain}))


@pytest.mark.parametrize("variant", VARIANTS)
def test_tokens_of_any_size_keep_their_precision(browser: EnginePage, variant: str) -> None:
    cases = [
        multiply_case(number, (8, 512, tokens), 3, scale)
        for number in TYPES.values()
        for tokens in (1, 4)
        for scale in (1e-6, 1e6)
    ]
    assert all(0 < error < TOLERANCE for error in browser("selfTest", {"file": variant, "cases": cases}))


@pytest.mark.parametrize("variant", VARIANTS)
def test_tokens_of_zeros_give_exact_zeros(browser: EnginePage, variant: str) -> None:
    cases = [multiply_case(number, (8, 512, tokens), 3, 0.0) for number in TYPES.values() for tokens in (1, 3, 5)]
    assert browser("selfTest", {"file": variant, "cases": cases}) == [0] * len(cases)


@pytest.mark.parametrize("variant", VARIANTS)
def test_packed_rows_read_back_as_ggml_reads_them(browser: EnginePage, variant: str) -> None:
    cases = [{"name": "unpack", "args": [number, 8, 1280, seed]} for number in TYPES.values() for seed in (1, 9)]
    # one multiplication and one addition may round in another order
    assert all(0 <= error < 1e-6 for error in browser("selfTest", {"file": variant, "cases": cases}))


@pytest.mark.parametrize("variant", VARIANTS)
def test_rows_that_cannot_be_packed_are_refused(browser: EnginePage, variant: str) -> None:
    f16, odd_columns, odd_rows = (1, (4, 256, 1)), (TYPES["Q4_0"], (4, 48, 1)), (TYPES["Q8_0"], (6, 64, 1))
    half_block = (TYPES["Q4_K"], (4, 128, 1))
    cases = [multiply_case(number, shape, 1, 1.0) for number, shape in (f16, odd_columns, odd_rows, half_block)]
    assert browser("selfTest", {"file": variant, "cases": cases}) == [-1, -1, -1, -1]


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_half_float_reads_right_and_comes_back(browser: EnginePage, variant: str) -> None:
    assert browser("selfTest", {"file": variant, "cases": [{"name": "halves", "args": []}]}) == [0]


@pytest.mark.parametrize("variant", VARIANTS)
def test_floats_round_to_the_nearest_half_ties_to_even(browser: EnginePage, variant: str) -> None:
    # Python's struct rounds the same way; beyond 65519 it refuses where IEEE 754 says infinity
    values = [
        0.0,
        -0.0,
        1.0,
        1.0 + 2**-11,
        1.0 + 3 * 2**-11,
        -2.7,
        65504.0,
        65519.0,
        6e-8,
        2**-25,
        3 * 2**-26,
        5.9e-5,
        1 / 3,
    ]
    cases = [{"name": "to_half", "args": [value]} for value in values]
    singles = [struct.unpack("f", struct.pack("f", value))[0] for value in values]
    expected = [struct.unpack("<H", struct.pack("<e", single))[0] for single in singles]
    assert browser("selfTest", {"file": variant, "cases": cases}) == expected
    huge = [{"name": "to_half", "args": [value]} for value in (65520.0, 1e30, -1e30)]
    assert browser("selfTest", {"file": variant, "cases": huge}) == [0x7C00, 0x7C00, 0xFC00]


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_vector_exponential_is_right_to_a_few_units(browser: EnginePage, variant: str) -> None:
    values = [-100.0, -87.0, -20.5, -1.0, -0.1, 0.0, 1e-6, 0.3, 1.0, 10.0, 80.0, 88.5]
    results = browser("selfTest", {"file": variant, "cases": [{"name": "exp", "args": [value]} for value in values]})
    for value, result in zip(values, results, strict=True):
        tolerance = 1e-38 if value < -87 else 4e-7 * math.exp(value)  # the first is a subnormal
        assert abs(result - math.exp(value)) <= tolerance, value
    beyond = [{"name": "exp", "args": [value]} for value in (-1000.0, 1000.0)]
    zero, infinite = browser("selfTest", {"file": variant, "cases": beyond})
    assert zero == 0
    assert infinite == math.inf
