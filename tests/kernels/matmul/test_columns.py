"""Columns are gathered from all workers, normalised, and written in the forms that are needed."""

from __future__ import annotations

import numba
import numpy as np
import pytest
from numba import types
from numpy.typing import NDArray

from numoe.kernels.matmul.activations import block_bytes, write_column
from numoe.kernels.matmul.column_groups import group_all
from numoe.kernels.matmul.columns import ATTENTION, INTERMEDIATE, collect, gather_row, prepare
from numoe.kernels.matmul.groups import FLOAT_BYTES, INTEGER_BYTES, WIDTHS
from numoe.kernels.records import PART, Grouping, Memory
from numoe.kernels.weights.formats import BLOCK
from numoe.model.planning.assignment import layout_of
from numoe.protos.arena import dense_columns
from numoe.worker.placing.memory import allocate
from numoe.worker.running.step_memory import memory_of
from numoe.worker.running.warm import smallest_assignment
from tests.kernels import reference
from tests.kernels.groupings import empty_grouping
from tests.kernels.numeric import SEED, address, assert_within, gamma
from tests.kernels.threads.teams import TeamWords

Singles = NDArray[np.float32]


def parts_of(slices: list[Singles]) -> NDArray[np.void]:
    """Workers' parts that hold slices of the residual stream."""
    parts = np.zeros(len(slices), PART)
    for part, held in zip(parts, slices, strict=True):
        part["hidden"], part["width"] = held.ctypes.data, held.shape[1]
    return parts


def test_a_row_is_put_together_from_all_slices_empty_ones_too() -> None:
    x = np.arange(4 * 96, dtype=np.float32).reshape(4, 96)
    slices = [np.ascontiguousarray(part) for part in np.split(x, [32, 32, 80], axis=1)]
    out = np.zeros(96, np.float32)
    gather_row(address(out), parts_of(slices), 2)
    np.testing.assert_array_equal(out, x[2])


def test_an_address_is_never_held_as_a_float() -> None:
    """A variable that is given an unsigned number, then a signed one, is a float64 to Numba: exact below 2**53 only."""
    compiled = numba.njit(error_model="numpy")(gather_row.py_func)  # type: ignore[attr-defined]
    x = np.zeros((1, 96), np.float32)
    compiled(address(x), parts_of([x[:, :32].copy(), x[:, 32:].copy()]), 0)
    compiled(np.uintp(address(x)), parts_of([x]), 0)
    for overload in compiled.overloads.values():
        held = {name: kind for name, kind in overload.type_annotation.typemap.items() if isinstance(kind, types.Float)}
        assert held == {}


def groups_of(x: Singles, grouping: Grouping, integer: bool) -> NDArray[np.uint8]:
    """Tokens' rows [T, n] in groups."""
    blocks = x.shape[1] // BLOCK
    groups = np.zeros((int(grouping.used[1]), blocks * block_bytes(integer)), np.uint8)
    for token, row in enumerate(np.ascontiguousarray(x)):
        group = grouping.groups[grouping.column_group[token]]
        first = int(group["column"])
        place = address(groups) + first * blocks * block_bytes(integer)
        write_column(place, WIDTHS[group["width"]], token - first, address(row), blocks, integer)
    return groups


@pytest.mark.parametrize("tokens", [1, 3, 13, 40])
@pytest.mark.parametrize("integer", [False, True])
@pytest.mark.parametrize("kind", [ATTENTION, INTERMEDIATE])
@pytest.mark.parametrize("cuts", [(), (32, 32, 96)])
def test_collected_columns_are_those_that_are_written_whole(
    kind: int, integer: bool, tokens: int, cuts: tuple[int, ...]
) -> None:
    """One worker's are its own, without a copy."""
    x = np.random.default_rng(SEED).standard_normal((tokens, 160), np.float32)
    grouping = empty_grouping(dense_columns(tokens), 1)
    group_all(grouping, tokens)
    slices = np.split(x, cuts, axis=1)
    held = [groups_of(part, grouping, integer) for part in slices]
    parts = np.zeros(len(held), PART)
    array, width = ("attention", "attention_width") if kind == ATTENTION else ("intermediate", "expert_width")
    for part, groups, columns in zip(parts, held, slices, strict=True):
        part[array], part[width] = groups.ctypes.data, columns.shape[1]
    expected = groups_of(x, grouping, integer)
    out = np.full_like(expected, 77)
    words = TeamWords(1)
    place = collect(words.team(0, 0, 1), parts, kind, grouping, int(integer), address(out))
    assert place == (address(out) if cuts else address(held[0]))
    np.testing.assert_array_equal(out if cuts else held[0], expected)


def some_memory(width: int, parts: NDArray[np.void]) -> Memory:
    """Working memory of the types that the step has, for rows of `width`."""
    assignment = smallest_assignment()
    layout = layout_of(assignment.spec, assignment.plan, assignment.limits)
    memory = memory_of(assignment, layout, allocate(layout.bytes), allocate(64))
    return memory._replace(rows=np.full((1, width), np.nan, np.float32), parts=parts)


@pytest.mark.parametrize("tokens", [1, 3, 8, 13])
def test_columns_are_gathered_normalised_and_written_in_both_forms(tokens: int) -> None:
    random, width = np.random.default_rng(SEED), 96
    x = random.standard_normal((tokens, width), np.float32)
    weight = random.standard_normal(width, np.float32)
    slices = [x[:, :32].copy(), x[:, 32:].copy()]
    columns, blocks = dense_columns(tokens), width // BLOCK
    grouping = empty_grouping(columns, 1)
    group_all(grouping, tokens)
    source = grouping.source[:] = np.arange(columns)[::-1] % tokens  # columns need not be in the rows' order
    integers, floats = (np.zeros((columns, blocks * unit), np.uint8) for unit in (INTEGER_BYTES, FLOAT_BYTES))
    memory = some_memory(width, parts_of(slices))
    memory = memory._replace(dense=grouping, x_integer=integers.reshape(-1), x_float=floats.reshape(-1))
    words = TeamWords(1)
    prepare(words.team(0, 0, 1), memory, width, address(weight), 1e-6, 1, 1)
    for column in range(int(grouping.used[1])):
        number = int(grouping.column_group[column])
        if number < 0:
            continue
        group = grouping.groups[number]
        first, count = int(group["column"]), WIDTHS[group["width"]]
        row = x[source[column]].astype(np.float64)
        expected = reference.rms_norm(row, weight.astype(np.float64), 1e-6)
        written = floats[first : first + count].view(np.float32).reshape(blocks, count, BLOCK)
        found = np.ascontiguousarray(written[:, column - first]).reshape(-1)
        assert_within(found, expected, gamma(12) * np.abs(expected))
        again = np.zeros(count * blocks * INTEGER_BYTES, np.uint8)
        reference.write_integer_column(again, count, column - first, found, blocks)
        rounded, expected = (
            reference.integer_columns(group, count, blocks)[column - first]
            for group in (integers[first : first + count].reshape(-1), again)
        )
        np.testing.assert_array_equal(rounded, expected)
