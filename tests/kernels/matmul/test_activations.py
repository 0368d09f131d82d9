"""Activations are rounded to integers exactly as their twin, and moved bit by bit."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from numoe.kernels.matmul.activations import copy_column, write_float_column, write_integer_column
from numoe.kernels.matmul.groups import FLOAT_BYTES, INTEGER_BYTES, SCALE, WIDTHS
from numoe.kernels.weights.formats import BLOCK
from tests.kernels import reference
from tests.kernels.numeric import SEED, address, assert_within, gamma


@pytest.mark.parametrize("columns", WIDTHS)
def test_integer_columns_are_byte_for_byte_those_of_the_twin(columns: int) -> None:
    random, blocks = np.random.default_rng(SEED), 7
    found, expected = (np.full(columns * blocks * INTEGER_BYTES, 0x5A, np.uint8) for _ in range(2))
    for column in range(columns):
        x = random.standard_normal(blocks * BLOCK, np.float32)
        x *= np.float32(10.0) ** random.integers(-20, 20, blocks).repeat(BLOCK).astype(np.float32)
        write_integer_column(address(found), columns, column, address(x), blocks)
        reference.write_integer_column(expected, columns, column, x, blocks)
        np.testing.assert_array_equal(found, expected)


def integer_block(x: NDArray[np.float32]) -> NDArray[np.int64]:
    """One block, rounded."""
    group = np.zeros(INTEGER_BYTES, np.uint8)
    write_integer_column(address(group), 1, 0, address(x), 1)
    return reference.rounded_columns(group, 1, 1)[0].reshape(BLOCK)


def test_halves_are_rounded_to_even() -> None:
    x = np.resize(np.array([0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 127.0, -127.0], np.float32), BLOCK)
    np.testing.assert_array_equal(integer_block(x), np.resize([0, 2, 2, 0, -2, -2, 127, -127], BLOCK))


@pytest.mark.parametrize("largest", [0.0, 1e-45, 1e-31, 1e-30])
def test_blocks_too_small_to_scale_are_zeros(largest: float) -> None:
    np.testing.assert_array_equal(integer_block(np.full(BLOCK, largest, np.float32)), 0)


@pytest.mark.parametrize("largest", [1.1e-30, 1e-20, 1.0, 1e30, 3.4e38])
def test_the_largest_of_a_block_becomes_127(largest: float) -> None:
    x = np.linspace(-1.0, 1.0, BLOCK).astype(np.float32) * np.float32(largest)
    rounded = integer_block(x)
    assert rounded[0] == -127
    assert rounded[-1] == 127


@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
def test_a_block_with_a_value_that_is_no_number_has_no_finite_scale(value: float) -> None:
    """Wherever in the block: the integers beside it would make finite products otherwise."""
    for place in range(BLOCK):
        x = np.linspace(-1.0, 1.0, BLOCK).astype(np.float32)
        x[place] = value
        group = np.zeros(INTEGER_BYTES, np.uint8)
        write_integer_column(address(group), 1, 0, address(x), 1)
        assert not np.isfinite(group[SCALE : SCALE + 4].view(np.float32))


def test_a_rounded_value_is_off_by_half_a_step_at_most() -> None:
    """Half a step, and the roundings of the scale, its inverse and the product on up to 127 steps."""
    random, blocks = np.random.default_rng(SEED), 50
    x = random.standard_normal(blocks * BLOCK, np.float32)
    group = np.zeros(blocks * INTEGER_BYTES, np.uint8)
    write_integer_column(address(group), 1, 0, address(x), blocks)
    step = np.abs(x.reshape(-1, BLOCK)).max(axis=1).astype(np.float64).repeat(BLOCK) / 127
    assert_within(reference.integer_columns(group, 1, blocks)[0], x.astype(np.float64), step * (0.5 + 127 * gamma(4)))


def test_float_columns_are_copied_into_their_places() -> None:
    random, blocks, columns = np.random.default_rng(SEED), 3, 4
    found, expected = (np.zeros(columns * blocks * BLOCK, np.float32) for _ in range(2))
    for column in (2, 0, 3):
        x = random.standard_normal(blocks * BLOCK, np.float32)
        write_float_column(address(found), columns, column, address(x), blocks)
        reference.write_float_column(expected, columns, column, x, blocks)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("columns", "column"), [(1, 0), (8, 7), (12, 1)])
def test_copied_columns_are_those_written_there(columns: int, column: int) -> None:
    random, blocks = np.random.default_rng(SEED), 6
    x = random.standard_normal(blocks * BLOCK, np.float32)
    for write, unit in ((write_integer_column, INTEGER_BYTES), (write_float_column, FLOAT_BYTES)):
        origin = random.integers(0, 256, blocks * unit).astype(np.uint8)
        found = random.integers(0, 256, columns * blocks * unit).astype(np.uint8)
        expected = found.copy()
        write(address(origin), 1, 0, address(x), blocks)
        write(address(expected), columns, column, address(x), blocks)
        copy_column(address(found), columns, column, address(origin), blocks, unit)
        np.testing.assert_array_equal(found, expected)
