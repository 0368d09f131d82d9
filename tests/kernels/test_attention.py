"""Attention equals its twin, and its bits depend on nothing but the query and the positions it sees."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from numoe.kernels import reference
from numoe.kernels.attention import BLOCK, PIECE_BLOCKS
from numoe.kernels.groups import WIDTHS
from numoe.kernels.reference import Reals
from tests.kernels.numeric import SEED, UNIT, assert_same_bits, assert_within, gamma
from tests.kernels.paged_cache import PagedCache, Singles, empty_cache

PIECE = BLOCK * PIECE_BLOCKS
POSITIONS = [0, 1, 15, 16, 63, 64, 100, PIECE - 1, PIECE, 2 * PIECE + 70]
TABLE = [7, 3, 5, 0, 1, 12, 2, 9, 4, 11, 6, 8, 10, 14, 13, 17, 15, 16, 18]  # blocks in no order

half_or_not = pytest.mark.parametrize("half", [True, False], ids=["f16", "f32"])


def drawn(size: int, positions: int, heads: int) -> tuple[Singles, Singles, Singles]:
    """Queries whose scores spread by about 2, keys and values."""
    random = np.random.default_rng(SEED)
    queries = random.standard_normal((heads, size), np.float32) * np.float32(2 * size**-0.5)
    keys, values = random.standard_normal((2, positions, size), np.float32)
    return queries, keys, values


def filled(size: int, half: bool, keys: Singles, values: Singles, table: list[int] | None = None) -> PagedCache:
    cache = empty_cache(size, half, table or TABLE)
    cache.store(0, keys, values)
    return cache


def error_bound(queries: Reals, keys: Reals, values: Reals) -> Reals:
    """How far roundings can move the result.

    A score passes through 32 fused operations of a block and K / 32 additions; so does the maximum, and their
    difference is rounded once. An absolute error d of an exponent is a relative error d of the weight, to which exp
    adds 2 units in the last place. Each block and each piece changes the running maximum by a factor of the same kind,
    once for the sum and once for the output; and a weight passes through the sum of its block and one of each block
    after. The quotient of two such sums has twice the error of one.
    """
    scores, size = queries @ keys.T, queries.shape[1]
    spread = np.ptp(scores, axis=1).max()
    of_scores = gamma(32 + size / 32) * (np.abs(queries) @ np.abs(keys.T)).max()
    of_one_exponential = 2 * of_scores + UNIT * spread + 4 * UNIT
    blocks = -(-len(keys) // BLOCK)
    rescaled = 2 * (blocks // PIECE_BLOCKS + 1) + 2
    of_weights = rescaled * of_one_exponential + gamma(BLOCK + 3 * blocks + 4)
    bound: Reals = 2 * of_weights * reference.attend(queries, keys, np.abs(values))
    return bound


def as_stored(x: Singles, half: bool) -> Reals:
    return x.astype(np.float16).astype(np.float64) if half else x.astype(np.float64)


@half_or_not
@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("size", [32, 64, 128])
def test_attention_equals_its_twin(size: int, position: int, half: bool) -> None:
    queries, keys, values = drawn(size, position + 1, 4)
    found = filled(size, half, keys, values).attend(queries, position, 4)
    exact = queries.astype(np.float64), as_stored(keys, half), as_stored(values, half)
    assert_within(found, reference.attend(*exact), error_bound(*exact))


@half_or_not
def test_attention_finds_one_key_among_many(half: bool) -> None:
    """A score 100 above all others: their weights are exactly 0, the result is that value, whichever piece holds it."""
    for place in (0, PIECE - 1, PIECE, 2 * PIECE + 10):
        queries, keys, values = drawn(64, 2 * PIECE + 11, 1)
        keys[:] = 0.0
        keys[place], queries[:] = 1.0, 100.0 / 64
        found = filled(64, half, keys, values).attend(queries, 2 * PIECE + 10, 1)
        np.testing.assert_array_equal(found[0], as_stored(values[place], half))


@half_or_not
@pytest.mark.parametrize("position", [0, 77, PIECE + 5])
def test_a_query_has_the_same_bits_in_every_tile_and_place(position: int, half: bool) -> None:
    queries, keys, values = drawn(64, position + 1, 8)
    cache = filled(64, half, keys, values)
    alone = np.concatenate([cache.attend(queries[head : head + 1], position, 1) for head in range(8)])
    for columns in WIDTHS:
        for used in range(columns // 2 + 1, columns + 1):
            for first in range(8 - used + 1):
                found = cache.attend(queries[first : first + used], position, columns)
                assert_same_bits(found, alone[first : first + used])


@half_or_not
def test_a_query_has_the_same_bits_when_later_positions_are_in_the_cache(half: bool) -> None:
    queries, keys, values = drawn(64, 2 * PIECE, 2)
    whole = filled(64, half, keys, values)
    for position in (0, 40, 64, PIECE + 5):
        seen = filled(64, half, keys[: position + 1], values[: position + 1])
        assert_same_bits(whole.attend(queries, position, 2), seen.attend(queries, position, 2))


@half_or_not
def test_a_query_has_the_same_bits_wherever_the_blocks_lie(half: bool) -> None:
    position = PIECE + 30
    queries, keys, values = drawn(64, position + 1, 2)
    shuffled, in_order = (filled(64, half, keys, values, table) for table in (TABLE, list(range(len(TABLE)))))
    assert_same_bits(shuffled.attend(queries, position, 2), in_order.attend(queries, position, 2))


@half_or_not
def test_a_query_has_the_same_bits_whatever_another_sequence_left_in_the_cache(half: bool) -> None:
    """Left by storing, so nothing but what store_key and store_value can leave: also of infinities and NaN."""
    queries, keys, values = drawn(64, 101, 2)
    expected = filled(64, half, keys, values).attend(queries, 100, 2)
    for garbage in (1.0, -3e38, 3e38, np.inf, -np.inf, np.nan):
        cache = empty_cache(64, half, TABLE)
        cache.store(0, *np.full((2, 2 * BLOCK, 64), garbage, np.float32))
        cache.store(0, keys, values)
        assert_same_bits(cache.attend(queries, 100, 2), expected)


@half_or_not
def test_a_query_has_the_same_bits_whatever_unseen_keys_are(half: bool) -> None:
    queries, keys, values = drawn(64, 71, 2)
    expected = filled(64, half, keys, values).attend(queries, 70, 2)
    cache = empty_cache(64, half, TABLE, fill=0xFF)  # every key a NaN
    cache.blocks[:, cache.blocks.shape[1] // 2 :] = 0
    cache.store(0, keys, values)
    assert_same_bits(cache.attend(queries, 70, 2), expected)


@half_or_not
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 3.4e38, -3.4e38, 65520.0, 1e-40, -0.0])
def test_the_cache_holds_finite_values_whatever_is_stored(value: float, half: bool) -> None:
    cache = empty_cache(32, half, [0])
    cache.store(5, *np.full((2, 1, 32), value, np.float32))
    held = cache.values()
    assert np.isfinite(held).all()
    largest = np.float32(65504.0) if half else np.finfo(np.float32).max
    expected = np.clip(np.nan_to_num(np.float32(value), nan=-np.inf, neginf=-np.inf, posinf=np.inf), -largest, largest)
    stored = held[held != 0]
    assert np.all(stored == (np.float16(expected) if half else expected))


@half_or_not
def test_a_query_has_the_same_bits_whatever_the_scratch_holds(half: bool) -> None:
    queries, keys, values = drawn(64, 131, 3)
    cache = filled(64, half, keys, values)
    expected = cache.attend(queries, 130, 4)
    for garbage in (np.nan, np.inf, 3e38):
        assert_same_bits(cache.attend(queries, 130, 4, garbage), expected)


@half_or_not
def test_storing_touches_one_position_only(half: bool) -> None:
    cache = empty_cache(32, half, [1, 0], fill=0x11)
    before = cache.blocks.copy()
    cache.store(70, *np.ones((2, 1, 32), np.float32))
    changed: NDArray[np.intp] = np.flatnonzero(np.any(before != cache.blocks, axis=1))
    assert changed.tolist() == [0]
    assert np.count_nonzero(before != cache.blocks) <= 2 * 32 * (2 if half else 4)
