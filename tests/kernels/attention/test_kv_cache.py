"""The KV cache holds finite values, of one position each, wherever and in whatever order they are stored."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from numoe.kernels.attention.kv_cache import KV_BLOCK, kv_block_bytes
from numoe.kernels.weights.formats import NUMBERS
from numoe.model.gguf.kv_types import KvTypes
from numoe.model.gguf.tensors import TensorType
from tests.kernels.attention.paged_cache import (
    TABLE,
    as_stored,
    drawn,
    empty_cache,
    every_format,
    filled,
    of_keys,
    of_values,
)
from tests.kernels.numeric import SEED


def types_of(kv_format: str) -> KvTypes:
    return KvTypes(TensorType[of_keys(kv_format)], TensorType[of_values(kv_format)])


@every_format
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 3.4e38, -3.4e38, 65520.0, 1e-40, -0.0])
def test_the_cache_holds_finite_values_whatever_is_stored(value: float, kv_format: str) -> None:
    cache = empty_cache(32, kv_format, [0])
    given = np.full((2, 1, 32), value, np.float32)
    cache.store(5, *given)
    held = cache.values()  # [blocks, KV_BLOCK, K]
    assert np.isfinite(held).all()
    np.testing.assert_array_equal(held[0, 5], as_stored(given[1, 0], of_values(kv_format)))
    assert not np.delete(held, 5, axis=1).any()


@every_format
def test_storing_touches_one_position_only(kv_format: str) -> None:
    cache = empty_cache(32, kv_format, [1, 0], fill=0x11)
    before = cache.blocks.copy()
    cache.store(70, *np.ones((2, 1, 32), np.float32))
    changed: NDArray[np.intp] = np.flatnonzero(np.any(before != cache.blocks, axis=1))
    assert changed.tolist() == [0]
    assert np.count_nonzero(before != cache.blocks) <= types_of(kv_format).bytes(32)


@every_format
def test_positions_stored_in_any_order_give_the_same_bits(kv_format: str) -> None:
    _, keys, values = drawn(64, 150, 1)
    in_order, shuffled = filled(64, kv_format, keys, values), empty_cache(64, kv_format, TABLE)
    for position in np.random.default_rng(SEED).permutation(150).tolist():
        shuffled.store(position, keys[position : position + 1], values[position : position + 1])
    np.testing.assert_array_equal(shuffled.blocks, in_order.blocks)


@every_format
def test_a_block_is_as_large_as_the_plan_counts(kv_format: str) -> None:
    for size in (32, 96, 128):
        types = types_of(kv_format)
        numbers = [NUMBERS[type_.name] for type_ in types]
        assert kv_block_bytes(size, *numbers) == KV_BLOCK * types.bytes(size)
