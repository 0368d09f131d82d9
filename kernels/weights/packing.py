"""Rows of a file, re-laid as panels."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from numoe.kernels.cpu.jit import compile_for, kernel
from numoe.kernels.records import Record
from numoe.kernels.weights.file_blocks import UNPACKED_BYTES, Unit, read_file_block, unit_in
from numoe.kernels.weights.formats import DRAWINGS, NUMBERS, ROWS, Format, Meaning, unit_places
from numoe.kernels.weights.quants import PARTS, VECTOR_BYTES

Bytes = NDArray[np.uint8]
Words = NDArray[np.uint32]

_FLOAT = int(Meaning.FLOAT)
VECTOR_WORDS = VECTOR_BYTES // 4


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
    """As `pack`; `words` are the panels' bytes as words."""
    size, head_bytes = drawing.unit_bytes, drawing.head_bytes
    units, quants_bytes = rows.shape[1] // size, drawing.unit_values // 32 * drawing.block_bytes
    panels[:, start : start + units * (head_bytes + quants_bytes)] = 0
    if drawing.meaning == _FLOAT:
        _pack_floats(panels[:, start:], rows, drawing.low_bits // 8)
        return
    unit = unit_in(np.zeros(UNPACKED_BYTES, np.uint8), drawing)
    fours = unit.quants.view(np.uint32)
    for row in range(rows.shape[0]):
        panel, panel_words, lane = panels[row // ROWS], words[row // ROWS], row % ROWS
        for index in range(units):
            read_file_block(
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


def compile_pack() -> None:
    """Compile what `pack` runs, and run nothing."""
    panels, rows = np.zeros((1, 64), np.uint8), np.zeros((16, 64), np.uint8)
    compile_for(_pack, panels, panels.view(np.uint32), 0, rows, DRAWINGS[0])
