"""Columns are shared out to groups without gaps, and groups to segments."""

from __future__ import annotations

import pytest

from numoe.kernels.matmul.column_groups import GROUPS_AT_ONCE, group_all
from numoe.protos.arena import dense_columns
from tests.kernels.groupings import check_grouping, empty_grouping


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
