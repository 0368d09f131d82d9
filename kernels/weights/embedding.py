"""One row of the token embedding as float32, from the bytes of the file; exact, as `gguf` dequantises it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from numoe.kernels.cpu.jit import kernel
from numoe.kernels.cpu.loads import load_bf16x16, load_f16x16, load_f32x16, widen_f16
from numoe.kernels.cpu.stores import store_f32x16
from numoe.kernels.records import Record
from numoe.kernels.weights.file_blocks import read_file_block, unit_in
from numoe.kernels.weights.formats import BF16_TILE, DRAWINGS, F16_TILE, F32_TILE, NUMBERS, Meaning
from numoe.kernels.weights.quants import TABLES

Bytes = NDArray[np.uint8]


_SHIFTED, _K_SCALED, _K_SHIFTED = (int(meaning) for meaning in (Meaning.SHIFTED, Meaning.K_SCALED, Meaning.K_SHIFTED))
_Q2_K = NUMBERS["Q2_K"]
_TABLES = np.array([table or (0,) * 16 for table in TABLES], np.int8)


@kernel
def embed_row(
    out: NDArray[np.float32],  # [D], written
    row: NDArray[np.uint8],  # its bytes
    tile: int,  # its format's number
    unpacked: NDArray[np.uint8],  # [UNPACKED_BYTES] scratch
) -> None:
    """Dequantise one row."""
    if tile in (F32_TILE, F16_TILE, BF16_TILE):
        _widen(out, row, tile)
        return
    drawing = DRAWINGS[tile]
    values, size = drawing.unit_values, drawing.unit_bytes
    for unit in range(out.size // values):
        dequantise(out[values * unit : values * (unit + 1)], row[size * unit : size * (unit + 1)], drawing, unpacked)


@kernel
def _widen(out: NDArray[np.float32], row: NDArray[np.uint8], tile: int) -> None:
    """As `embed_row`, of a row of floats."""
    place, source = out.ctypes.data, row.ctypes.data
    for value in range(0, out.size, 16):
        if tile == F32_TILE:
            store_f32x16(place + 4 * value, load_f32x16(source + 4 * value))
        elif tile == F16_TILE:
            store_f32x16(place + 4 * value, load_f16x16(source + 2 * value))
        else:
            store_f32x16(place + 4 * value, load_bf16x16(source + 2 * value))


@kernel
def _scale_of(head: Bytes, drawing: Record) -> np.float32:
    """d of a unit."""
    if drawing.scale_bytes == 1:
        return np.float32(2.0 ** (np.int64(head[0]) - 128))
    return widen_f16(head.ctypes.data)


@kernel
def dequantise(
    out: NDArray[np.float32],  # [values of a unit], written
    file_block: Bytes,
    drawing: Record,
    unpacked: Bytes,  # [UNPACKED_BYTES] scratch
) -> None:
    """The floats that a quantised file block stands for, rounded as `gguf` rounds them."""
    unit = unit_in(unpacked, drawing)
    read_file_block(drawing.number, file_block, unit.numbers, unit.scales, unit.quants)
    head, scales, quants = unit
    d, m = _scale_of(head, drawing), widen_f16(head.ctypes.data + 2)
    for value in range(drawing.unit_values):
        index, half = value // 32, value // 16 % 2
        scale, minimum = d, np.float32(0.0)
        if drawing.meaning == _SHIFTED:
            minimum = m
        elif drawing.meaning == _K_SCALED:
            scale = d * np.float32(np.int8(scales[index, half if drawing.scales == 2 else 0]))
        elif drawing.number == _Q2_K:
            scale = d * np.float32(scales[index, half] & 15)
            minimum = -(m * np.float32(scales[index, half] >> 4))
        elif drawing.meaning == _K_SHIFTED:
            scale, minimum = d * np.float32(scales[index, 0]), -(m * np.float32(scales[index, 1]))
        number = np.int32(quants[value]) - drawing.offset
        if drawing.table:
            number = np.int32(_TABLES[drawing.table, quants[value]])
        out[value] = scale * np.float32(number)
        if drawing.meaning == _SHIFTED or drawing.meaning == _K_SHIFTED:
            out[value] += minimum
