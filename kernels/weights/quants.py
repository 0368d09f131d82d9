"""The quants of a panel block: 32 small unsigned numbers of each of 16 rows, as bits, and how they become bytes.

A block has 8 *parts*: part p is values 4p .. 4p + 3 of all 16 rows, 64 bytes once unpacked (row by row, 4 bytes each).
Packed, the low bits of all parts come first, then the high bits; several parts share a vector of 64 bytes, bit by bit:

    low_bits 8    part p is vector p
    low_bits 4    vector v holds part v in bits 0-3, part v + 4 in bits 4-7                               4 vectors
    low_bits 2    vector v holds part v in bits 0-1, v + 2 in bits 2-3, v + 4 in bits 4-5, v + 6 in 6-7   2 vectors
    high_bits 2   as low_bits 2
    high_bits 1   one vector, part p in bit p

A part that shares a vector is so a shift and a mask away. A table, if the format has one, makes signed values of
quants; it is kept plus 128, as all weights that need a sign.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from numoe.kernels.cpu import dots
from numoe.kernels.cpu.llvm import I16, LANES, V16I32, V64U8, offset, pointer

PARTS = 8
VECTOR_BYTES = 64

# Tables of 16 values, by number; 0: the quants are the values.
IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
MXFP4 = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)
TABLES: tuple[tuple[int, ...], ...] = ((), IQ4, MXFP4)
NO_TABLE, IQ4_TABLE, MXFP4_TABLE = range(3)

_V32I16 = ir.VectorType(I16, 32)


def quants_bytes(low_bits: int, high_bits: int) -> int:
    """Of one panel block."""
    return (low_bits + high_bits) * VECTOR_BYTES


def place_of(part: int, bits: int) -> tuple[int, int]:
    """The vector that holds `bits` bits of a part, and the first of those bits."""
    return part % bits, part // bits * bits


def _shift(builder: Any, vector: Any, left: int) -> Any:
    """Words, as there is no shift of bytes; what crosses from byte to byte is masked off by the caller."""
    words = builder.bitcast(vector, _V32I16)
    amount = ir.Constant(_V32I16, [abs(left)] * 32)
    moved = builder.shl(words, amount) if left > 0 else builder.lshr(words, amount)
    return builder.bitcast(moved, V64U8)


def _bits(builder: Any, address: Any, part: int, bits: int, target: int) -> Any:
    """The bits of a part, moved to bit `target` of each byte; all others 0."""
    vector, first = place_of(part, bits)
    loaded = builder.load(pointer(builder, offset(builder, address, VECTOR_BYTES * vector), V64U8), align=1)
    if bits == 8:
        return loaded
    moved = _shift(builder, loaded, target - first) if target != first else loaded
    return builder.and_(moved, ir.Constant(V64U8, [(2**bits - 1) << target] * 64))


def load_part(builder: Any, address: Any, part: int, low_bits: int, high_bits: int, table: int) -> Any:
    """64 bytes: the quants of a part, or what the table makes of them."""
    found = _bits(builder, address, part, low_bits, 0)
    if high_bits:
        high = _bits(builder, offset(builder, address, VECTOR_BYTES * low_bits), part, high_bits, low_bits)
        found = builder.or_(found, high)
    if table:
        found = dots.lookup(builder, found, tuple(value + 128 for value in TABLES[table]))
    return found


def multiply(builder: Any, part: Any, scales: Any, half: int) -> Any:
    """Bytes times the low (half 0) or high word of their lane's scales; the products are below 256.

    Two bytes are multiplied at once, as a word: the product of the lower does not reach the upper.
    """
    sixteen = ir.Constant(V16I32, [16] * LANES)
    if half:
        upper = builder.and_(scales, ir.Constant(V16I32, [0xFFFF0000] * LANES))
        both = builder.or_(builder.lshr(scales, sixteen), upper)
    else:
        lower = builder.and_(scales, ir.Constant(V16I32, [0xFFFF] * LANES))
        both = builder.or_(builder.shl(scales, sixteen), lower)
    return builder.bitcast(builder.mul(builder.bitcast(part, _V32I16), builder.bitcast(both, _V32I16)), V64U8)
