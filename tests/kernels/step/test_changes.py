"""Biases and masks change the logits that they name and the maxima of their groups, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from numoe.kernels.records import TOGETHER
from numoe.kernels.step.sampling import NOT_DRAWN, add_biases, allow_only, draw, log_sum_exp
from tests.kernels import reference
from tests.kernels.numeric import SEED
from tests.kernels.step.test_sampling import (
    VOCABULARY,
    Singles,
    group_maxima,
    padded,
    sample_of,
    scratch,
    some_logits,
)


def mask_of(allowed: NDArray[np.bool_], row: Singles) -> NDArray[np.uint32]:
    bits = np.append(allowed, np.zeros(len(row) - len(allowed), bool))
    return np.packbits(bits, bitorder="little").view(np.uint32)


def test_biases_of_a_range_are_added_to_their_tokens() -> None:
    row = padded(some_logits())
    before, maxima = row.copy(), group_maxima(row)
    tokens, values = np.array([7, 3, 130, 300, 8], np.int32), np.array([9, 50, -np.inf, 100, 9], np.float32)
    add_biases(row, tokens, values, 1, 3, maxima)
    expected = before.copy()
    expected[[3, 130, 300]] += np.array([50, -np.inf, 100], np.float32)
    assert row.tolist() == expected.tolist()
    assert maxima.tolist() == group_maxima(expected).tolist()


@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
@settings(max_examples=60)
def test_only_what_is_allowed_stays_possible(seed: int, share: float) -> None:
    logits, random = some_logits(seed=seed), np.random.default_rng(seed)
    allowed = random.random(VOCABULARY) < share
    row = padded(logits)
    maxima = group_maxima(row)
    allow_only(row, mask_of(allowed, row), maxima)
    assert row[:VOCABULARY].tolist() == reference.allow_only(logits.astype(np.float64), allowed).tolist()
    assert maxima.tolist() == group_maxima(row).tolist()


FILTERS = [{}, {"top_k": 20}, {"top_p": 0.6}, {"min_p": 0.1}, {"top_k": 40, "top_p": 0.9}]


@pytest.mark.parametrize("fields", FILTERS, ids=str)
@pytest.mark.parametrize("count", [1, 2, 30, VOCABULARY])
@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_a_draw_takes_what_is_allowed_as_if_there_were_nothing_else(
    temperature: float, count: int, fields: dict[str, float]
) -> None:
    random = np.random.default_rng(SEED)
    for seed in range(20):
        logits, allowed = some_logits(seed=seed), np.zeros(VOCABULARY, bool)
        allowed[random.permutation(VOCABULARY)[:count]] = True
        sample, row = sample_of(temperature=temperature, seed=seed, **fields), padded(logits)
        memory = scratch(row)
        log_sum_exp(row, memory.maxima)
        allow_only(row, mask_of(allowed, row), memory.maxima)
        found = draw(row, memory, sample, VOCABULARY)
        alone = logits[allowed].astype(np.float64)
        _, probabilities = reference.candidates(alone, sample)
        assert allowed[found]
        if np.abs(np.cumsum(probabilities) - reference.uniform(seed, 0)).min() > 1e-5 or temperature == 0:
            assert found == np.flatnonzero(allowed)[reference.draw(alone, sample)]


def test_where_nothing_is_allowed_nothing_is_drawn() -> None:
    row = padded(some_logits())
    memory = scratch(row)
    log_sum_exp(row, memory.maxima)
    allow_only(row, np.zeros(len(row) // 32, np.uint32), memory.maxima)
    assert len(row) % TOGETHER == 0
    for temperature in (0.0, 1.0):
        assert draw(row, memory, sample_of(temperature=temperature), VOCABULARY) == NOT_DRAWN
