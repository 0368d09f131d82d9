"""Rows of a file as panels, and one row as floats: the two things done with weights outside the tiles."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from numoe.kernels.blocks import read_block
from numoe.kernels.formats import FORMATS, NUMBERS, Format, Meaning
from numoe.kernels.groups import ROWS
from numoe.kernels.jit import kernel
from numoe.kernels.quants import TABLES, VECTOR_BYTES
from numoe.kernels.records import Record

Bytes = NDArray[np.uint8]

_FLOAT, _SHIFTED, _K_SCALED, _K_SHIFTED = (
    int(meaning) for meaning in (Meaning.FLOAT, Meaning.SHIFTED, Meaning.K_SCALED, Meaning.K_SHIFTED)
)
_Q2_K = NUMBERS["Q2_K"]
_TABLES = np.array([table or (0,) * 16 for table in TABLES], np.int8)


_FIELDS = (
    "unit_values", "unit_bytes", "low_bits", "high_bits", "offset", "table", "scales", "scale_bytes",
    "scales_start", "head_bytes", "block_bytes",
)  # fmt: skip
# The numbers of each format, for compiled code.
DRAWINGS = np.array(
    [(number, int(one.meaning), *(getattr(one, field) for field in _FIELDS)) for number, one in enumerate(FORMATS)],
    np.dtype([(name, np.int64) for name in ("number", "meaning", *_FIELDS)]),
)
SCRATCH_BYTES = 4 + 16 + 256  # of one unit: head, scales, quants


@kernel
def _put_bits(target: Bytes, lane: int, value: int, quant: int, bits: int) -> None:
    """Put the `bits` bits of a quant of row `lane` where quants.py draws them."""
    part = value // 4
    vector, first = part % bits, part // bits * bits
    target[VECTOR_BYTES * vector + 4 * lane + value % 4] |= quant << first


@kernel
def _pack_unit(head: Bytes, quants: Bytes, lane: int, block: Bytes, drawing: Record, scratch: Bytes) -> None:
    """Put one file block into lane `lane` of a unit's head [head_bytes] and quants [unit_blocks * block_bytes]."""
    numbers, scales, values = scratch[:4], scratch[4:20].reshape(8, 2), scratch[20 : 20 + drawing.unit_values]
    read_block(drawing.number, block, numbers, scales, values)
    for byte in range(drawing.scale_bytes):
        head[drawing.scale_bytes * lane + byte] = numbers[byte]
    if drawing.scales_start > ROWS * drawing.scale_bytes:
        for byte in range(2):
            head[ROWS * drawing.scale_bytes + 2 * lane + byte] = numbers[2 + byte]
    for index in range(drawing.unit_values // 32):
        for scale in range(drawing.scales):
            head[drawing.scales_start + ROWS * (drawing.scales * index + scale) + lane] = scales[index, scale]
        low = quants[drawing.block_bytes * index : drawing.block_bytes * (index + 1)]
        high = low[VECTOR_BYTES * drawing.low_bits :]
        for value in range(32):
            quant = values[32 * index + value]
            _put_bits(low, lane, value, quant & ((1 << drawing.low_bits) - 1), drawing.low_bits)
            if drawing.high_bits:
                _put_bits(high, lane, value, quant >> drawing.low_bits, drawing.high_bits)


@kernel
def _pack_floats(panels: Bytes, rows: Bytes, size: int) -> None:
    """Values of `size` bytes: 16 rows side by side."""
    for row in range(rows.shape[0]):
        panel = panels[row // ROWS]
        for value in range(rows.shape[1] // size):
            place = (value * ROWS + row % ROWS) * size
            for byte in range(size):
                panel[place + byte] = rows[row, value * size + byte]


@kernel
def _pack(panels: Bytes, start: int, rows: Bytes, drawing: Record) -> None:
    scratch, size = np.zeros(SCRATCH_BYTES, np.uint8), drawing.unit_bytes
    units, head_bytes = rows.shape[1] // size, drawing.head_bytes
    quants_bytes = drawing.unit_values // 32 * drawing.block_bytes
    panels[:, start : start + units * (head_bytes + quants_bytes)] = 0
    if drawing.meaning == _FLOAT:
        _pack_floats(panels[:, start:], rows, drawing.low_bits // 8)
        return
    for row in range(rows.shape[0]):
        panel, lane = panels[row // ROWS, start:], row % ROWS
        for unit in range(units):
            head = panel[head_bytes * unit : head_bytes * (unit + 1)]
            first = head_bytes * units + quants_bytes * unit
            block = rows[row, size * unit : size * (unit + 1)]
            _pack_unit(head, panel[first : first + quants_bytes], lane, block, drawing, scratch)


def pack(
    format_: Format,
    panels: NDArray[np.uint8],  # [ceil(rows / 16), ...], written
    rows: NDArray[np.uint8],  # [rows, units * unit bytes]
    start: int = 0,  # where the panel begins in each row of `panels`, which several matrices may share
) -> None:
    """Re-lay rows of a file into panels of units * panel unit bytes; absent rows of the last one become zeros."""
    shared = panels.reshape(len(panels), math.prod(panels.shape[1:]))
    _pack(shared, start, rows, DRAWINGS[NUMBERS[format_.name]])


@kernel
def half_as_float(low: int, high: int) -> np.float32:
    """A float16 from its two bytes."""
    exponent, fraction = (high >> 2) & 31, ((high & 3) << 8) | low
    sign = np.float32(-1.0) if high & 128 else np.float32(1.0)
    if exponent == 0:
        return sign * np.float32(fraction) * np.float32(2.0**-24)
    if exponent == 31:
        return sign * np.float32(np.inf) if fraction == 0 else np.float32(np.nan)
    return sign * np.float32(1024 + fraction) * np.float32(2.0 ** (exponent - 25))


@kernel
def _scale_of(head: Bytes, drawing: Record) -> np.float32:
    if drawing.scale_bytes == 1:
        return np.float32(2.0 ** (np.int64(head[0]) - 128))
    return half_as_float(head[0], head[1])


@kernel
def dequantise(
    out: NDArray[np.float32],  # [values of a unit], written
    block: Bytes,  # of the file
    drawing: Record,
    scratch: Bytes,  # [SCRATCH_BYTES]
) -> None:
    """The floats a quantised block stands for, rounded as `gguf` rounds them."""
    head, scales, quants = scratch[:4], scratch[4:20].reshape(8, 2), scratch[20 : 20 + drawing.unit_values]
    read_block(drawing.number, block, head, scales, quants)
    d, m = _scale_of(head, drawing), half_as_float(head[2], head[3])
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
