"""The router chooses what its twin chooses, and grouping gives every choice one column and every column one group."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from numoe.kernels.experts.router import (
    ROUTED_TOKENS,
    assign_experts,
    choose_experts,
    count_choices,
    group_by_expert,
    share_routing,
)
from numoe.kernels.matmul.column_groups import COLUMNS_OF_PANELS, GROUPS_AT_ONCE, group_all
from numoe.kernels.matmul.groups import WIDEST
from numoe.kernels.records import Grouping
from numoe.protos.arena import dense_columns, expert_columns
from tests.kernels import reference
from tests.kernels.groupings import check_grouping, empty_grouping
from tests.kernels.numeric import SEED, UNIT, assert_within, gamma


def chosen_of(
    logits: NDArray[np.float32], active: int, padding: float = np.nan
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    chosen, shares = np.full(active, -1, np.int32), np.full(active, np.nan, np.float32)
    padded = np.append(logits, np.full(-len(logits) % 16, padding, np.float32))
    choose_experts(chosen, shares, padded, len(logits))
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


def test_of_equal_logits_the_lower_expert_comes_first() -> None:
    chosen, shares = chosen_of(np.array([1, 5, 5, 1, 5, 1, 1], np.float32), 5)
    assert chosen.tolist() == [1, 2, 4, 0, 3]
    assert shares[0] == shares[1] == shares[2]
    assert chosen_of(np.zeros(128, np.float32), 8)[0].tolist() == list(range(8))


def test_experts_without_any_probability_are_chosen_with_share_zero() -> None:
    chosen, shares = chosen_of(np.array([-200, 0, -300, -200], np.float32), 3)
    assert chosen.tolist() == [1, 0, 2]
    assert shares.tolist() == [1.0, 0.0, 0.0]


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
        chosen, _ = chosen_of(broken, 4)
        assert len(set(chosen.tolist())) == 4
        assert all(0 <= expert < 16 for expert in chosen)


@st.composite
def choices(draw: st.DrawFn) -> tuple[int, NDArray[np.int32]]:
    """A number of experts and the different experts of each token, [T, A]."""
    experts = draw(st.integers(1, 20))
    active = draw(st.integers(1, experts))
    tokens = draw(st.integers(1, 40))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    popular = random.permutation(experts)[: max(active, draw(st.integers(1, experts)))]
    return experts, np.array([random.permutation(popular)[:active] for _ in range(tokens)], np.int32)


@settings(max_examples=200, deadline=None)
@given(choices())
def test_every_choice_has_a_column_in_a_group_of_its_expert(case: tuple[int, NDArray[np.int32]]) -> None:
    experts, chosen = case
    tokens, active = chosen.shape
    grouping = empty_grouping(expert_columns(tokens, active, experts), experts)
    columns = np.full((tokens, active), -1, np.int32)
    hits, counts = np.arange(experts), np.full(experts, 77, np.int32)
    count_choices(counts, hits, chosen, tokens)
    group_by_expert(grouping, columns, counts, chosen, tokens, np.zeros(experts, np.int32), -1)
    columns_of = check_grouping(grouping)
    expected = reference.group_by_expert(chosen)
    assert list(columns_of) == list(expected)
    for expert, tokens_of in expected.items():
        assert [int(grouping.source[column]) for column in columns_of[expert]] == tokens_of
    for token, rank in np.ndindex(chosen.shape):
        assert columns[token, rank] in columns_of[int(chosen[token, rank])]
        assert grouping.source[columns[token, rank]] == token
    assert (hits - np.arange(experts)).tolist() == [len(expected.get(expert, [])) for expert in range(experts)]
    groups = grouping.groups[: int(grouping.segments["groups"][: grouping.used[0]].sum())]
    assert np.all(groups["x_column"] == (0 if tokens == 1 else groups["column"]))


@settings(max_examples=200, deadline=None)
@given(choices(), st.integers(1, 8), st.randoms(use_true_random=False))
def test_workers_of_whole_experts_share_the_columns_that_one_would_have(
    case: tuple[int, NDArray[np.int32]], workers: int, random: Random
) -> None:
    """Each column in the group of one worker, numbered as if experts were split by row."""
    experts, chosen = case
    tokens, active = chosen.shape
    owners = np.array([random.randrange(workers) for _ in range(experts)], np.int32)

    def grouped(worker: int) -> tuple[Grouping, NDArray[np.int32]]:
        grouping = empty_grouping(expert_columns(tokens, active, experts), experts)
        columns, counts = np.full((tokens, active), -1, np.int32), np.zeros(experts, np.int32)
        count_choices(counts, np.zeros(experts, np.int64), chosen, tokens)
        group_by_expert(grouping, columns, counts, chosen, tokens, owners, worker)
        return grouping, columns

    whole, columns = grouped(-1)
    end = int(whole.used[1])
    found = np.full(end, -1)
    for worker in range(workers):
        grouping, same = grouped(worker)
        np.testing.assert_array_equal(same, columns)
        assert grouping.used[1] == end
        for segment in grouping.segments[: grouping.used[0]]:
            assert owners[segment["expert"]] == worker
            for number in range(segment["first_group"], segment["first_group"] + segment["groups"]):
                group = grouping.groups[number]
                for column in range(group["column"], group["column"] + group["count"]):
                    assert found[column] == -1
                    assert grouping.column_group[column] == number
                    found[column] = worker
                    assert grouping.source[column] == whole.source[column]
        others = found[:end] != worker
        assert np.all(grouping.column_group[:end][others] == -1)
    np.testing.assert_array_equal(found >= 0, whole.column_group[:end] >= 0)


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 8).flatmap(lambda workers: st.tuples(
    st.just(workers), st.lists(st.tuples(st.integers(0, 40), st.integers(1, 2**workers - 1)), min_size=1, max_size=30)
)))  # fmt: skip
def test_active_experts_go_to_holders_and_none_could_finish_sooner_elsewhere(
    case: tuple[int, list[tuple[int, int]]],
) -> None:
    workers, experts = case
    counts, holders = (np.array(column, np.int32) for column in zip(*experts, strict=True))
    owners, loads = np.full(len(experts), 77, np.int32), np.full(workers, 77, np.int32)
    assign_experts(owners, loads, counts, holders)
    expected = np.zeros(workers, np.int64)
    for expert, (count, mask) in enumerate(experts):
        if count == 0:
            assert owners[expert] == -1
        else:
            assert mask >> owners[expert] & 1
            expected[owners[expert]] += count + COLUMNS_OF_PANELS
    np.testing.assert_array_equal(loads, expected)
    choices = [(-count, expert) for expert, (count, mask) in enumerate(experts) if count and mask & (mask - 1)]
    if choices:
        last = max(choices)[1]  # of the lightest the last: nothing was given out after it
        count, mask = experts[last]
        before = loads[owners[last]] - count - COLUMNS_OF_PANELS
        assert all(before <= loads[worker] for worker in range(workers) if mask >> worker & 1)


@pytest.mark.parametrize("tokens", [*range(1, 20), 100, 500])
def test_all_tokens_are_grouped_as_one_expert(tokens: int) -> None:
    grouping = empty_grouping(dense_columns(tokens), 1)
    group_all(grouping, tokens)
    columns_of = check_grouping(grouping)
    assert list(columns_of) == [0]
    assert len(columns_of[0]) == tokens
    assert columns_of[0][-1] == tokens - 1  # only the last group has padding, so column and token are one
    groups = grouping.segments["groups"][: grouping.used[0]].tolist()
    assert groups[:-1] == [GROUPS_AT_ONCE] * (len(groups) - 1)
    assert groups[-1] <= GROUPS_AT_ONCE


@pytest.mark.parametrize("tokens", [1, 12, 47, 48, 96, 97, 200, 512])
@pytest.mark.parametrize("workers", [1, 2, 3, 7])
def test_each_token_is_routed_by_one_worker_or_by_all(tokens: int, workers: int) -> None:
    dense = empty_grouping(dense_columns(tokens), 1)
    groups, found = group_all(dense, tokens), []
    for worker in range(workers):
        own = empty_grouping(dense_columns(tokens), 1)
        routed, starts = dense._replace(segments=own.segments, used=own.used), np.full(workers + 1, 77, np.int32)
        share_routing(routed, starts, groups, tokens, worker)
        chosen: list[int] = []
        for segment in routed.segments[: routed.used[0]]:
            assert 0 < segment["groups"] <= GROUPS_AT_ONCE
            for group in dense.groups[segment["first_group"] :][: segment["groups"]]:
                chosen += range(group["column"], group["column"] + group["count"])
        shared = workers > 1 and tokens >= ROUTED_TOKENS * workers
        assert starts[-1] == (tokens if shared else 0)
        if shared:
            assert chosen == list(range(starts[worker], starts[worker + 1]))
            assert abs(len(chosen) - tokens / workers) < WIDEST
            found += chosen
        else:
            found = chosen
    assert found == list(range(tokens))
