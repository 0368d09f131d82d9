"""One row of the token embedding as float32, from the bytes of the file; exact, as `gguf` dequantises it."""

from __future__ import annotations

from numoe.kernels.jit import kernel
from numoe.kernels.simd import load_bf16x16, load_f16x16, load_f32x16, load_i8x16, mul, splat, store_f32x16, widen_f16
from numoe.kernels.tiles import BF16_TILE, F16_TILE, F32_TILE, Q8_0_TILE


@kernel
def embed_row(
    out: int,  # [D] float32, written
    row: int,  # address of the row's bytes
    tile: int,  # its format's number
    width: int,  # D, a multiple of 32
) -> None:
    """Dequantise one row."""
    for value in range(0, width, 16):
        place = out + 4 * value
        if tile == F32_TILE:
            store_f32x16(place, load_f32x16(row + 4 * value))
        elif tile == F16_TILE:
            store_f32x16(place, load_f16x16(row + 2 * value))
        elif tile == BF16_TILE:
            store_f32x16(place, load_bf16x16(row + 2 * value))
        elif tile == Q8_0_TILE:
            block = row + (value // 32) * 34
            scale = splat(widen_f16(block))
            store_f32x16(place, mul(load_i8x16(block + 2 + value % 32), scale))
