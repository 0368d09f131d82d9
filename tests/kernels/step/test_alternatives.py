"""The likeliest tokens are those of a sorted list, equals by their ids."""

from __future__ import annotations

import numpy as np
import pytest

from numoe.kernels.step.alternatives import list_alternatives
from numoe.kernels.step.sampling import log_sum_exp
from tests.kernels import reference
from tests.kernels.numeric import SEED, UNIT, assert_within
from tests.kernels.step.test_sampling import padded, scratch


@pytest.mark.parametrize("levels", [1, 2, 5, 1 << 20])
@pytest.mark.parametrize("vocabulary", [20, 128, 331, 5000])
@pytest.mark.parametrize("count", [1, 3, 20])
def test_the_likeliest_are_listed_best_first(count: int, vocabulary: int, levels: int) -> None:
    """The normaliser is rounded to a float once, and the difference once more."""
    random = np.random.default_rng(SEED)
    logits = (random.integers(0, levels, vocabulary) * (8 / levels)).astype(np.float32)
    row = padded(logits)
    memory = scratch(row)
    normaliser = log_sum_exp(row, memory.maxima)
    before = row.copy()
    tokens, logprobs = np.full(24, -1, np.int32), np.full(24, np.nan, np.float32)
    list_alternatives(tokens, logprobs, count, row, memory, normaliser)
    expected, expected_logprobs = reference.alternatives(logits.astype(np.float64), count)
    assert tokens[:count].tolist() == expected.tolist()
    assert_within(logprobs[:count], expected_logprobs, np.full(count, 40 * UNIT * 16))
    assert set(tokens[count:].tolist()) == {-1}
    assert row.tolist() == before.tolist()
    assert memory.maxima[0] == before[:128].max()
