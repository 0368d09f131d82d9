"""The formats a weight matrix can have: how a block of the file is read, what it means, and how 16 rows become a panel.

A file block (*unit*) holds 32 or 256 values of one row: a scale d, maybe a second number m, then per 16 or 32 values
small scales (and minima), and the quants. file_blocks.py unscrambles each format's bits into the same fields; a panel
is then drawn by the numbers below, and nothing else depends on the format:

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
from functools import partial

import numpy as np

from numoe.kernels.cpu.jit import kernel
from numoe.kernels.weights.quants import IQ4_TABLE, MXFP4_TABLE, NO_TABLE, quants_bytes

BLOCK = 32  # values along the input in a block, for every format
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
    high_bits: int = 0  # of a quant
    offset: int = 0
    table: int = NO_TABLE  # its number in quants.py
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


_float = partial(Format, meaning=Meaning.FLOAT, unit_values=32)
_scaled = partial(Format, meaning=Meaning.SCALED, unit_values=32)
_shifted = partial(Format, meaning=Meaning.SHIFTED, unit_values=32)
_k_scaled = partial(Format, meaning=Meaning.K_SCALED, unit_values=256)
_k_shifted = partial(Format, meaning=Meaning.K_SHIFTED, unit_values=256)

FORMATS = (
    _float("F32",        ggml_type=0,  unit_bytes=128, low_bits=32),
    _float("F16",        ggml_type=1,  unit_bytes=64,  low_bits=16),
    _float("BF16",       ggml_type=30, unit_bytes=64,  low_bits=16),

    _scaled("Q8_0",      ggml_type=8,  unit_bytes=34,  low_bits=8, offset=128),
    _scaled("Q4_0",      ggml_type=2,  unit_bytes=18,  low_bits=4, offset=8),
    _scaled("Q5_0",      ggml_type=6,  unit_bytes=22,  low_bits=4, high_bits=1, offset=16),
    _scaled("IQ4_NL",    ggml_type=20, unit_bytes=18,  low_bits=4, offset=128, table=IQ4_TABLE),
    _scaled("MXFP4",     ggml_type=39, unit_bytes=17,  low_bits=4, offset=128, table=MXFP4_TABLE, scale_bytes=1),

    _shifted("Q4_1",     ggml_type=3,  unit_bytes=20,  low_bits=4),
    _shifted("Q5_1",     ggml_type=7,  unit_bytes=24,  low_bits=4, high_bits=1),

    _k_scaled("Q3_K",    ggml_type=11, unit_bytes=110, low_bits=2, high_bits=1, offset=4, scales=2),
    _k_scaled("Q6_K",    ggml_type=14, unit_bytes=210, low_bits=4, high_bits=2, offset=32, scales=2, most_columns=6),
    _k_scaled("IQ4_XS",  ggml_type=23, unit_bytes=136, low_bits=4, offset=128, table=IQ4_TABLE, scales=1),

    _k_shifted("Q2_K",   ggml_type=10, unit_bytes=84,  low_bits=2, scales=2),
    _k_shifted("Q4_K",   ggml_type=12, unit_bytes=144, low_bits=4, scales=2),
    _k_shifted("Q5_K",   ggml_type=13, unit_bytes=176, low_bits=4, high_bits=1, scales=2),
)  # fmt: skip
NUMBERS = {format_.name: number for number, format_ in enumerate(FORMATS)}  # a format's row in the table of tiles
F32_TILE, F16_TILE, BF16_TILE = NUMBERS["F32"], NUMBERS["F16"], NUMBERS["BF16"]
BY_GGML_TYPE = {format_.ggml_type: format_ for format_ in FORMATS}

# The numbers of each format, for compiled code.
_FIELDS = (
    "unit_values", "unit_bytes", "low_bits", "high_bits", "offset", "table", "scales", "scale_bytes",
    "scales_start", "head_bytes", "units_together", "block_bytes",
)  # fmt: skip
DRAWINGS = np.array(
    [(number, int(one.meaning), *(getattr(one, field) for field in _FIELDS)) for number, one in enumerate(FORMATS)],
    np.dtype([(name, np.int64) for name in ("number", "meaning", *_FIELDS)]),
)


@kernel
def unit_places(
    start: int, index: int, units: int, together: int, head_bytes: int, quants_bytes: int
) -> tuple[int, int]:
    """Where head and quants of unit `index` lie in a panel of so many units that begins at `start`."""
    before = index % together
    heads = start + (head_bytes + quants_bytes) * (index - before)
    quants = heads + head_bytes * min(together, units - index + before)
    return heads + head_bytes * before, quants + quants_bytes * before
