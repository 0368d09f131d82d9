"""Attention equals its twin, and its bits depend on nothing but the query and the positions it sees."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from numoe.kernels.attention.kv_cache import BLOCK, KV_FORMATS, kv_block_bytes
from numoe.kernels.attention.pieces import MOST_HEADS, MOST_WORD, PIECE, PIECE_BLOCKS
from numoe.kernels.matmul.activations import write_integer_column
from numoe.kernels.matmul.groups import INTEGER_BYTES, WIDTHS
from numoe.kernels.weights.formats import NUMBERS
from numoe.model.gguf.tensors import TensorType, row_bytes
from tests.kernels import reference
from tests.kernels.attention.paged_cache import PagedCache, Singles, as_stored, empty_cache, largest_rounding
from tests.kernels.numeric import SEED, UNIT, address, assert_same_bits, assert_within, gamma
from tests.kernels.reference import Reals

POSITIONS = [0, 1, 15, 16, 63, 64, 100, PIECE - 1, PIECE, 2 * PIECE + 70]
TABLE = [7, 3, 5, 0, 1, 12, 2, 9, 4, 11, 6, 8, 10, 14, 13, 17, 15, 16, 18]  # blocks in no order

every_format = pytest.mark.parametrize("kv_format", KV_FORMATS)


def drawn(size: int, positions: int, heads: int) -> tuple[Singles, Singles, Singles]:
    """Queries whose scores spread by about 2, keys and values."""
    random = np.random.default_rng(SEED)
    queries = random.standard_normal((heads, size), np.float32) * np.float32(2 * size**-0.5)
    keys, values = random.standard_normal((2, positions, size), np.float32)
    return queries, keys, values


def filled(size: int, kv_format: str, keys: Singles, values: Singles, table: list[int] | None = None) -> PagedCache:
    cache = empty_cache(size, kv_format, table or TABLE)
    cache.store(0, keys, values)
    return cache


def as_read(queries: Singles, kv_format: str) -> Reals:
    """The queries that the scores are computed from: rounded where the keys are integers."""
    if kv_format != "Q8_0":
        return queries.astype(np.float64)
    blocks = queries.shape[1] // 32
    group = np.zeros(blocks * INTEGER_BYTES, np.uint8)
    rounded = []
    for query in queries:
        write_integer_column(address(group), 1, 0, address(query), blocks)
        rounded.append(reference.integer_columns(group, 1, blocks)[0])
    return np.stack(rounded)


def error_bound(queries: Reals, keys: Reals, values: Reals, kv_format: str) -> Reals:
    """How far roundings can move the result from that of the queries as read, and keys and values as stored.

    A score passes through 32 fused operations of a block and K / 32 additions; so does the maximum, and their
    difference is rounded once. An absolute error d of an exponent is a relative error d of the weight, to which exp
    adds 2 units in the last place. Each piece changes the running maximum by a factor of the same kind, once for the
    sum and once for the output; and a weight passes through the sum of its block and one of each block after. The
    quotient of two such sums has twice the error of one.

    Where values are integers, a weight is rounded to half a share of MOST_WORD of the largest scale, times at most 127;
    the weights sum to 1 at least in the piece that holds the maximum, and are smaller in the others. Seven roundings
    more make the shares, and turn the sums back.
    """
    scores, size = queries @ keys.T, queries.shape[1]
    spread = np.ptp(scores, axis=1).max()
    of_scores = gamma(32 + size / 32) * (np.abs(queries) @ np.abs(keys.T)).max()
    of_one_exponential = 2 * of_scores + UNIT * spread + 4 * UNIT
    blocks = -(-len(keys) // BLOCK)
    rescaled = 2 * (blocks // PIECE_BLOCKS + 1) + 2
    of_weights = rescaled * of_one_exponential + gamma(BLOCK + 3 * blocks + 4 + 7)
    bound: Reals = 2 * of_weights * reference.attend(queries, keys, np.abs(values))
    if kv_format == "Q8_0":
        bound += len(keys) * 0.5 / float(MOST_WORD) * np.abs(values).max() * 1.01
    return bound


@every_format
@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("size", [32, 64, 128])
def test_attention_equals_its_twin(size: int, position: int, kv_format: str) -> None:
    queries, keys, values = drawn(size, position + 1, 4)
    found = filled(size, kv_format, keys, values).attend(queries, position)
    exact = as_read(queries, kv_format), as_stored(keys, kv_format), as_stored(values, kv_format)
    assert_within(found, reference.attend(*exact), error_bound(*exact, kv_format))


@every_format
@pytest.mark.parametrize("position", POSITIONS)
def test_a_format_costs_its_rounding(position: int, kv_format: str) -> None:
    """Against what was to be stored: an error d of all scores is one of exp(2 d) - 1 of the weights."""
    singles = drawn(128, position + 1, 4)
    found = filled(128, kv_format, singles[1], singles[2]).attend(singles[0], position)
    queries, keys, values = (x.astype(np.float64) for x in singles)
    of_queries = np.abs(as_read(singles[0], kv_format) - queries)
    of_scores = np.abs(queries) @ largest_rounding(keys, kv_format).T + of_queries @ np.abs(keys).T * 1.01
    exact = reference.attend(queries, keys, values)
    weighed = reference.attend(queries, keys, np.abs(values))
    grown = np.exp(2 * of_scores.max())
    bound = (grown - 1) * weighed + grown * reference.attend(queries, keys, largest_rounding(values, kv_format))
    assert_within(found, exact, bound + 2 * error_bound(queries, keys, values, kv_format))


def test_words_of_weights_cost_less_than_bytes_of_values() -> None:
    """Long contexts, peaked and flat: what is lost beside the exact attention over the same bytes."""
    for sharpness in (0.0, 1.0, 4.0):
        queries, keys, values = drawn(128, 2 * PIECE, 8)
        queries *= np.float32(sharpness)
        read, *stored = as_read(queries, "Q8_0"), as_stored(keys, "Q8_0"), as_stored(values, "Q8_0")
        found = filled(128, "Q8_0", keys, values).attend(queries, 2 * PIECE - 1)
        of_words = np.std(found - reference.attend(read, *stored))
        of_bytes = np.std(
            reference.attend(read, *stored) - reference.attend(read, stored[0], values.astype(np.float64))
        )
        assert of_words < 0.1 * of_bytes


@every_format
def test_attention_finds_one_key_among_many(kv_format: str) -> None:
    """A score 100 above all others: their weights are exactly 0, the result is that value, whichever piece holds it."""
    for place in (0, PIECE - 1, PIECE, 2 * PIECE + 10):
        queries, keys, values = drawn(64, 2 * PIECE + 11, 1)
        keys[:] = 0.0
        keys[place], queries[:] = 1.0, 100.0 / 64
        found = filled(64, kv_format, keys, values).attend(queries, 2 * PIECE + 10)
        expected = as_stored(values[place], kv_format)
        if kv_format == "Q8_0":  # the word of the weight, and of the scale that it was divided by
            np.testing.assert_allclose(found[0], expected, rtol=0.5 / float(MOST_WORD) * 20)
        else:
            np.testing.assert_array_equal(found[0], expected)


@every_format
@pytest.mark.parametrize("position", [0, 77, PIECE + 5])
def test_a_query_has_the_same_bits_in_every_tile_and_place(position: int, kv_format: str) -> None:
    queries, keys, values = drawn(64, position + 1, 8)
    cache = filled(64, kv_format, keys, values)
    alone = np.concatenate([cache.attend(queries[head : head + 1], position) for head in range(8)])
    for columns in [width for width in WIDTHS if width <= MOST_HEADS]:
        for used in range(columns // 2 + 1, columns + 1):
            for first in range(8 - used + 1):
                found = cache.attend_pieces(queries[first : first + used], position, columns)
                assert_same_bits(found, alone[first : first + used])


@every_format
@pytest.mark.parametrize("heads", [1, 3, 8, 13, 16])
def test_pieces_shared_out_in_any_order_give_the_same_bits(heads: int, kv_format: str) -> None:
    """Also of more heads than a tile has columns."""
    position = 2 * PIECE + 37
    queries, keys, values = drawn(64, position + 1, heads)
    cache = filled(64, kv_format, keys, values)
    whole = cache.attend(queries, position)
    for first in range(0, heads, MOST_HEADS):
        part = queries[first : first + MOST_HEADS]
        columns = min(width for width in WIDTHS if width >= len(part))
        for order in ([0, 1, 2], [2, 0, 1]):
            found = cache.attend_pieces(part, position, columns, order)
            assert_same_bits(found, whole[first : first + MOST_HEADS])
    assert not np.array_equal(whole, cache.attend(queries, position - PIECE)), "the pieces change nothing"


@every_format
def test_a_query_has_the_same_bits_when_later_positions_are_in_the_cache(kv_format: str) -> None:
    queries, keys, values = drawn(64, 2 * PIECE, 2)
    values[41:64] *= 1e4  # the scales of a block's later positions must not show
    whole = filled(64, kv_format, keys, values)
    for position in (0, 40, 64, PIECE + 5):
        seen = filled(64, kv_format, keys[: position + 1], values[: position + 1])
        assert_same_bits(whole.attend(queries, position), seen.attend(queries, position))


@every_format
def test_a_query_has_the_same_bits_wherever_the_blocks_lie(kv_format: str) -> None:
    position = PIECE + 30
    queries, keys, values = drawn(64, position + 1, 2)
    shuffled, in_order = (filled(64, kv_format, keys, values, table) for table in (TABLE, list(range(len(TABLE)))))
    assert_same_bits(shuffled.attend(queries, position), in_order.attend(queries, position))


@every_format
def test_a_query_has_the_same_bits_whatever_another_sequence_left_in_the_cache(kv_format: str) -> None:
    """Left by storing, so nothing but what store_key and store_value can leave: also of infinities and NaN."""
    queries, keys, values = drawn(64, 101, 2)
    expected = filled(64, kv_format, keys, values).attend(queries, 100)
    for garbage in (1.0, -3e38, 3e38, np.inf, -np.inf, np.nan):
        cache = empty_cache(64, kv_format, TABLE)
        cache.store(0, *np.full((2, 2 * BLOCK, 64), garbage, np.float32))
        cache.store(0, keys, values)
        assert_same_bits(cache.attend(queries, 100), expected)


@every_format
def test_a_query_has_the_same_bits_whatever_unseen_keys_are(kv_format: str) -> None:
    queries, keys, values = drawn(64, 71, 2)
    expected = filled(64, kv_format, keys, values).attend(queries, 70)
    cache = empty_cache(64, kv_format, TABLE, fill=0xFF)  # every key a NaN
    cache.blocks[:, cache.blocks.shape[1] // 2 :] = 0
    cache.store(0, keys, values)
    assert_same_bits(cache.attend(queries, 70), expected)


@every_format
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 3.4e38, -3.4e38, 65520.0, 1e-40, -0.0])
def test_the_cache_holds_finite_values_whatever_is_stored(value: float, kv_format: str) -> None:
    cache = empty_cache(32, kv_format, [0])
    given = np.full((2, 1, 32), value, np.float32)
    cache.store(5, *given)
    held = cache.values()  # [blocks, BLOCK, K]
    assert np.isfinite(held).all()
    np.testing.assert_array_equal(held[0, 5], as_stored(given[1, 0], kv_format))
    assert not np.delete(held, 5, axis=1).any()


@every_format
def test_a_query_has_the_same_bits_whatever_the_scratch_holds(kv_format: str) -> None:
    queries, keys, values = drawn(64, 131, 3)
    cache = filled(64, kv_format, keys, values)
    expected = cache.attend(queries, 130)
    for garbage in (np.nan, np.inf, 3e38):
        assert_same_bits(cache.attend(queries, 130, garbage), expected)


@every_format
def test_storing_touches_one_position_only(kv_format: str) -> None:
    cache = empty_cache(32, kv_format, [1, 0], fill=0x11)
    before = cache.blocks.copy()
    cache.store(70, *np.ones((2, 1, 32), np.float32))
    changed: NDArray[np.intp] = np.flatnonzero(np.any(before != cache.blocks, axis=1))
    assert changed.tolist() == [0]
    assert np.count_nonzero(before != cache.blocks) <= 2 * row_bytes(TensorType[kv_format], 32)


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
        bytes_of_one = row_bytes(TensorType[kv_format], size)
        assert kv_block_bytes(size, NUMBERS[kv_format]) == 2 * BLOCK * bytes_of_one
