"""Groupings of columns, empty and checked."""

from __future__ import annotations

import numpy as np

from numoe.kernels.matmul.column_groups import GROUPS_AT_ONCE
from numoe.kernels.matmul.groups import WIDTHS
from numoe.kernels.records import GROUP, SEGMENT, Grouping


def empty_grouping(columns: int, experts: int) -> Grouping:
    """Room for so many columns; every word is garbage."""
    grouping = Grouping(
        groups=np.zeros(columns, GROUP),
        segments=np.zeros(experts + columns // GROUPS_AT_ONCE, SEGMENT),
        column_group=np.full(columns, 77, np.int32),
        source=np.full(columns, 77, np.int32),
        used=np.full(2, 77, np.int32),
    )
    for records in (grouping.groups, grouping.segments):
        records.view(np.int32)[:] = 77
    return grouping


def check_grouping(grouping: Grouping) -> dict[int, list[int]]:
    """Hold a grouping to its promises; returns the columns of each expert.

    Segments, groups and columns follow each other without gaps; groups are full but for an expert's last, which has at
    most 1 column of padding, and never wider than the one before; a column knows its group, and padding has none.
    """
    segments, end = int(grouping.used[0]), int(grouping.used[1])
    group, column = 0, 0
    ends = {int(one["expert"]): one["first_group"] + one["groups"] for one in grouping.segments[:segments]}
    columns_of: dict[int, list[int]] = {}
    for segment in grouping.segments[:segments]:
        assert segment["first_group"] == group
        assert segment["groups"] > 0
        expert = int(segment["expert"])
        if expert not in columns_of:
            columns_of[expert], before = [], WIDTHS[-1]
        for index in range(group, group + int(segment["groups"])):
            number, record = index, grouping.groups[index]
            width, count = WIDTHS[record["width"]], int(record["count"])
            last = index == ends[expert] - 1
            assert record["column"] == column
            assert width <= before
            assert width - 1 <= count <= width if last else count == width
            before = width
            expected = [number] * count + [-1] * (width - count)
            assert grouping.column_group[column : column + width].tolist() == expected
            columns_of[expert].extend(range(column, column + count))
            column += width
        group += int(segment["groups"])
    assert column == end
    return columns_of
