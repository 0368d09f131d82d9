"""Divergences and their statistics, against a plain computation in float64."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray

from numoe.coordinator.measuring import divergence
from numoe.coordinator.measuring.divergence import Comparison, compare, compare_all, join, pack_all, statistics_of
from numoe.coordinator.measuring.evaluation import Predictions
from numoe.coordinator.measuring.saved_logits import Words, levels, pack_rows
from numoe.coordinator.workers.group import HostGroup

VOCABULARY, ROWS = 37, 120
RANDOM = np.random.default_rng(1)
BASE = RANDOM.normal(0, 3, (ROWS, VOCABULARY)).astype(np.float32)
LOGITS = BASE + RANDOM.normal(0, 0.3, BASE.shape).astype(np.float32) + np.float32(5)
TARGETS = RANDOM.integers(0, VOCABULARY, ROWS, np.int32)
WORDS = pack_rows(BASE)


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    values = logits.astype(np.float64)
    found: NDArray[np.float64] = values - np.logaddexp.reduce(values, axis=1, keepdims=True)
    return found


def saved_log_probabilities(words: Words) -> NDArray[np.float64]:
    scale, least, numbers = levels(words, VOCABULARY)
    return numbers.astype(np.float64) * scale + least


def test_each_position_is_compared_by_the_definitions() -> None:
    found = compare(LOGITS, WORDS, TARGETS)
    model, base, at = log_softmax(LOGITS), saved_log_probabilities(WORDS), (np.arange(ROWS), TARGETS)
    kl = np.where(base > -16, np.exp(base) * (base - model), 0).sum(axis=1)
    # Sums are of float32 exponentials, each right to 2 units in the last place.
    np.testing.assert_allclose(found.nll, -model[at], atol=3e-7)
    np.testing.assert_allclose(found.base_nll, -base[at])
    np.testing.assert_allclose(found.divergence, kl, atol=3e-7)
    np.testing.assert_allclose(found.change, np.exp(model[at]) - np.exp(base[at]), atol=3e-7)
    np.testing.assert_array_equal(found.same_top, LOGITS.argmax(axis=1) == BASE.argmax(axis=1))
    assert 0 < found.same_top.sum() < ROWS


def test_tokens_that_were_raised_when_they_were_saved_do_not_count() -> None:
    base = np.array([[0.0, -20.0, -30.0]], np.float32)
    found = compare(np.array([[0.0, -90.0, -17.0]], np.float32), pack_rows(base), np.zeros(1, np.int32))
    assert found.divergence[0] == pytest.approx(0, abs=1e-6)


def test_slices_that_threads_share_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    class Group:
        def logits(self, rows: slice) -> NDArray[np.float32]:
            return LOGITS[rows]

    monkeypatch.setattr(divergence, "SLICE_VALUES", 3 * VOCABULARY)
    rows = slice(7, 60)
    found = Predictions(0, rows.start, TARGETS[rows], np.zeros(53), cast(HostGroup, Group()))
    with ThreadPoolExecutor(3) as threads:
        parts = compare_all(found, WORDS[rows], threads, VOCABULARY)
        np.testing.assert_array_equal(pack_all(found, threads, VOCABULARY), pack_rows(LOGITS[rows]))
    whole = compare(LOGITS[rows], WORDS[rows], TARGETS[rows])
    for name in ("nll", "base_nll", "divergence", "change", "same_top"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))


def test_statistics_are_means_with_their_errors() -> None:
    found = compare(LOGITS, WORDS, TARGETS)
    told, root = statistics_of(found), ROWS**0.5
    error = {
        name: float(getattr(found, name).std(ddof=1)) / root for name in ("nll", "base_nll", "divergence", "change")
    }
    perplexity, base = np.exp(found.nll.mean()), np.exp(found.base_nll.mean())
    assert (told.perplexity.value, told.perplexity.error) == pytest.approx((perplexity, perplexity * error["nll"]))
    assert (told.base_perplexity.value, told.base_perplexity.error) == pytest.approx((base, base * error["base_nll"]))
    assert told.correlation == pytest.approx(np.corrcoef(found.nll, found.base_nll)[0, 1])
    ratios = found.nll - found.base_nll
    spread = float(ratios.std(ddof=1)) / root
    assert (told.log_ratio.value, told.log_ratio.error) == pytest.approx((ratios.mean(), spread))
    assert (told.ratio.value, told.ratio.error) == pytest.approx((perplexity / base, perplexity / base * spread))
    assert told.difference.value == pytest.approx(perplexity - base)
    # The error of a difference of exps, by their slopes.
    slopes = perplexity * found.nll - base * found.base_nll
    assert told.difference.error == pytest.approx(float(slopes.std(ddof=1)) / root)
    assert (told.divergence.value, told.divergence.error) == pytest.approx(
        (found.divergence.mean(), error["divergence"])
    )
    assert (told.change.value, told.change.error) == pytest.approx((found.change.mean(), error["change"]))
    squares = np.square(found.change)
    rms = squares.mean() ** 0.5
    expected = (rms, float(squares.std(ddof=1)) / root / (2 * rms))
    assert (told.change_rms.value, told.change_rms.error) == pytest.approx(expected)
    same = found.same_top.mean()
    assert (told.same_top.value, told.same_top.error) == pytest.approx((same, (same * (1 - same) / (ROWS - 1)) ** 0.5))


def test_the_same_predictions_differ_by_nothing_and_few_have_no_error() -> None:
    values = np.linspace(1, 2, 20)
    same = Comparison(values, values, np.zeros(20), np.zeros(20), np.ones(20, np.bool_))
    told = statistics_of(same)
    assert (told.ratio.value, told.ratio.error, told.change_rms.value, told.same_top.error) == (1, 0, 0, 0)
    assert told.correlation == pytest.approx(1)
    few = statistics_of(join([Comparison(*(getattr(same, name)[:1] for name in same.__slots__)) for _ in range(2)]))
    assert few.perplexity.error == 0
