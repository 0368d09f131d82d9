"""One row of the token embedding as float32, from the bytes of the file; exact, as `gguf` dequantises it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from numoe.kernels.cpu.jit import kernel
from numoe.kernels.cpu.loads import load_bf16x16, load_f16x16, load_f32x16
from numoe.kernels.cpu.stores import store_f32x16
from numoe.kernels.weights.formats import BF16_TILE, F16_TILE, F32_TILE
from numoe.kernels.weights.packing import DRAWINGS, dequantise


@kernel
def embed_row(
    out: NDArray[np.float32],  # [D], written
    row: NDArray[np.uint8],  # its bytes
    tile: int,  # its format's number
    scratch: NDArray[np.uint8],  # [SCRATCH_BYTES]
) -> None:
    """Dequantise one row."""
    if tile in (F32_TILE, F16_TILE, BF16_TILE):
        _widen(out, row, tile)
        return
    drawing = DRAWINGS[tile]
    values, size = drawing.unit_values, drawing.unit_bytes
    for unit in range(out.size // values):
        dequantise(out[values * unit : values * (unit + 1)], row[size * unit : size * (unit + 1)], drawing, scratch)


@kernel
def _widen(out: NDArray[np.float32], row: NDArray[np.uint8], tile: int) -> None:
    place, source = out.ctypes.data, row.ctypes.data
    for value in range(0, out.size, 16):
        if tile == F32_TILE:
            store_f32x16(place + 4 * value, load_f32x16(source + 4 * value))
        elif tile == F16_TILE:
            store_f32x16(place + 4 * value, load_f16x16(source + 2 * value))
        else:
            store_f32x16(place + 4 * value, load_bf16x16(source + 2 * value))
