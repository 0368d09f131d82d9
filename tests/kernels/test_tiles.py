"""A tile computes 16 rows times its columns, and no column's bits depend on the others.

Bounds. A float tile adds the 32 products of a block by 32 fused operations, then the block's sum to the total: a
product passes through at most 32 + blocks roundings. A Q8_0 tile's integers are exact; a block's term passes through
one rounding of the product of scales and one fused addition per block left: 1 + blocks. Either way the error is at
most gamma(roundings) times the sum of |weight| |x| (Higham 2002, 3.1).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from numoe.kernels import reference
from numoe.kernels.formats import FORMATS, Format
from numoe.kernels.reference import Reals
from numoe.kernels.tiles import BLOCK, ROWS, WIDTHS
from tests.kernels.numeric import SEED, assert_within, gamma, packed, random_rows, run_tile

every_format = pytest.mark.parametrize("format_", FORMATS, ids=lambda format_: format_.name)


def group_of(format_: Format, x: NDArray[np.float32]) -> NDArray[Any]:
    """The columns x [C, n] as one group of the kind the format reads."""
    columns, blocks = len(x), x.shape[1] // BLOCK
    if format_.integer:
        group = np.zeros(columns * blocks * 40, np.uint8)
        for column, values in enumerate(x):
            reference.write_integer_column(group, columns, column, values, blocks)
        return group
    floats = np.zeros(columns * blocks * BLOCK, np.float32)
    for column, values in enumerate(x):
        reference.write_float_column(floats, columns, column, values, blocks)
    return floats


def group_values(format_: Format, group: NDArray[Any], columns: int, blocks: int) -> Reals:
    """What the group stands for: [C, n]."""
    if format_.integer:
        return reference.integer_columns(group, columns, blocks)
    return group.reshape(blocks, columns, BLOCK).transpose(1, 0, 2).reshape(columns, -1).astype(np.float64)


@every_format
@pytest.mark.parametrize("columns", WIDTHS)
@pytest.mark.parametrize("blocks", [1, 2, 24])
def test_a_tile_equals_its_twin(format_: Format, columns: int, blocks: int) -> None:
    random = np.random.default_rng(SEED)
    panel = packed(format_, random_rows(format_, ROWS, blocks, random))
    group = group_of(format_, random.standard_normal((columns, blocks * BLOCK), np.float32))
    weights = reference.unpack(format_.name, panel)
    x = group_values(format_, group, columns, blocks)
    roundings = 1 + blocks if format_.integer else BLOCK + blocks
    bound = gamma(roundings) * reference.tile(np.abs(weights), np.abs(x))
    assert_within(run_tile(format_, panel[0], group, columns), reference.tile(weights, x), bound)


def test_the_largest_integers_are_summed_exactly() -> None:
    [format_] = [format_ for format_ in FORMATS if format_.integer]
    for quant, sign in ((-128, 1.0), (127, 1.0), (-128, -1.0), (127, -1.0)):
        row = np.concatenate([np.array([1], np.float16).view(np.int8), np.full(32, quant, np.int8)]).view(np.uint8)
        panel = packed(format_, np.tile(row, (ROWS, 1)))
        x = np.full((1, BLOCK), 127 * sign, np.float32)
        np.testing.assert_array_equal(run_tile(format_, panel[0], group_of(format_, x), 1), 32 * 127.0 * quant * sign)


@every_format
def test_a_column_has_the_same_bits_in_every_width_and_place(format_: Format) -> None:
    random, blocks = np.random.default_rng(SEED), 5
    panel = packed(format_, random_rows(format_, ROWS, blocks, random))[0]
    x = random.standard_normal(blocks * BLOCK, np.float32)
    alone = run_tile(format_, panel, group_of(format_, x[None]), 1)[0]
    for columns in WIDTHS:
        for place in range(columns):
            together = random.standard_normal((columns, blocks * BLOCK), np.float32)
            together[place] = x
            found = run_tile(format_, panel, group_of(format_, together), columns)[place]
            np.testing.assert_array_equal(found.view(np.uint32), alone.view(np.uint32))


@every_format
def test_a_column_does_not_see_what_a_padding_column_holds(format_: Format) -> None:
    random, blocks = np.random.default_rng(SEED), 2
    panel = packed(format_, random_rows(format_, ROWS, blocks, random))[0]
    x = random.standard_normal((4, blocks * BLOCK), np.float32)
    clean = group_of(format_, x)
    garbage = clean.copy()
    width = 4 * 40 if format_.integer else 4 * BLOCK
    for block in garbage.reshape(blocks, width):
        if format_.integer:
            block[3 * 32 : 4 * 32] = 0x7F
            block[32 * 4 + 3 * 4 : 32 * 4 + 4 * 4] = 0xFF  # a scale that is NaN
            block[36 * 4 + 3 * 4 : 36 * 4 + 4 * 4] = 0x7F
        else:
            block[3 * BLOCK :] = np.nan
    expected, found = (run_tile(format_, panel, group, 4) for group in (clean, garbage))
    np.testing.assert_array_equal(found[:3].view(np.uint32), expected[:3].view(np.uint32))
    assert np.isnan(found[3]).all()
