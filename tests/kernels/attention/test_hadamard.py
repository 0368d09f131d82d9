"""The Hadamard transform is the matrix product that it stands for, and leaves scores as they are."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from numoe.kernels.attention.hadamard import hadamard
from tests.kernels.attention.paged_cache import as_stored
from tests.kernels.numeric import SEED, address, assert_within, gamma

SIZES = [32, 64, 128, 256]


def matrix(size: int) -> NDArray[np.float64]:
    """Sylvester's."""
    found = np.ones((1, 1))
    while len(found) < size:
        found = np.block([[found, found], [found, -found]])
    return found


def transformed(x: NDArray[np.float32]) -> NDArray[np.float32]:
    out = x.copy()
    for row in out:
        hadamard(address(row), len(row))
    return out


@pytest.mark.parametrize("size", SIZES)
def test_it_is_the_product_with_the_matrix(size: int) -> None:
    x = np.random.default_rng(SEED).standard_normal((5, size)).astype(np.float32)
    exact = x @ matrix(size) / np.sqrt(size)
    most = np.abs(x).sum(axis=1, keepdims=True) / np.sqrt(size)
    assert_within(transformed(x), exact, most * gamma(np.log2(size) + 2) * np.ones_like(exact))


@pytest.mark.parametrize("size", SIZES)
def test_twice_is_nothing_and_scores_stay(size: int) -> None:
    queries, keys = np.random.default_rng(SEED).standard_normal((2, 7, size)).astype(np.float32)
    np.testing.assert_allclose(transformed(transformed(keys)), keys, atol=1e-5)
    np.testing.assert_allclose(transformed(queries) @ transformed(keys).T, queries @ keys.T, atol=1e-4 * size**0.5)


def test_keys_with_a_few_large_dimensions_lose_less_when_they_are_rounded() -> None:
    keys = np.random.default_rng(SEED).standard_normal((200, 128)).astype(np.float32)
    keys[:, [3, 40, 77, 100]] *= 30
    spread = transformed(keys)
    plain = np.std(as_stored(keys, "Q8_0") - keys)
    turned = np.std(as_stored(spread, "Q8_0") - spread)
    assert turned < 0.6 * plain
