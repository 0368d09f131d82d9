"""Perplexity and its error, against a plain computation."""

from __future__ import annotations

import numpy as np
import pytest

from numoe.coordinator.measuring.likelihoods import Likelihoods


def test_perplexity_is_exp_of_the_mean_and_its_error_that_of_the_mean() -> None:
    found, values = Likelihoods(), np.log(np.random.default_rng(0).uniform(0.01, 1, 50))
    for part in np.split(values, [7, 20]):
        found.add(part)
    expected = np.exp(-values.mean())
    assert found.count == 50
    assert found.perplexity.value == pytest.approx(expected)
    assert found.perplexity.error == pytest.approx(expected * values.std(ddof=1) / 50**0.5)


def test_one_token_has_no_error_and_a_hopeless_one_no_overflow() -> None:
    one = Likelihoods()
    one.add(np.array([-2.0]))
    assert one.perplexity.value == pytest.approx(float(np.exp(2.0)))
    assert one.perplexity.error == 0
    hopeless = Likelihoods()
    hopeless.add(np.array([-1e4]))
    assert hopeless.perplexity.value == np.inf
