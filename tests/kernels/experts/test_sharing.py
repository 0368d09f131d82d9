"""Tokens and active experts are shared out to the workers, each to one of those that may have it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from numoe.kernels.experts.sharing import COLUMNS_OF_PANELS, ROUTED_TOKENS, SHARED_TOKENS, assign_experts, share_routing
from numoe.kernels.matmul.column_groups import GROUPS_AT_ONCE, group_all
from numoe.kernels.matmul.groups import WIDEST
from numoe.protos.arena import dense_columns
from tests.kernels.groupings import empty_grouping


@settings(max_examples=300)
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
        assert starts[SHARED_TOKENS] == (tokens if shared else 0)
        if shared:
            assert chosen == list(range(starts[worker], starts[worker + 1]))
            assert abs(len(chosen) - tokens / workers) < WIDEST
            found += chosen
        else:
            found = chosen
    assert found == list(range(tokens))
