"""A tile computes 16 rows times its columns, and no column's bits depend on the others.

Bounds. A float tile adds the 32 products of a block by 32 fused operations, then the block's sum to the total: a
product passes through at most 32 + blocks roundings. An integer tile's sums of products are exact; a block's term
passes through at most three roundings of its own (of d times s or m times t; of that times the sum; of the difference
of the two) and one fused addition per block, and the twin's weights, as gguf rounds them, through as many of those
three: 6 + blocks. Either way the error is at most gamma(roundings) times the sum of |weight| |x| (Higham 2002, 3.1),
where a weight that is a difference d s q - m t counts with both its parts.
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from numoe.kernels.matmul.groups import FLOAT_BYTES, GROUPS, INTEGER_BYTES, SCALE, WIDEST, WIDTHS
from numoe.kernels.weights.formats import BLOCK, ROWS, Format
from tests.kernels import reference
from tests.kernels.numeric import (
    SEED,
    Bytes,
    Singles,
    assert_same_bits,
    assert_within,
    dequantised,
    every_format,
    every_quantised_format,
    gamma,
    group_of,
    group_values,
    half_fields,
    masses,
    packed,
    random_rows,
    run_tile,
    set_halves,
)


def drawn(format_: Format, units: int, columns: int) -> tuple[Bytes, Singles]:
    """16 rows of a file, and columns."""
    random, values = np.random.default_rng(SEED), units * format_.unit_values
    return random_rows(format_, ROWS, values, random), random.standard_normal((columns, values), np.float32)


@every_format
@pytest.mark.parametrize("columns", WIDTHS)
@pytest.mark.parametrize("units", [1, 2, 24])
def test_a_tile_equals_its_twin(format_: Format, columns: int, units: int) -> None:
    rows, x = drawn(format_, units, columns)
    group = group_of(format_, x)
    exact = group_values(format_, group, columns)
    blocks = units * format_.unit_blocks
    bound = gamma(6 + blocks if format_.integer else BLOCK + blocks) * reference.tile(
        masses(format_, rows), np.abs(exact)
    )
    expected = reference.tile(dequantised(format_, rows).astype(np.float64), exact)
    assert_within(run_tile(format_, packed(format_, rows)[0], group, columns), expected, bound)


@every_quantised_format
@pytest.mark.parametrize("fill", [0x00, 0x7F, 0x80, 0xFF])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_integers_are_summed_exactly(format_: Format, fill: int, sign: int) -> None:
    """All scales are 1, so that every sum of a block is a whole number below 2**24 and no rounding is left."""
    rows = set_halves(format_, np.full((ROWS, format_.unit_bytes), fill, np.uint8), np.ones(len(half_fields(format_))))
    if format_.name == "MXFP4":
        rows[:, 0] = 128
    group = group_of(format_, np.full((1, format_.unit_values), 127 * sign, np.float32))
    expected = reference.tile(dequantised(format_, rows).astype(np.float64), group_values(format_, group, 1))
    assert np.abs(expected).max() < 2**24 * format_.unit_blocks
    np.testing.assert_array_equal(run_tile(format_, packed(format_, rows)[0], group, 1), expected)


@every_format
def test_a_column_has_the_same_bits_in_every_width_and_place(format_: Format) -> None:
    rows, x = drawn(format_, 5, 1)
    panel, random = packed(format_, rows)[0], np.random.default_rng(SEED + 1)
    [alone] = run_tile(format_, panel, group_of(format_, x), 1)
    for columns in WIDTHS:
        for place in range(columns):
            together = random.standard_normal((columns, x.shape[1]), np.float32)
            together[place] = x
            assert_same_bits(run_tile(format_, panel, group_of(format_, together), columns)[place], alone)


@every_quantised_format
@pytest.mark.parametrize("count", [2, GROUPS] if GROUPS > 1 else [1])
def test_groups_that_a_tile_takes_at_once_have_the_bits_of_each_alone(format_: Format, count: int) -> None:
    rows, x = drawn(format_, 3, WIDEST * count)
    panel, groups = packed(format_, rows)[0], [group_of(format_, part) for part in np.split(x, count)]
    alone = np.concatenate([run_tile(format_, panel, group, WIDEST) for group in groups])
    together = run_tile(format_, panel, np.concatenate([group.ravel() for group in groups]), WIDEST, count)
    assert_same_bits(together, alone)


@every_format
def test_a_row_has_the_same_bits_in_every_place_of_a_panel(format_: Format) -> None:
    rows, x = drawn(format_, 3, 2)
    group = group_of(format_, x)
    alone = run_tile(format_, packed(format_, rows[:1])[0], group, 2)[:, 0]
    for place in range(ROWS):
        others = random_rows(format_, ROWS, x.shape[1], np.random.default_rng(SEED + 1))
        others[place] = rows[0]
        assert_same_bits(run_tile(format_, packed(format_, others)[0], group, 2)[:, place], alone)


def with_garbage(format_: Format, group: Bytes, columns: int, column: int) -> Bytes:
    """The group with one column of NaN."""
    if not format_.integer:
        floats: NDArray[np.float32] = group.copy().view(np.float32)
        floats.reshape(-1, columns, FLOAT_BYTES // 4)[:, column] = np.nan
        return floats.view(np.uint8)
    garbage = group.copy()
    blocks = garbage.reshape(-1, columns, INTEGER_BYTES)
    blocks[:, column] = 0x7F
    blocks[:, column, SCALE : SCALE + 4] = 0xFF  # a scale that is NaN
    return garbage


@every_format
def test_a_column_does_not_see_what_a_padding_column_holds(format_: Format) -> None:
    rows, x = drawn(format_, 2, 4)
    panel, clean = packed(format_, rows)[0], group_of(format_, x)
    expected, found = (run_tile(format_, panel, group, 4) for group in (clean, with_garbage(format_, clean, 4, 3)))
    assert_same_bits(found[:3], expected[:3])
    assert np.isnan(found[3]).all()
