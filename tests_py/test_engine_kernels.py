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
@pytest.mark.parametrize("number", [0, 1, 30], ids=["F32", "F16", "BF16"])
def test_a_product_with_float_weights_is_exact_to_a_few_roundings(
    browser: EnginePage, variant: str, number: int
) -> None:
    # rows, columns and tokens that fill tiles and panels, and that leave one over
    shapes = [(1, 1, 1), (3, 5, 2), (4, 256, 1), (13, 514, 3), (20, 2304, 9), (100, 1023, 1), (17, 1281, 35)]
    cases = [{"name": "multiply_floats", "args": [number, *shape, seed]} for shape in shapes for seed in (1, 77)]
    errors = browser("selfTest", {"file": variant, "cases": cases})
    assert all(0 <= error < 2e-7 for error in errors), dict(zip(map(str, cases), errors, strict=True))
    quantised = {"name": "multiply_floats", "args": [TYPES["Q4_0"], 4, 32, 1, 1]}
    assert browser("selfTest", {"file": variant, "cases": [quantised]}) == [-1]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("number", [8, 9], ids=["Q8_0", "Q8_1"])
def test_rows_that_ggml_stores_in_eight_bits_are_rounded(browser: EnginePage, variant: str, number: int) -> None:
    (error,) = browser("selfTest", {"file": variant, "cases": [{"name": "stored_rows", "args": [number, 3]}]})
    assert 0.4 < error < 0.501


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


def attend_case(
    name: str, sizes: tuple[int, int], positions: int, queries: int, masked: int, softcap: float
) -> dict[str, Any]:
    number = {"F32": 0, "F16": 1, **TYPES}[name]
    return {"name": "attend", "args": [number, *sizes, positions, queries, masked, softcap, 11]}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", ["F32", "F16", "Q8_0"])
def test_attention_equals_the_softmax_of_all_scores(browser: EnginePage, variant: str, name: str) -> None:
    # one position, parts of a tile of 16, several tiles; keys and values of different sizes; all but one position
    # masked
    cases = [
        attend_case(name, sizes, positions, queries, masked, softcap)
        for sizes in ((64, 64), (128, 96), (512, 32))
        for positions, queries, masked in ((1, 1, 0), (16, 3, 4), (37, 8, 36), (300, 5, 130))
        for softcap in (0.0, 2.0)
    ]
    errors = browser("selfTest", {"file": variant, "cases": cases})
    assert all(0 <= error < 2e-6 for error in errors), dict(zip(map(str, cases), errors, strict=True))
    assert max(errors) > 0


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_query_that_sees_no_position_weighs_nothing(browser: EnginePage, variant: str) -> None:
    cases = [attend_case("F16", (64, 64), positions, 3, positions, 0.0) for positions in (1, 16, 40)]
    assert all(0 <= error < 2e-6 for error in browser("selfTest", {"file": variant, "cases": cases}))


@pytest.mark.parametrize("variant", VARIANTS)
def test_heads_of_other_types_and_sizes_are_left_to_ggml(browser: EnginePage, variant: str) -> None:
    cases = [attend_case(name, sizes, 8, 1, 0, 0.0) for name, sizes in
             (("Q4_0", (64, 64)), ("F16", (66, 64)), ("Q8_0", (48, 64)), ("F16", (1024, 64)))]  # fmt: skip
    assert browser("selfTest", {"file": variant, "cases": cases}) == [-1, -1, -1, -1]


def test_only_relaxed_simd_has_a_byte_dot_product(browser: EnginePage) -> None:
    plain, relaxed = (browser("selfTest", {"file": v, "cases": [{"name": "byte_dot", "args": []}]}) for v in VARIANTS)
    assert plain == [0]
    assert relaxed[0] in {0, 1, 2}
