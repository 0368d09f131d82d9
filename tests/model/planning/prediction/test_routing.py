"""Drawn steps: as many experts as the router takes, as often as counted, computed by whom the kernels would choose."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numoe.kernels.experts.sharing import COLUMNS_OF_PANELS as KERNELS_COLUMNS
from numoe.kernels.experts.sharing import assign_experts
from numoe.model.planning.expert_owners import ExpertOwners, share_experts
from numoe.model.planning.prediction.routing import COLUMNS_OF_PANELS, assign, draw_steps, holders_of

STEPS = 4000


def test_each_token_takes_just_its_number_of_experts() -> None:
    shares = np.random.default_rng(1).dirichlet(np.ones(16), 3)
    counts = draw_steps(shares, 4, 5, 50)
    assert counts.shape == (3, 50, 16)
    assert (counts.sum(axis=-1) == 20).all()
    assert counts.max() <= 5


def test_experts_are_active_as_often_as_they_were_counted() -> None:
    shares = np.array([[0.24, 0.2, 0.16, 0.1, 0.1, 0.08, 0.07, 0.05]])
    counts = draw_steps(shares, 4, 1, STEPS)[0]
    chance = 4 * shares[0]
    five_sigma = 5 * np.sqrt(chance * (1 - chance) / STEPS)
    assert (np.abs(counts.mean(axis=0) - chance) <= five_sigma).all()


def test_an_expert_that_would_be_chosen_more_than_always_is_chosen_always() -> None:
    counts = draw_steps(np.array([[0.7, 0.1, 0.1, 0.1]]), 2, 1, STEPS)[0]
    assert (counts[:, 0] == 1).all()
    assert (counts.sum(axis=-1) == 2).all()


def test_the_same_arguments_give_the_same_steps() -> None:
    shares = np.full((2, 8), 1 / 8)
    assert (draw_steps(shares, 2, 3, 10) == draw_steps(shares, 2, 3, 10)).all()


@pytest.mark.parametrize(("replicas", "speed_up"), [(0, 1.58), (32, 1.85)])
def test_two_workers_of_uniform_experts_gain_what_is_calculated(replicas: int, speed_up: float) -> None:
    """8 of 128 experts, 64 on each worker: the busier computes 5.06 on average; a quarter replicated 4.3."""
    counts = draw_steps(np.full((1, 128), 1 / 128), 8, 1, STEPS)
    owners = assign(counts, holders_of([share_experts([1.0] * 128, 2, replicas)], 2))
    busier = np.maximum((owners == 0).sum(axis=-1), (owners == 1).sum(axis=-1)).mean()
    assert 8 / busier == pytest.approx(speed_up, rel=0.01)  # the busier one's deviation is 1: 0.4 % in 4000 steps


@st.composite
def layers(draw: st.DrawFn) -> tuple[int, list[ExpertOwners], np.ndarray[tuple[int, ...], np.dtype[np.int64]]]:
    workers, experts, count = draw(st.integers(1, 8)), draw(st.integers(1, 12)), draw(st.integers(1, 3))
    some = st.sets(st.integers(0, workers - 1), min_size=1).map(lambda held: tuple(sorted(held)))
    owners = [ExpertOwners(tuple(draw(st.lists(some, min_size=experts, max_size=experts)))) for _ in range(count)]
    counts = draw(st.lists(st.integers(0, 20), min_size=2 * count * experts, max_size=2 * count * experts))
    return workers, owners, np.array(counts, np.int64).reshape(count, 2, experts)


@given(layers())
def test_experts_are_assigned_as_the_kernels_assign_them(
    drawn: tuple[int, list[ExpertOwners], np.ndarray[tuple[int, ...], np.dtype[np.int64]]],
) -> None:
    workers, owners, counts = drawn
    found = assign(counts, holders_of(owners, workers))
    for layer, one in enumerate(owners):
        masks = np.array(one.masks, np.int32)
        for step in range(2):
            expected, loads = np.zeros(len(masks), np.int32), np.zeros(workers, np.int32)
            assign_experts(expected, loads, counts[layer, step].astype(np.int32), masks)
            assert found[layer, step].tolist() == expected.tolist()


def test_a_panel_weighs_as_much_as_in_the_kernels() -> None:
    assert COLUMNS_OF_PANELS == KERNELS_COLUMNS
