"""Grouping gives every choice one column and every column one group."""

from __future__ import annotations

from random import Random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from numoe.kernels.experts.grouping import count_choices, count_run, group_by_expert
from numoe.kernels.experts.router import NOT_RUN
from numoe.kernels.records import Grouping
from numoe.protos.arena import expert_columns
from tests.kernels import reference
from tests.kernels.groupings import check_grouping, empty_grouping


@st.composite
def choices(draw: st.DrawFn) -> tuple[int, NDArray[np.int32]]:
    """A number of experts and the different experts of each token, [T, A]."""
    experts = draw(st.integers(1, 20))
    active = draw(st.integers(1, experts))
    tokens = draw(st.integers(1, 40))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    popular = random.permutation(experts)[: max(active, draw(st.integers(1, experts)))]
    chosen = np.array([random.permutation(popular)[:active] for _ in range(tokens)], np.int32)
    if draw(st.booleans()):  # some tokens run fewer
        chosen[np.arange(active) >= random.integers(1, active + 1, tokens)[:, None]] = NOT_RUN
    return experts, chosen


@settings(max_examples=200)
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
    for token, rank in np.argwhere(chosen != NOT_RUN):
        assert columns[token, rank] in columns_of[int(chosen[token, rank])]
        assert grouping.source[columns[token, rank]] == token
    assert (hits - np.arange(experts)).tolist() == [len(expected.get(expert, [])) for expert in range(experts)]
    groups = grouping.groups[: int(grouping.segments["groups"][: grouping.used[0]].sum())]
    assert np.all(groups["x_column"] == (0 if tokens == 1 else groups["column"]))


@settings(max_examples=200)
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


@settings(max_examples=50)
@given(choices(), st.integers(1, 5), st.randoms(use_true_random=False))
def test_what_each_sequence_runs_is_added_up(
    case: tuple[int, NDArray[np.int32]], sequences: int, random: Random
) -> None:
    _, chosen = case
    of_token = np.array([random.randrange(sequences) for _ in chosen], np.int32)
    run = np.arange(sequences)
    count_run(run, of_token, chosen, len(chosen))
    ran = (chosen != NOT_RUN).sum(axis=1)
    assert (run - np.arange(sequences)).tolist() == [int(ran[of_token == one].sum()) for one in range(sequences)]
