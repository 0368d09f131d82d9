"""A matrix times groups of columns: its panels are claimed in chunks, and each is multiplied by the tiles."""

from __future__ import annotations

from numoe.kernels.cpu.jit import kernel
from numoe.kernels.cpu.loads import load_address
from numoe.kernels.matmul.activations import block_bytes
from numoe.kernels.matmul.column_groups import groups_alike
from numoe.kernels.matmul.groups import FLOAT_BYTES, WIDTHS
from numoe.kernels.matmul.tiles import run_tile
from numoe.kernels.records import Grouping, Record, TileTable

CLAIM_BYTES = 65536  # of weights per claim: 3 microseconds at 20 GB/s, against 0.1 for the claim


@kernel
def panels_per_claim(matrix: Record) -> int:
    """How many panels of a matrix one claim takes."""
    return max(1, CLAIM_BYTES // matrix.panel_bytes)


@kernel
def claims_of(matrix: Record) -> int:
    """How many claims a matrix is shared out in."""
    chunk = panels_per_claim(matrix)
    return (matrix.panels + chunk - 1) // chunk


@kernel
def run_panel(
    tiles: TileTable,
    matrix: Record,
    expert: int,
    panel: int,
    width: int,
    x: int,  # address of the groups
    column: int,  # where the group starts
    out: int,
    stride: int,
    groups: int,  # so many, one behind the other
    fetch: bool,  # the next panel too: by the first group that goes over this one
) -> None:
    """Multiply one panel of one expert by a group, or by several at once."""
    place = load_address(matrix.experts + 8 * expert) + panel * matrix.panel_stride
    run_tile(
        tiles[matrix.tile, width],
        place,
        matrix.blocks,
        x + column * matrix.blocks * block_bytes(matrix.integer),
        out,
        stride,
        place + matrix.panel_stride if fetch else 0,
        groups,
    )


@kernel
def run_panel_part(
    tiles: TileTable,
    matrix: Record,  # of floats
    panel: int,
    part: int,  # of the inputs
    parts: int,
    group: Record,
    x: int,  # address of the groups
    out: int,
    stride: int,
) -> None:
    """Multiply some inputs of a panel by a group."""
    first, end = matrix.blocks * part // parts, matrix.blocks * (part + 1) // parts
    place = load_address(matrix.experts) + panel * matrix.panel_stride + first * (matrix.panel_bytes // matrix.blocks)
    x += (group.x_column * matrix.blocks + first * WIDTHS[group.width]) * FLOAT_BYTES
    run_tile(tiles[matrix.tile, group.width], place, end - first, x, out, stride, 0, 1)


@kernel
def multiply_claim(
    tiles: TileTable,
    matrix: Record,
    item: int,
    grouping: Grouping,
    x_integer: int,  # address of integer groups; read if the matrix takes those
    x_float: int,  # of float groups; read if it takes those
    out: int,
    stride: int,
) -> None:
    """Multiply what claim `item` takes of a matrix; claims go through segments, in each through chunks of panels."""
    chunks, at_once = claims_of(matrix), panels_per_claim(matrix)
    segment, first_panel = grouping.segments[item // chunks], item % chunks * at_once
    x = x_integer if matrix.integer else x_float
    for panel in range(first_panel, min(first_panel + at_once, matrix.panels)):
        index, end = segment.first_group, segment.first_group + segment.groups
        while index < end:
            group, fetch = grouping.groups[index], index == segment.first_group
            count = groups_alike(grouping, index, end) if matrix.integer else 1
            place = out + group.column * stride + 64 * panel
            run_panel(tiles, matrix, segment.expert, panel, group.width, x, group.column, place, stride, count, fetch)
            index += count
