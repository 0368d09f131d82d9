"""Activation groups: C columns interleaved block by block, so that a tile walks panel and group with one pointer each.

    integer group, per block of 32 values and column                   float group, per block of 32 values and column
    [32] values   rounded to -127 .. 127, see below                    [32] float32
    float32       their scale
    float32       sum of the 32 rounded values
    int32         -128 * that sum
    2 int16       sum of the first 16, sum of the last 16

Values are int8 where the CPU multiplies bytes into 32-bit sums (VNNI). Elsewhere they are int16, and of each four the
order is 0, 2, 1, 3: the even and the odd bytes of four weights are then multiplied as pairs (dots.py).
"""

from __future__ import annotations

from numoe.kernels.cpu.instruction_sets import INSTRUCTION_SET
from numoe.kernels.weights.formats import BLOCK

WIDTHS = INSTRUCTION_SET.widths  # columns of a tile
WIDEST = WIDTHS[-1]
# A tile is worth its width from so many columns on; at most 1 is padding.
LEAST_COLUMNS = tuple({1: 1, 2: 2, 4: 3, 8: 7, 12: 11}[width] for width in WIDTHS)

VALUE_BYTES = INSTRUCTION_SET.value_bytes
VALUES_BYTES = BLOCK * VALUE_BYTES
SCALE, SUM, SUM_128, HALF_SUMS = (VALUES_BYTES + 4 * field for field in range(4))  # where the fields lie
INTEGER_BYTES = VALUES_BYTES + 16  # per column and block
FLOAT_BYTES = 4 * BLOCK
