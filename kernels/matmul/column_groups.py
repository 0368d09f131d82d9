"""How columns share tiles: groups of columns that a tile takes at once, segments of groups over the same panels."""

from __future__ import annotations

from numoe.kernels.cpu.jit import kernel
from numoe.kernels.matmul.groups import GROUPS, LEAST_COLUMNS, WIDEST, WIDTHS
from numoe.kernels.records import Grouping

# Groups of one segment of a dense matrix: 96 columns of 4096 values are 0.6 MB, which stay in the second-level cache
# while the panels go by. Experts rarely have more, and reading their panels again costs more than it saves.
GROUPS_AT_ONCE = 8


@kernel
def width_for(count: int) -> int:
    """The index in WIDTHS of the widest tile that `count` columns fill well enough."""
    for index in range(len(WIDTHS) - 1, 0, -1):
        if count >= LEAST_COLUMNS[index]:
            return index
    return 0


@kernel
def width_over(count: int) -> int:
    """The index in WIDTHS of the narrowest tile that holds `count` columns."""
    index = 0
    while WIDTHS[index] < count:
        index += 1
    return index


@kernel
def add_groups(grouping: Grouping, group: int, column: int, count: int) -> int:
    """Share `count` columns that start at `column` out to groups from index `group` on; returns the next free index."""
    while count > 0:
        width = width_for(count)
        part = min(count, WIDTHS[width])
        grouping.groups[group].column = column
        grouping.groups[group].x_column = column
        grouping.groups[group].width = width
        grouping.groups[group].count = part
        for index in range(WIDTHS[width]):
            grouping.column_group[column + index] = group if index < part else -1
        column += WIDTHS[width]
        count -= part
        group += 1
    return group


@kernel
def groups_alike(grouping: Grouping, first: int, end: int) -> int:
    """How many groups from `first` on, before `end`, a tile takes at once."""
    if WIDTHS[grouping.groups[first].width] < WIDEST:
        return 1
    most, count = min(end - first, GROUPS), 1
    while count < most and WIDTHS[grouping.groups[first + count].width] == WIDEST:
        count += 1
    return count


@kernel
def columns_end(grouping: Grouping, groups: int) -> int:
    """The first column after the last of `groups` groups."""
    last = grouping.groups[groups - 1]
    return last.column + WIDTHS[last.width]


@kernel
def add_segments(grouping: Grouping, first: int, last: int) -> None:
    """Let groups first .. last - 1, of expert 0, be all that is used."""
    segments = 0
    for group in range(first, last, GROUPS_AT_ONCE):
        grouping.segments[segments].expert = 0
        grouping.segments[segments].first_group = group
        grouping.segments[segments].groups = min(last - group, GROUPS_AT_ONCE)
        segments += 1
    grouping.used[0] = segments


@kernel
def group_all(grouping: Grouping, count: int) -> int:
    """Group columns 0 .. count - 1, of expert 0; returns how many groups they are."""
    groups = add_groups(grouping, 0, 0, count)
    add_segments(grouping, 0, groups)
    grouping.used[1] = columns_end(grouping, groups)
    return groups
