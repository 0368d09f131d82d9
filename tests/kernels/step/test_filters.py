"""Typical-p, XTC, top-n-sigma and a temperature that comes last leave what their twins leave, and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from numoe.kernels.step.sampling import PADDING, keep_sigmas
from tests.kernels import reference
from tests.kernels.numeric import SEED
from tests.kernels.step.test_sampling import (
    VOCABULARY,
    Singles,
    draw_seconds,
    drawn,
    group_maxima,
    padded,
    sample_of,
    some_logits,
)

XTC = 0xA0761D6478BD642F  # what the seed of its chance is mixed with
FILTERS: list[dict[str, float]] = [
    {"typical_p": 0.5},
    {"typical_p": 0.95, "top_k": 40},
    {"typical_p": 0.2, "top_p": 0.8, "min_p": 0.1},
    {"xtc_probability": 1.0, "xtc_threshold": 0.01},
    {"xtc_probability": 0.5, "xtc_threshold": 0.1, "top_k": 20},
    {"temperature_last": 1, "min_p": 0.02},
    {"temperature_last": 1, "top_k": 40, "top_p": 0.9, "min_p": 0.05},
    {"temperature_last": 1, "typical_p": 0.8, "xtc_probability": 0.7, "xtc_threshold": 0.05},
]


def allowed_of(logits: Singles, sample: Any) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    chance = reference.uniform(int(sample["seed"]) ^ XTC, int(sample["position"]))
    return reference.filtered(logits.astype(np.float64), sample, xtc=chance < sample["xtc_probability"])


@pytest.mark.parametrize("fields", FILTERS, ids=str)
@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_every_draw_is_the_one_of_the_twin(temperature: float, fields: dict[str, float]) -> None:
    """Where a running sum of probabilities is within rounding of the random number, either neighbour may be drawn."""
    compared = 0
    for seed in range(150):
        logits = some_logits(seed=seed)
        sample = sample_of(temperature=temperature, seed=seed, position=3, **fields)
        ids, probabilities = allowed_of(logits, sample)
        sums, random = np.cumsum(probabilities), reference.uniform(seed, 3)
        if np.abs(sums - random).min() > 1e-5:
            assert drawn(logits, sample) == ids[min(int(np.searchsorted(sums, random, side="right")), len(ids) - 1)]
            compared += 1
    assert compared > 100


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 60),
    st.sampled_from([0, 1, 7, 300]),
    st.floats(0.05, 1.0),
    st.floats(0.05, 1.0),
    st.floats(0.0, 0.4),
    st.booleans(),
)
@settings(max_examples=300)
def test_only_what_the_twin_leaves_is_drawn(
    seed: int, levels: int, top_k: int, typical_p: float, top_p: float, threshold: float, last: bool
) -> None:
    """Logits of few levels, so that many are equal; a bound within rounding of a sum is no case of this test."""
    logits = (np.random.default_rng(seed).integers(0, levels, VOCABULARY) / 8).astype(np.float32)
    sample = sample_of(
        temperature=0.75, seed=seed, position=9, top_k=top_k, top_p=top_p, typical_p=typical_p,
        xtc_probability=1.0, xtc_threshold=threshold, temperature_last=last,
    )  # fmt: skip
    ids, probabilities = allowed_of(logits, sample)
    nudged = set()
    for factor in (1 - 1e-5, 1 + 1e-5):
        other = sample.copy()
        for name in ("top_p", "typical_p", "xtc_threshold"):
            other[name] = min(sample[name] * factor, 1.0) if sample[name] < 1 else 1.0
        nudged.add(tuple(allowed_of(logits, other)[0].tolist()))
    if nudged == {tuple(ids.tolist())}:
        assert drawn(logits, sample) in ids
    assert abs(probabilities.sum() - 1) < 1e-9


def test_typical_p_may_leave_out_the_likeliest() -> None:
    """The entropy is 3.2, the likeliest token says 0.9, each of the others 4.7."""
    logits = np.log(np.array([0.4] + [0.6 / 63] * 63)).astype(np.float32)
    tokens = {drawn(logits, sample_of(temperature=1.0, typical_p=0.3, seed=seed)) for seed in range(400)}
    assert tokens == set(range(1, 33))  # 32 of them have 0.305


def test_xtc_leaves_the_least_likely_of_the_likely_and_all_others() -> None:
    logits = np.log(np.array([0.4, 0.3, 0.2, 0.05, 0.05])).astype(np.float32)
    fields = {"temperature": 1.0, "xtc_probability": 1.0, "xtc_threshold": 0.15}
    assert {drawn(logits, sample_of(seed=seed, **fields)) for seed in range(300)} == {2, 3, 4}
    off = fields | {"xtc_probability": 0.0}
    assert {drawn(logits, sample_of(seed=seed, **off)) for seed in range(300)} == {0, 1, 2, 3, 4}


def test_xtc_is_applied_as_often_as_it_should_be_and_apart_from_the_draw() -> None:
    """Of 4,000 draws 0.3: the deviation is 29."""
    logits = np.log(np.array([0.5, 0.5] + [1e-30] * 14)).astype(np.float32)
    fields = {"temperature": 1.0, "xtc_probability": 0.3, "xtc_threshold": 0.1}
    tokens = [drawn(logits, sample_of(seed=seed, **fields)) for seed in range(4000)]
    ones = sum(tokens)  # a half of those drawn without it, and all with it
    assert abs(ones - 4000 * (0.3 + 0.7 / 2)) < 5 * 31


@pytest.mark.parametrize("sigmas", [0.1, 1.0, 2.5, 50.0])
@pytest.mark.parametrize("vocabulary", [20, VOCABULARY, 5000])
def test_sigmas_keep_what_the_twin_keeps(vocabulary: int, sigmas: float) -> None:
    logits = (np.random.default_rng(SEED).standard_normal(vocabulary) * 3 + 40).astype(np.float32)
    logits[[3, 11]] = -np.inf
    row = padded(logits)
    maxima = group_maxima(row)
    keep_sigmas(row, maxima, logits.max(), sigmas)
    expected = reference.keep_sigmas(logits.astype(np.float64), sigmas)
    bound = expected[np.isfinite(expected)].min()
    clear = np.abs(logits - (logits.max() - sigmas * logits[np.isfinite(logits)].std())) > 1e-4
    assert row[:vocabulary][clear].tolist() == expected[clear].tolist()
    assert (
        maxima[: len(row) // 128].tolist()
        == np.where((peaks := row.reshape(-1, 128).max(axis=1)) >= bound, peaks, -np.inf).tolist()
    )
    assert PADDING not in row


def test_filters_of_a_large_vocabulary_are_those_of_its_best_candidates() -> None:
    for seed in range(6):
        logits = (np.random.default_rng(seed).standard_normal(40_000) * 2).astype(np.float32)
        sample = sample_of(temperature=1.1, seed=seed, position=4, typical_p=0.6, top_p=0.95)
        ids, probabilities = allowed_of(logits, sample)
        sums, random = np.cumsum(probabilities), reference.uniform(seed, 4)
        if np.abs(sums - random).min() > 1e-5:
            assert drawn(logits, sample) == ids[int(np.searchsorted(sums, random, side="right"))]


def test_filters_cost_what_other_filters_cost() -> None:
    """At most 60 times the processor time of a draw without filters, as top-p does."""
    filtered = draw_seconds(temperature=1.0, typical_p=0.9, xtc_probability=1.0, xtc_threshold=0.1)
    assert filtered < 60 * draw_seconds(temperature=1.0)
