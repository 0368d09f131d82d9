"""The formats a weight matrix can have: how a block of the file is read, what it means, and how 16 rows become a panel.

A file block (*unit*) holds 32 or 256 values of one row: a scale d, maybe a second number m, then per 16 or 32 values
small scales (and minima), and the quants. `blocks.py` unscrambles each format's bits into the same fields; a panel is
then drawn by the numbers below, and nothing else depends on the format:

    head      of a unit: [16] d | [16] m | per block of 32 values: [scales][16] uint8
    quants    per block of 32 values: those of 16 rows, as quants.py packs them

    | heads of the first units | their quants | heads of the next | theirs | ...

As many units are drawn together as it takes for their heads to fill whole cache lines, so that quants start at one: a
load of 64 bytes that crosses a line costs two. *Rejected*: all heads of a panel first. A tile then reads two streams
that jump with every panel, and one column of Q2_K gets 33 GB/s of a core's 42 instead of 41.

    meaning       value of a quant q                              formats
    SCALED        d * (q - offset), or d * table[q]               Q4_0 Q5_0 Q8_0 IQ4_NL MXFP4
    SHIFTED       d * q + m                                       Q4_1 Q5_1
    K_SCALED      d * s * (q - offset), or d * s * table[q]       Q3_K Q6_K (s per 16 values), IQ4_XS (per 32)
    K_SHIFTED     d * s * q - m * t                               Q4_K Q5_K (s, t per 32), Q2_K (per 16, in one byte)

Floats have no fields: their panel is [values][16 rows]. Packing is exact: a panel holds the very numbers of the
file, so dequantising either gives the same floats. Rows past the end of a matrix are zeros.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum

from numoe.kernels.cpu.jit import kernel
from numoe.kernels.weights.quants import IQ4_TABLE, MXFP4_TABLE, NO_TABLE, quants_bytes

BLOCK = 32  # values along the input per block, for every format
ROWS = 16  # rows of a panel
CACHE_LINE = 64


class Meaning(IntEnum):
    """How a quant becomes a value; see above."""

    FLOAT = 0
    SCALED = 1
    SHIFTED = 2
    K_SCALED = 3
    K_SHIFTED = 4


@dataclass(frozen=True, slots=True)
class Format:
    """One weight format. Fields that a meaning does not have are 0."""

    name: str
    ggml_type: int  # its number in GGUF files
    meaning: Meaning
    unit_values: int  # of one row, in one file block
    unit_bytes: int  # of a file block
    low_bits: int  # of a quant; for floats the bits of a value
    high_bits: int = 0
    offset: int = 0
    table: int = NO_TABLE
    scales: int = 0  # bytes of small scales and minima per row and block of 32 values
    scale_bytes: int = 2  # of d: float16, or 1: an exponent
    most_columns: int = 12  # that one pass of its tile holds in registers; wider tiles make several passes

    @property
    def integer(self) -> bool:
        """Whether its tile reads integer groups."""
        return self.meaning is not Meaning.FLOAT

    @property
    def unit_blocks(self) -> int:
        """Blocks of 32 values in a unit."""
        return self.unit_values // BLOCK

    @property
    def scales_start(self) -> int:
        """Bytes of d, and of m where there is one, in the head of a panel unit; the small scales follow."""
        has_m = self.meaning in (Meaning.SHIFTED, Meaning.K_SHIFTED)
        return ROWS * (self.scale_bytes + 2 * has_m) if self.integer else 0

    @property
    def head_bytes(self) -> int:
        """Of a panel unit: d, m and all small scales."""
        return self.scales_start + ROWS * self.scales * self.unit_blocks

    @property
    def block_bytes(self) -> int:
        """Of a panel: per block of 32 values, the quants, or the floats."""
        return quants_bytes(self.low_bits, self.high_bits) if self.integer else ROWS * BLOCK * self.low_bits // 8

    @property
    def units_together(self) -> int:
        """Units whose heads are drawn side by side: the fewest that fill cache lines."""
        return CACHE_LINE // math.gcd(CACHE_LINE, self.head_bytes)

    @property
    def panel_unit_bytes(self) -> int:
        """Of 16 rows of one unit each: heads and quants."""
        return self.head_bytes + self.unit_blocks * self.block_bytes


_SCALED, _SHIFTED, _K_SCALED, _K_SHIFTED = (
    Meaning.SCALED,
    Meaning.SHIFTED,
    Meaning.K_SCALED,
    Meaning.K_SHIFTED,
)
FORMATS = (
    Format("F32", 0, Meaning.FLOAT, 32, 128, 32),
    Format("F16", 1, Meaning.FLOAT, 32, 64, 16),
    Format("BF16", 30, Meaning.FLOAT, 32, 64, 16),
    Format("Q8_0", 8, _SCALED, 32, 34, 8, offset=128),
    Format("Q4_0", 2, _SCALED, 32, 18, 4, offset=8),
    Format("Q5_0", 6, _SCALED, 32, 22, 4, 1, offset=16),
    Format("IQ4_NL", 20, _SCALED, 32, 18, 4, offset=128, table=IQ4_TABLE),
    Format("MXFP4", 39, _SCALED, 32, 17, 4, offset=128, table=MXFP4_TABLE, scale_bytes=1),
    Format("Q4_1", 3, _SHIFTED, 32, 20, 4),
    Format("Q5_1", 7, _SHIFTED, 32, 24, 4, 1),
    Format("Q3_K", 11, _K_SCALED, 256, 110, 2, 1, offset=4, scales=2),
    Format("Q6_K", 14, _K_SCALED, 256, 210, 4, 2, offset=32, scales=2, most_columns=6),
    Format("IQ4_XS", 23, _K_SCALED, 256, 136, 4, offset=128, table=IQ4_TABLE, scales=1),
    Format("Q2_K", 10, _K_SHIFTED, 256, 84, 2, scales=2),
    Format("Q4_K", 12, _K_SHIFTED, 256, 144, 4, scales=2),
    Format("Q5_K", 13, _K_SHIFTED, 256, 176, 4, 1, scales=2),
)
NUMBERS = {format_.name: number for number, format_ in enumerate(FORMATS)}  # a format's row in the table of tiles
F32_TILE, F16_TILE, BF16_TILE = NUMBERS["F32"], NUMBERS["F16"], NUMBERS["BF16"]
BY_GGML_TYPE = {format_.ggml_type: format_ for format_ in FORMATS}


@kernel
def unit_places(
    start: int, index: int, units: int, together: int, head_bytes: int, quants_bytes: int
) -> tuple[int, int]:
    """Where head and quants of unit `index` lie in a panel of so many units that begins at `start`."""
    before = index % together
    heads = start + (head_bytes + quants_bytes) * (index - before)
    quants = heads + head_bytes * min(together, units - index + before)
    return heads + head_bytes * before, quants + quants_bytes * before
