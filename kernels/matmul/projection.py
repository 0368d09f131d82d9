"""A matrix times the step's activations: gathering and writing columns, sharing the panels out, running the tiles."""

from __future__ import annotations

import numpy as np

from numoe.kernels.cpu.arithmetic import add
from numoe.kernels.cpu.jit import kernel
from numoe.kernels.cpu.loads import load_address, load_f32x16
from numoe.kernels.cpu.stores import store_f32x16
from numoe.kernels.matmul.activations import (
    block_bytes,
    copy_bytes,
    copy_floats,
    rms_norm,
    write_float_column,
    write_integer_column,
)
from numoe.kernels.matmul.groups import FLOAT_BYTES, INTEGER_BYTES, WIDTHS
from numoe.kernels.matmul.tiles import run_tile
from numoe.kernels.records import Grouping, Memory, Record, Records, Tiles
from numoe.kernels.threads.team import Team, barrier, claimed, gather
from numoe.kernels.weights.formats import BLOCK

ATTENTION, INTERMEDIATE = range(2)  # columns whose blocks are made, and rounded, by several workers
CLAIM_BYTES = 65536  # of weights per claim: 3 microseconds at 20 GB/s, against 0.1 for the claim


@kernel
def gather_row(row: int, parts: Records, token: int) -> None:
    """Assemble a token's residual stream from the slices of all workers."""
    for worker in range(parts.shape[0]):
        part = parts[worker]
        copy_floats(row, part.hidden + 4 * part.width * token, part.width)
        row += 4 * part.width


@kernel
def normalise(row: int, parts: Records, token: int, norm: int | np.uintp, width: int, epsilon: float) -> None:
    """A token's residual stream from all workers, normalised."""
    gather_row(row, parts, token)
    rms_norm(row, norm, width, epsilon)


@kernel
def prepare(
    team: Team,
    memory: Memory,
    width: int,
    norm: int | np.uintp,  # address of RMSNorm weights
    epsilon: float,
    integer: int,
    floating: int,
) -> None:
    """Normalise the residual stream of each dense column's token, and write it in the forms that are needed."""
    blocks, grouping = width // BLOCK, memory.dense
    for column in claimed(team, grouping.used[1]):
        number = grouping.column_group[column]
        if number >= 0:
            group = grouping.groups[number]
            row = memory.rows[team.thread].ctypes.data
            normalise(row, memory.parts, grouping.source[column], norm, width, epsilon)
            first, columns, at = group.column * blocks, WIDTHS[group.width], column - group.column
            if integer:
                write_integer_column(memory.x_integer.ctypes.data + first * INTEGER_BYTES, columns, at, row, blocks)
            if floating:
                write_float_column(memory.x_float.ctypes.data + first * FLOAT_BYTES, columns, at, row, blocks)
    barrier(team)


@kernel
def _made(part: Record, kind: int) -> tuple[int, int]:
    """Where a worker writes its blocks of every column, and how many of each column it makes."""
    if kind == ATTENTION:
        return part.attention, part.attention_width // BLOCK
    return part.intermediate, part.expert_width // BLOCK


@kernel
def collect(team: Team, parts: Records, kind: int, grouping: Grouping, integer: int, out: int) -> int:
    """Gather columns of which each worker made some blocks; the address of whole groups.

    A worker's groups hold its own blocks only, so that each is a run of bytes of a whole group, which is put together
    at `out`, by as many claims as it has columns. Where there is one worker nothing is copied.
    """
    gather(team)
    if parts.shape[0] == 1:
        own, _ = _made(parts[0], kind)
        return own
    unit, blocks = block_bytes(integer), 0
    for worker in range(parts.shape[0]):
        _, held = _made(parts[worker], kind)
        blocks += held
    for column in claimed(team, grouping.used[1]):
        number = grouping.column_group[column]
        if number >= 0:
            group = grouping.groups[number]
            columns, share, place = WIDTHS[group.width], column - group.column, out + unit * blocks * group.column
            for worker in range(parts.shape[0]):
                source, held = _made(parts[worker], kind)
                first, last = held * columns * share // group.count, held * columns * (share + 1) // group.count
                start = source + unit * (held * group.column + first)
                copy_bytes(place + unit * first, start, unit * (last - first))
                place += unit * held * columns
    barrier(team)
    return out


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
        x + column * matrix.blocks * block_bytes(matrix.integer),
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
