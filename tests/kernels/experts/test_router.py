"""The router chooses what its twin chooses."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from numoe.kernels.experts.router import NOT_RUN, PARTS, choose_experts
from numoe.protos.expert_reduction import ALL_EXPERTS, ExpertReduction
from tests.forward import route
from tests.kernels import reference
from tests.kernels.numeric import SEED, UNIT, assert_within, gamma


def chosen_of(
    logits: NDArray[np.float32], active: int, padding: float = np.nan, experts: ExpertReduction = ALL_EXPERTS
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Experts and shares of a row of logits."""
    chosen, shares = np.full(active, -1, np.int32), np.full(active, np.nan, np.float32)
    padded = np.append(logits, np.full(-len(logits) % 16, padding, np.float32))
    padded = np.stack([padded, *np.zeros((PARTS - 1, len(padded)), np.float32)])
    choose_experts(chosen, shares, padded, len(logits), experts.fewest, np.float32(experts.threshold))
    return chosen, shares


@pytest.mark.parametrize("experts", [2, 8, 16, 60, 128])
@pytest.mark.parametrize("spread", [0.1, 2.0, 10.0])
def test_experts_and_shares_equal_their_twin(experts: int, spread: float) -> None:
    """A share is a quotient of sums of positive numbers: each exponential has the error of its rounded argument and 2
    units; E / 16 + 4 additions and a reciprocal make the scale, which cancels; then A additions and a quotient.
    """
    random, active = np.random.default_rng(SEED), min(8, experts)
    for _ in range(20):
        logits = (random.standard_normal(experts) * spread).astype(np.float32)
        chosen, shares = chosen_of(logits, active)
        expected, expected_shares = reference.choose_experts(logits.astype(np.float64), active)
        np.testing.assert_array_equal(chosen, expected)
        of_weight = UNIT * float(np.ptp(logits)) + gamma(4 + 2)
        assert_within(shares, expected_shares, expected_shares * (2 * of_weight + gamma(active + 2)) + 2.0**-125)


def test_a_logit_is_the_sum_of_its_parts_in_order() -> None:
    """At 1e8 float32 has steps of 8: what is added to it from left to right is lost, what is added after it is not."""
    parts = np.array([[0, 1e8, -1e8], [0, 3, 1e8], [0, 3, 3], [0, -1e8, 3]], np.float32)
    logits = np.pad(parts, ((0, 0), (0, 13)))
    chosen, shares = np.zeros(3, np.int32), np.zeros(3, np.float32)
    choose_experts(chosen, shares, logits, 3, ALL_EXPERTS.fewest, np.float32(0.0))
    assert chosen.tolist() == [2, 0, 1]
    assert shares[1] == shares[2]


def test_of_equal_logits_the_lower_expert_comes_first() -> None:
    chosen, shares = chosen_of(np.array([1, 5, 5, 1, 5, 1, 1], np.float32), 5)
    assert chosen.tolist() == [1, 2, 4, 0, 3]
    assert shares[0] == shares[1] == shares[2]
    assert chosen_of(np.zeros(128, np.float32), 8)[0].tolist() == list(range(8))


def test_experts_without_any_probability_are_chosen_with_share_zero() -> None:
    chosen, shares = chosen_of(np.array([-200, 0, -300, -200], np.float32), 3)
    assert chosen.tolist() == [1, 0, 2]
    assert shares.tolist() == [1.0, 0.0, 0.0]


@pytest.mark.parametrize("fewest", [1, 2, 5, 8, 20])
@pytest.mark.parametrize("threshold", [0.0, 0.05, 0.3, 1.0])
def test_fewer_experts_are_the_most_probable_ones(fewest: int, threshold: float) -> None:
    random, reduction = np.random.default_rng(SEED), ExpertReduction(fewest, threshold)
    for _ in range(20):
        logits = random.standard_normal(60).astype(np.float32)
        every, _ = chosen_of(logits, 8)
        chosen, shares = chosen_of(logits, 8, experts=reduction)
        _, expected = route(logits[None].astype(np.float64), 8, reduction)
        kept = np.count_nonzero(expected)
        assert kept == (8 if threshold == 0 else max(kept, min(fewest, 8)))
        assert chosen.tolist() == [*every[:kept].tolist(), *[NOT_RUN] * (8 - kept)]
        np.testing.assert_allclose(shares, expected[0], rtol=1e-5)
        assert not shares[kept:].any()


def test_with_a_threshold_of_one_what_is_as_probable_as_the_first_is_run_too() -> None:
    logits = np.array([1, 5, 5, 1, 5, 1, 1], np.float32)
    chosen, shares = chosen_of(logits, 5, experts=ExpertReduction(1, 1.0))
    assert chosen.tolist() == [1, 2, 4, NOT_RUN, NOT_RUN]
    np.testing.assert_allclose(shares, [1 / 3] * 3 + [0, 0], rtol=1e-6)


def test_one_expert_alone_has_all_of_the_weight() -> None:
    for logits in (np.arange(128), np.arange(128) * 30.0, -np.arange(128) * 1e30):
        chosen, shares = chosen_of(logits.astype(np.float32), 8, experts=ExpertReduction(1, 1.0))
        assert chosen.tolist() == [int(np.argmax(logits)), *[NOT_RUN] * 7]
        assert shares.tolist() == [1.0, *[0.0] * 7]


def test_broken_logits_show_with_fewer_experts_too() -> None:
    logits = np.array([0, np.nan, 1, 2] * 4, np.float32)
    assert np.isnan(chosen_of(logits, 4, experts=ExpertReduction(1, 1.0))[1][0])


@pytest.mark.parametrize("padding", [np.nan, np.inf, 3e38])
def test_padding_is_never_chosen_whatever_it_holds(padding: float) -> None:
    random = np.random.default_rng(SEED)
    logits = random.standard_normal(20).astype(np.float32)
    chosen, shares = chosen_of(logits, 20, padding)
    assert sorted(chosen.tolist()) == list(range(20))
    np.testing.assert_array_equal(shares, chosen_of(logits, 20, 0.0)[1])


@pytest.mark.parametrize("logit", [np.nan, np.inf, -np.inf])
def test_broken_logits_still_choose_different_experts(logit: float) -> None:
    for broken in (np.full(16, logit, np.float32), np.array([0, logit, 1, 2] * 4, np.float32)):
        chosen, shares = chosen_of(broken, 4)
        assert np.isnan(shares).all() or (logit == -np.inf and np.isfinite(broken).any())
        assert len(set(chosen.tolist())) == 4
        assert all(0 <= expert < 16 for expert in chosen)
