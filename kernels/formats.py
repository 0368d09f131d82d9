"""The formats a weight matrix can have: how blocks lie in the file and how they become panels.

    format  file block (one row)                         panel block (16 rows)                             x
    F32     32 float32                                   [32][16] float32                                  float
    F16     32 float16                                   [32][16] float16                                  float
    BF16    32 bfloat16                                  [32][16] bfloat16                                 float
    Q8_0    float16 scale d, 32 int8 q; value = d * q    [16] float16 d; [8][16][4] uint8 q + 128          integer

`x` is the kind of activation group the tile reads (tiles.py). Packing is exact: a panel holds the very values of the
file, so dequantising either gives the same floats. Rows past the end of a matrix are zeros.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from numoe.kernels.jit import kernel
from numoe.kernels.tiles import BF16_TILE, F16_TILE, F32_TILE, Q8_0_PANEL_BLOCK, Q8_0_TILE, ROWS


@kernel
def pack_16_bit(
    panels: NDArray[np.uint16],  # [ceil(rows / 16), values, 16], written
    rows: NDArray[np.uint16],  # [rows, values]
) -> None:
    """Interleave rows of 16-bit values; absent rows of the last panel become zeros."""
    for panel in range(panels.shape[0]):
        for lane in range(panels.shape[2]):
            row = panel * 16 + lane
            if row < rows.shape[0]:
                for value in range(rows.shape[1]):
                    panels[panel, value, lane] = rows[row, value]
            else:
                panels[panel, :, lane] = 0


@kernel
def pack_32_bit(
    panels: NDArray[np.uint32],  # [ceil(rows / 16), values, 16], written
    rows: NDArray[np.uint32],  # [rows, values]
) -> None:
    """Interleave rows of 32-bit values; absent rows of the last panel become zeros."""
    for panel in range(panels.shape[0]):
        for lane in range(panels.shape[2]):
            row = panel * 16 + lane
            if row < rows.shape[0]:
                for value in range(rows.shape[1]):
                    panels[panel, value, lane] = rows[row, value]
            else:
                panels[panel, :, lane] = 0


@kernel
def pack_q8_0(
    panels: NDArray[np.uint8],  # [ceil(rows / 16), blocks, 544], written
    rows: NDArray[np.uint8],  # [rows, blocks * 34]
) -> None:
    """Interleave Q8_0 rows: scales first, then 4 values of each row at a time, shifted to unsigned."""
    for panel in range(panels.shape[0]):
        for lane in range(16):
            row = panel * 16 + lane
            for block in range(panels.shape[1]):
                target = panels[panel, block]
                if row < rows.shape[0]:
                    source = rows[row, 34 * block : 34 * block + 34]
                    target[2 * lane] = source[0]
                    target[2 * lane + 1] = source[1]
                    for value in range(32):
                        target[32 + (value >> 2) * 64 + lane * 4 + (value & 3)] = source[2 + value] ^ 0x80
                else:
                    target[2 * lane] = 0
                    target[2 * lane + 1] = 0
                    for value in range(32):
                        target[32 + (value >> 2) * 64 + lane * 4 + (value & 3)] = 0x80


def _pack_f32(panels: NDArray[np.uint8], rows: NDArray[np.uint8]) -> None:
    pack_32_bit(panels.view(np.uint32).reshape(panels.shape[0], -1, ROWS), rows.view(np.uint32))


def _pack_f16(panels: NDArray[np.uint8], rows: NDArray[np.uint8]) -> None:
    pack_16_bit(panels.view(np.uint16).reshape(panels.shape[0], -1, ROWS), rows.view(np.uint16))


@dataclass(frozen=True, slots=True)
class Format:
    """One weight format."""

    name: str
    ggml_type: int  # its number in GGUF files
    number: int  # its row in the tile table
    block_bytes: int  # of 32 values in the file
    panel_block_bytes: int  # of 16 x 32 values in a panel
    integer: bool  # whether its tile reads integer groups
    pack: Callable[
        [NDArray[np.uint8], NDArray[np.uint8]], None
    ]  # (panels [P, blocks, panel_block_bytes], rows [R, bytes])


FORMATS = (
    Format("F32", 0, F32_TILE, 128, 2048, False, _pack_f32),
    Format("F16", 1, F16_TILE, 64, 1024, False, _pack_f16),
    Format("BF16", 30, BF16_TILE, 64, 1024, False, _pack_f16),
    Format("Q8_0", 8, Q8_0_TILE, 34, Q8_0_PANEL_BLOCK, True, pack_q8_0),
)
BY_GGML_TYPE = {format_.ggml_type: format_ for format_ in FORMATS}
