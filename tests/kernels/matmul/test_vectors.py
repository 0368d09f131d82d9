"""Vectors are copied and added in place, and normalised within rounding."""

from __future__ import annotations

import numpy as np
import pytest

from numoe.kernels.matmul.vectors import add_vector, copy_floats, rms_norm
from tests.kernels import reference
from tests.kernels.numeric import SEED, address, assert_within, gamma


def test_vectors_are_added_in_place() -> None:
    out, vector = np.arange(32, dtype=np.float32), np.full(32, 2.0, np.float32)
    add_vector(address(out), address(vector), 16)
    np.testing.assert_array_equal(out, [*range(2, 18), *range(16, 32)])


@pytest.mark.parametrize("width", [32, 64, 96, 2048, 4096])
@pytest.mark.parametrize("size", [1e-4, 1.0, 1e4])
def test_rms_norm_equals_its_twin(width: int, size: float) -> None:
    """Squares are positive, so their sum's relative error is at most its depth: width / 32 fused additions in a lane,
    1 to join two sums, 4 to fold 16 lanes; then the quotient and epsilon, a root (which halves what came before it),
    a reciprocal and two products.
    """
    random, epsilon = np.random.default_rng(SEED), float(np.float32(1e-6))
    x = random.standard_normal(width, np.float32) * np.float32(size)
    weight = random.standard_normal(width, np.float32)
    expected = reference.rms_norm(x.astype(np.float64), weight.astype(np.float64), epsilon)
    rms_norm(address(x), address(weight), width, epsilon)
    roundings = (width / 32 + 1 + 4 + 2) / 2 + 1 + 1 + 2
    assert_within(x, expected, gamma(roundings) * np.abs(expected))


def test_rms_norm_of_zeros_is_zeros() -> None:
    x, weight = np.zeros(64, np.float32), np.ones(64, np.float32)
    rms_norm(address(x), address(weight), 64, 1e-6)
    np.testing.assert_array_equal(x, 0.0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e25])
def test_what_cannot_be_normalised_becomes_no_number(value: float) -> None:
    """1e25 is finite, but its square is not: divided by that, all would be zeros, which look like an answer."""
    x, weight = np.ones(64, np.float32), np.ones(64, np.float32)
    x[37] = value
    rms_norm(address(x), address(weight), 64, 1e-6)
    assert np.isnan(x).all()


def test_floats_are_copied_and_none_past_the_count() -> None:
    x, out = np.arange(48, dtype=np.float32), np.full(48, -1.0, np.float32)
    copy_floats(address(out), address(x), 32)
    np.testing.assert_array_equal(out, [*range(32), *[-1.0] * 16])
