"""Tiles of the formats whose values are floats: F32, F16, BF16."""

from __future__ import annotations

from numoe.kernels.cpu.loads import load_bf16x16, load_f16x16, load_f32x16, prefetch
from numoe.kernels.matmul.groups import FLOAT_BYTES
from numoe.kernels.matmul.tile_operations import tile_add, tile_fma, tile_store, tile_zero
from numoe.kernels.matmul.tiles import AHEAD_COLUMNS, DISTANCE, TileKernel
from numoe.kernels.weights.formats import BLOCK, CACHE_LINE, F16_TILE, F32_TILE, NUMBERS, ROWS, Format


def make_float_tile(format_: Format, columns: int) -> TileKernel:
    """A kernel of `columns` columns: per block the sum of its products, added to the total."""
    bits = format_.low_bits
    number = NUMBERS[format_.name]
    row_bytes = ROWS * bits // 8
    block_bytes = FLOAT_BYTES * columns
    lines = BLOCK * row_bytes // CACHE_LINE

    def tile_float(panel: int, blocks: int, group: int, out: int, stride: int, ahead: int, groups: int) -> None:
        total = tile_zero(columns)
        if columns < AHEAD_COLUMNS:
            ahead = panel + DISTANCE
        for block in range(blocks):
            weights = panel + BLOCK * row_bytes * block
            x = group + block_bytes * block
            part = tile_zero(columns)
            for value in range(BLOCK):
                place = weights + row_bytes * value
                if number == F32_TILE:
                    row = load_f32x16(place)
                elif number == F16_TILE:
                    row = load_f16x16(place)
                else:
                    row = load_bf16x16(place)
                part = tile_fma(part, row, x + 4 * value, 128)
            total = tile_add(total, part)
            if ahead != 0:
                for line in range(lines):
                    prefetch(ahead + CACHE_LINE * line)
                ahead += CACHE_LINE * lines
        tile_store(total, out, stride)

    return tile_float
