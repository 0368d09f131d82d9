"""Activation groups: C columns interleaved block by block, so that a tile walks panel and group with one pointer each.

integer group, per block of 32 values and column                   float group, per block of 32 values and column
[32] int8     values, rounded to -127 .. 127                       [32] float32
float32       their scale
float32       sum of the 32 rounded values
int32         -128 * that sum
2 int16       sum of the first 16, sum of the last 16
"""

from __future__ import annotations

from numoe.kernels.cpu.instruction_sets import INSTRUCTION_SET
from numoe.kernels.weights.formats import BLOCK

WIDTHS = INSTRUCTION_SET.widths  # columns of a tile
WIDEST = WIDTHS[-1]
GROUPS = INSTRUCTION_SET.groups  # of WIDEST columns that a tile takes at once, at most
# A tile is worth its width from so many columns on; at most 1 is padding.
LEAST_COLUMNS = tuple({1: 1, 2: 2, 4: 3, 8: 7, 12: 11}[width] for width in WIDTHS)

MOST_VALUE = 127
SCALE, SUM, SUM_128, HALF_SUMS = (BLOCK + 4 * field for field in range(4))  # where the fields lie
INTEGER_BYTES = BLOCK + 16  # per column and block
FLOAT_BYTES = 4 * BLOCK
