"""Attention equals its twin, within the rounding of what it reads."""

from __future__ import annotations

import numpy as np
import pytest

from numoe.kernels.attention.kv_cache import KV_BLOCK
from numoe.kernels.attention.scratch import PIECE, PIECE_BLOCKS
from numoe.kernels.attention.value_weights import MOST_WORD
from numoe.kernels.matmul.activations import write_integer_column
from numoe.kernels.matmul.groups import INTEGER_BYTES
from tests.kernels import reference
from tests.kernels.attention.paged_cache import (
    Singles,
    as_stored,
    drawn,
    every_format,
    filled,
    largest_rounding,
    of_keys,
    of_values,
)
from tests.kernels.numeric import UNIT, address, assert_within, gamma
from tests.kernels.reference import Reals

POSITIONS = [0, 1, 15, 16, 63, 64, 100, PIECE - 1, PIECE, 2 * PIECE + 70]


def as_read(queries: Singles, kv_format: str) -> Reals:
    """The queries that the scores are computed from: rounded where the keys are integers."""
    if of_keys(kv_format) != "Q8_0":
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
    blocks = -(-len(keys) // KV_BLOCK)
    rescaled = 2 * (blocks // PIECE_BLOCKS + 1) + 2
    of_weights = rescaled * of_one_exponential + gamma(KV_BLOCK + 3 * blocks + 4 + 7)
    bound: Reals = 2 * of_weights * reference.attend(queries, keys, np.abs(values))
    if of_values(kv_format) == "Q8_0":
        bound += len(keys) * 0.5 / float(MOST_WORD) * np.abs(values).max() * 1.01
    return bound


@every_format
@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("size", [32, 64, 128])
def test_attention_equals_its_twin(size: int, position: int, kv_format: str) -> None:
    queries, keys, values = drawn(size, position + 1, 4)
    found = filled(size, kv_format, keys, values).attend(queries, position)
    exact = as_read(queries, kv_format), as_stored(keys, of_keys(kv_format)), as_stored(values, of_values(kv_format))
    assert_within(found, reference.attend(*exact), error_bound(*exact, kv_format))


@every_format
@pytest.mark.parametrize("position", POSITIONS)
def test_a_format_costs_its_rounding(position: int, kv_format: str) -> None:
    """Against what was to be stored: an error d of all scores is one of exp(2 d) - 1 of the weights."""
    singles = drawn(128, position + 1, 4)
    found = filled(128, kv_format, singles[1], singles[2]).attend(singles[0], position)
    queries, keys, values = (x.astype(np.float64) for x in singles)
    of_queries = np.abs(as_read(singles[0], kv_format) - queries)
    of_scores = np.abs(queries) @ largest_rounding(keys, of_keys(kv_format)).T + of_queries @ np.abs(keys).T * 1.01
    exact = reference.attend(queries, keys, values)
    weighed = reference.attend(queries, keys, np.abs(values))
    grown = np.exp(2 * of_scores.max())
    bound = (grown - 1) * weighed + grown * reference.attend(
        queries, keys, largest_rounding(values, of_values(kv_format))
    )
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
        expected = as_stored(values[place], of_values(kv_format))
        if of_values(kv_format) == "Q8_0":  # the word of the weight, and of the scale that it was divided by
            np.testing.assert_allclose(found[0], expected, rtol=0.5 / float(MOST_WORD) * 20)
        else:
            np.testing.assert_array_equal(found[0], expected)
