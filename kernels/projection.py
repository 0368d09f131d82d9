"""A matrix times the step's activations: gathering and writing columns, sharing the panels out, running the tiles."""

from __future__ import annotations

import numpy as np

from numoe.kernels.activations import copy_floats, rms_norm, write_float_column, write_integer_column
from numoe.kernels.groups import FLOAT_BYTES, INTEGER_BYTES, WIDTHS
from numoe.kernels.jit import kernel
from numoe.kernels.records import Grouping, Ints, Memory, Record, Records, Tiles
from numoe.kernels.simd import add, load_address, load_f32x16, store_f32x16
from numoe.kernels.sync import Team, barrier, claimed
from numoe.kernels.tiles import run_tile

HIDDEN, ATTENTION, INTERMEDIATE = range(3)  # what a row is gathered from
CLAIM_BYTES = 65536  # of weights per claim: 3 microseconds at 20 GB/s, against 0.1 for the claim


@kernel
def gather_row(row: int, parts: Records, kind: int, index: int) -> None:
    """Assemble row `index` from the slices of all workers."""
    for worker in range(parts.shape[0]):
        part = parts[worker]
        if kind == HIDDEN:
            address, width = part.hidden, part.width
        elif kind == ATTENTION:
            address, width = part.attention, part.attention_width
        else:
            address, width = part.intermediate, part.expert_width
        copy_floats(row, address + 4 * width * index, width)
        row += 4 * width


@kernel
def prepare(
    team: Team,
    memory: Memory,
    kind: int,
    grouping: Grouping,
    source: Ints,  # [columns] row of each column
    width: int,
    whole: int | np.uintp,  # address of [rows, width] to take rows from instead of the workers' slices, 0: those
    norm: int | np.uintp,  # address of RMSNorm weights, 0: no norm
    epsilon: float,
    integer: int,
    floating: int,
    x_integer: int,
    x_float: int,
) -> None:
    """Gather each column's row, normalise it, and write it into its group in the forms that are needed."""
    blocks = width // 32
    for column in claimed(team, grouping.used[1]):
        number = grouping.column_group[column]
        if number >= 0:
            group = grouping.groups[number]
            row = memory.rows[team.thread].ctypes.data
            if whole != 0:
                row = whole + 4 * width * source[column]
            else:
                gather_row(row, memory.parts, kind, source[column])
            if norm != 0:
                rms_norm(row, norm, width, epsilon)
            first = group.column * blocks
            columns = WIDTHS[group.width]
            if integer:
                write_integer_column(x_integer + first * INTEGER_BYTES, columns, column - group.column, row, blocks)
            if floating:
                write_float_column(x_float + first * FLOAT_BYTES, columns, column - group.column, row, blocks)
    barrier(team)


@kernel
def panels_per_claim(matrix: Record) -> int:
    """Panels per claim."""
    return max(1, CLAIM_BYTES // matrix.panel_bytes)


@kernel
def claims_of(matrix: Record) -> int:
    """Claims that a matrix is shared out in."""
    chunk = panels_per_claim(matrix)
    return (matrix.panels + chunk - 1) // chunk


@kernel
def run_panel(
    tiles: Tiles,
    matrix: Record,
    expert: int,
    panel: int,
    width: int,
    x: int,  # address of the groups
    column: int,  # where the group starts
    out: int,
    stride: int,
    fetch: bool,  # the next panel too: by the first group that goes over this one
) -> None:
    """One panel of one expert times one group."""
    place = load_address(matrix.experts + 8 * expert) + panel * matrix.panel_stride
    run_tile(
        tiles[matrix.tile, width],
        place,
        matrix.blocks,
        x + column * matrix.blocks * (INTEGER_BYTES if matrix.integer else FLOAT_BYTES),
        out,
        stride,
        place + matrix.panel_stride if fetch else 0,
    )


@kernel
def multiply_claim(
    tiles: Tiles,
    matrix: Record,
    item: int,
    grouping: Grouping,
    x_integer: int,
    x_float: int,
    out: int | np.uintp,
    stride: int,
) -> None:
    """Claim `item` of a matrix: segments outermost, then chunks of panels."""
    chunks, at_once = claims_of(matrix), panels_per_claim(matrix)
    segment, first_panel = grouping.segments[item // chunks], item % chunks * at_once
    x = x_integer if matrix.integer else x_float
    for panel in range(first_panel, min(first_panel + at_once, matrix.panels)):
        for index in range(segment.first_group, segment.first_group + segment.groups):
            group, fetch = grouping.groups[index], index == segment.first_group
            place = out + group.column * stride + 64 * panel
            run_panel(tiles, matrix, segment.expert, panel, group.width, x, group.column, place, stride, fetch)


@kernel
def add_vector(out: int, vector: int, count: int) -> None:
    for value in range(0, count, 16):
        store_f32x16(out + 4 * value, add(load_f32x16(out + 4 * value), load_f32x16(vector + 4 * value)))
