"""Rows of a file as panels, and one row as floats: the two things done with weights outside the tiles."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from numoe.kernels.cpu.jit import kernel
from numoe.kernels.cpu.loads import widen_f16
from numoe.kernels.records import Record
from numoe.kernels.weights.file_blocks import read_block
from numoe.kernels.weights.formats import FORMATS, NUMBERS, ROWS, Format, Meaning, unit_places
from numoe.kernels.weights.quants import PARTS, TABLES, VECTOR_BYTES

Bytes = NDArray[np.uint8]
Words = NDArray[np.uint32]

_FLOAT, _SHIFTED, _K_SCALED, _K_SHIFTED = (
    int(meaning) for meaning in (Meaning.FLOAT, Meaning.SHIFTED, Meaning.K_SCALED, Meaning.K_SHIFTED)
)
_Q2_K = NUMBERS["Q2_K"]
_TABLES = np.array([table or (0,) * 16 for table in TABLES], np.int8)


_FIELDS = (
    "unit_values", "unit_bytes", "low_bits", "high_bits", "offset", "table", "scales", "scale_bytes",
    "scales_start", "head_bytes", "units_together", "block_bytes",
)  # fmt: skip
# The numbers of each format, for compiled code.
DRAWINGS = np.array(
    [(number, int(one.meaning), *(getattr(one, field) for field in _FIELDS)) for number, one in enumerate(FORMATS)],
    np.dtype([(name, np.int64) for name in ("number", "meaning", *_FIELDS)]),
)
VECTOR_WORDS = VECTOR_BYTES // 4
SCRATCH_BYTES = 4 + 16 + 256  # of one unit: head, scales, quants


class Unit(NamedTuple):
    """What is read of a file block."""

    numbers: Bytes  # [4] d, then m
    scales: NDArray[np.uint8]  # [8, 2]
    quants: Bytes  # [32 or 256]


@kernel
def _unit_of(scratch: Bytes, drawing: Record) -> Unit:
    return Unit(scratch[:4], scratch[4:20].reshape(8, 2), scratch[20 : 20 + drawing.unit_values])


@kernel
def _put_bits(words: Words, start: int, part: int, quants: np.uint32, bits: int) -> None:
    """Put `bits` bits of the 4 quants of a part, one a byte, where quants.py draws them; `start` is the lane's word."""
    vector, first = part % bits, part // bits * bits
    mask = np.uint32(0x01010101 * ((1 << bits) - 1))
    words[start + VECTOR_WORDS * vector] |= (quants & mask) << np.uint32(first)


@kernel
def _put_head(panel: Bytes, start: int, lane: int, unit: Unit, drawing: Record) -> None:
    """d, m and small scales of one row."""
    size = drawing.scale_bytes
    for byte in range(size):
        panel[start + size * lane + byte] = unit.numbers[byte]
    if drawing.scales_start > ROWS * size:
        for byte in range(2):
            panel[start + ROWS * size + 2 * lane + byte] = unit.numbers[2 + byte]
    for index in range(drawing.unit_values // 32):
        for scale in range(drawing.scales):
            place = drawing.scales_start + ROWS * (drawing.scales * index + scale)
            panel[start + place + lane] = unit.scales[index, scale]


@kernel
def _put_quants(words: Words, start: int, lane: int, fours: Words, drawing: Record) -> None:
    """The quants of one row, from word `start` of the panel on."""
    for index in range(drawing.unit_values // 32):
        low = start + drawing.block_bytes // 4 * index + lane
        high = low + VECTOR_WORDS * drawing.low_bits
        for part in range(PARTS):
            quants = fours[PARTS * index + part]
            _put_bits(words, low, part, quants, drawing.low_bits)
            if drawing.high_bits:
                _put_bits(words, high, part, quants >> np.uint32(drawing.low_bits), drawing.high_bits)


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
def _pack(panels: Bytes, words: Words, start: int, rows: Bytes, drawing: Record) -> None:
    size, head_bytes = drawing.unit_bytes, drawing.head_bytes
    units, quants_bytes = rows.shape[1] // size, drawing.unit_values // 32 * drawing.block_bytes
    panels[:, start : start + units * (head_bytes + quants_bytes)] = 0
    if drawing.meaning == _FLOAT:
        _pack_floats(panels[:, start:], rows, drawing.low_bits // 8)
        return
    unit = _unit_of(np.zeros(SCRATCH_BYTES, np.uint8), drawing)
    fours = unit.quants.view(np.uint32)
    for row in range(rows.shape[0]):
        panel, panel_words, lane = panels[row // ROWS], words[row // ROWS], row % ROWS
        for index in range(units):
            read_block(
                drawing.number, rows[row, size * index : size * (index + 1)], unit.numbers, unit.scales, unit.quants
            )
            head, quants = unit_places(start, index, units, drawing.units_together, head_bytes, quants_bytes)
            _put_head(panel, head, lane, unit, drawing)
            _put_quants(panel_words, quants // 4, lane, fours, drawing)


def pack(
    format_: Format,
    panels: NDArray[np.uint8],  # [ceil(rows / 16), ...], written
    rows: NDArray[np.uint8],  # [rows, units * unit bytes]
    start: int = 0,  # where the panel begins in each row of `panels`, which several matrices may share
) -> None:
    """Re-lay rows of a file into panels of units * panel unit bytes; absent rows of the last one become zeros."""
    shared = panels.reshape(len(panels), math.prod(panels.shape[1:]))
    _pack(shared, shared.view(np.uint32), start, rows, DRAWINGS[NUMBERS[format_.name]])


@kernel
def _scale_of(head: Bytes, drawing: Record) -> np.float32:
    if drawing.scale_bytes == 1:
        return np.float32(2.0 ** (np.int64(head[0]) - 128))
    return widen_f16(head.ctypes.data)


@kernel
def dequantise(
    out: NDArray[np.float32],  # [values of a unit], written
    block: Bytes,  # of the file
    drawing: Record,
    scratch: Bytes,  # [SCRATCH_BYTES]
) -> None:
    """The floats a quantised block stands for, rounded as `gguf` rounds them."""
    unit = _unit_of(scratch, drawing)
    read_block(drawing.number, block, unit.numbers, unit.scales, unit.quants)
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
