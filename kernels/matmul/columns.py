"""Columns of activations, put together from what several workers hold: slices of the residual stream, or blocks."""

from __future__ import annotations

from typing import Any

import numpy as np

from numoe.kernels.cpu.jit import kernel
from numoe.kernels.matmul.activations import block_bytes, write_float_column, write_integer_column
from numoe.kernels.matmul.groups import FLOAT_BYTES, INTEGER_BYTES, WIDTHS
from numoe.kernels.matmul.vectors import copy_bytes, copy_floats, rms_norm
from numoe.kernels.records import Grouping, Memory, Record, Records
from numoe.kernels.threads.profile import ATTENTION_EXCHANGE, EXPERT_EXCHANGE, enter
from numoe.kernels.threads.team import Team, barrier, claimed, gather
from numoe.kernels.weights.formats import BLOCK

ATTENTION, INTERMEDIATE = range(2)  # columns whose blocks are made, and rounded, by several workers


@kernel
def gather_row(row: int, parts: Records, token: int) -> None:
    """Assemble a token's residual stream from the slices of all workers."""
    place: Any = np.uintp(row)
    for worker in range(parts.shape[0]):
        part = parts[worker]
        copy_floats(place, part.hidden + 4 * part.width * token, part.width)
        place += np.uintp(4 * part.width)  # of one type: a sum of two would be a float64 here


@kernel
def normalise(row: int, parts: Records, token: int, norm: int, width: int, epsilon: float) -> None:
    """Assemble a token's residual stream and normalise it."""
    gather_row(row, parts, token)
    rms_norm(row, norm, width, epsilon)


@kernel
def pieces_of_columns(team: Team, columns: int, blocks: int) -> int:
    """How many threads share the writing of a column."""
    return max(min(team.threads // max(columns, 1), blocks), 1)


@kernel
def prepare(
    team: Team,
    memory: Memory,
    width: int,
    norm: int,  # address of RMSNorm weights
    epsilon: float,
    integer: int,
    floating: int,
) -> None:
    """Normalise the residual stream of each dense column's token, and write it in the forms that are needed.

    Where columns are fewer than threads, several normalise the same one, and each writes a piece of it.
    """
    blocks, grouping = width // BLOCK, memory.dense
    pieces = pieces_of_columns(team, grouping.used[1], blocks)
    for item in claimed(team, grouping.used[1] * pieces):
        column, piece = item // pieces, item % pieces
        number = grouping.column_group[column]
        if number >= 0:
            group = grouping.groups[number]
            row = memory.rows[team.thread].ctypes.data
            normalise(row, memory.parts, grouping.source[column], norm, width, epsilon)
            columns, at = WIDTHS[group.width], column - group.column
            first, last = blocks * piece // pieces, blocks * (piece + 1) // pieces
            place, x = group.column * blocks + first * columns, row + 4 * BLOCK * first
            if integer:
                start = memory.x_integer.ctypes.data + place * INTEGER_BYTES
                write_integer_column(start, columns, at, x, last - first)
            if floating:
                write_float_column(memory.x_float.ctypes.data + place * FLOAT_BYTES, columns, at, x, last - first)
    barrier(team)


@kernel
def _own_blocks(part: Record, kind: int) -> tuple[int, int]:
    """Where a worker writes its own blocks of every column, and how many of each column they are."""
    if kind == ATTENTION:
        return part.attention, part.attention_width // BLOCK
    return part.intermediate, part.expert_width // BLOCK


@kernel
def collect(team: Team, parts: Records, kind: int, grouping: Grouping, integer: int, out: int) -> int:
    """Gather columns of which each worker made some blocks, and return the address of whole groups.

    A worker's groups hold its own blocks only, so each of them is a run of bytes of a whole group. Whole groups are put
    together at `out`, each by as many claims as it has columns. Where there is one worker nothing is copied.
    """
    gather(team)
    if parts.shape[0] == 1:
        own, _ = _own_blocks(parts[0], kind)
        return own
    enter(team.profile, ATTENTION_EXCHANGE if kind == ATTENTION else EXPERT_EXCHANGE)
    size, blocks = block_bytes(integer), 0
    for worker in range(parts.shape[0]):
        _, held = _own_blocks(parts[worker], kind)
        blocks += held
    for column in claimed(team, grouping.used[1]):
        number = grouping.column_group[column]
        if number >= 0:
            group = grouping.groups[number]
            columns, share, place = WIDTHS[group.width], column - group.column, out + size * blocks * group.column
            for worker in range(parts.shape[0]):
                source, held = _own_blocks(parts[worker], kind)
                first, last = held * columns * share // group.count, held * columns * (share + 1) // group.count
                start = source + size * (held * group.column + first)
                copy_bytes(place + size * first, start, size * (last - first))
                place += size * held * columns
    barrier(team)
    return out
