"""The bits of attention depend on nothing but the query and the positions it sees."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from numoe.kernels.attention.kv_cache import KV_BLOCK
from numoe.kernels.attention.scratch import MOST_HEADS, MOST_TOKENS, PIECE
from numoe.kernels.matmul.groups import WIDTHS
from tests.kernels.attention.paged_cache import TABLE, drawn, empty_cache, every_format, filled
from tests.kernels.numeric import assert_same_bits


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
@pytest.mark.parametrize("heads", [2, 13])
def test_tokens_that_go_over_a_context_together_have_the_same_bits_as_alone(heads: int, kv_format: str) -> None:
    """Though some see a piece that others do not, and each may be of another sequence."""
    last = 2 * PIECE + 3
    queries, keys, values = drawn(64, last + 1, MOST_TOKENS * heads)
    cache = filled(64, kv_format, keys, values)
    positions = [PIECE - 1, PIECE, 5, *range(last - MOST_TOKENS + 4, last + 1)]
    rows = queries.reshape(MOST_TOKENS, heads, 64)
    for tables in ([TABLE] * MOST_TOKENS, [TABLE[place:] + TABLE[:place] for place in range(MOST_TOKENS)]):
        together = cache.attend_run(rows, positions, np.nan, tables)
        for row, position, table, found in zip(rows, positions, tables, together, strict=True):
            alone = replace(cache, table=np.array(table, np.int32))
            assert_same_bits(found, alone.attend(row, position))


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
        cache.store(0, *np.full((2, 2 * KV_BLOCK, 64), garbage, np.float32))
        cache.store(0, keys, values)
        assert_same_bits(cache.attend(queries, 100), expected)


@every_format
@pytest.mark.parametrize("garbage", [np.inf, -np.inf, np.nan])
def test_a_query_that_sees_a_key_of_no_number_gives_none(garbage: float, kv_format: str) -> None:
    """Else what was stored in its place would look like an answer. Those that do not see it stay as they are."""
    queries, keys, values = drawn(64, 71, 2)
    expected = filled(64, kv_format, keys, values)
    cache = filled(64, kv_format, keys, values)
    keys[40, 37] = garbage
    cache.store(40, keys[40:41], values[40:41])
    assert np.isnan(cache.attend(queries, 70)).all()
    assert_same_bits(cache.attend(queries, 39), expected.attend(queries, 39))


@every_format
def test_a_query_has_the_same_bits_whatever_unseen_keys_are(kv_format: str) -> None:
    queries, keys, values = drawn(64, 71, 2)
    expected = filled(64, kv_format, keys, values).attend(queries, 70)
    cache = empty_cache(64, kv_format, TABLE, fill=0xFF)  # every key a NaN
    cache.blocks[:, cache.keys_bytes :] = 0
    cache.store(0, keys, values)
    assert_same_bits(cache.attend(queries, 70), expected)


@every_format
def test_a_query_has_the_same_bits_whatever_the_scratch_holds(kv_format: str) -> None:
    queries, keys, values = drawn(64, 131, 3)
    cache = filled(64, kv_format, keys, values)
    expected = cache.attend(queries, 130)
    for garbage in (np.nan, np.inf, 3e38):
        assert_same_bits(cache.attend(queries, 130, garbage), expected)
