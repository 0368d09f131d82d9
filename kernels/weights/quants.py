"""The quants of a panel block: 32 small unsigned numbers of each of 16 rows, as bits, and how they become bytes.

A block has 8 *parts*: part p is values 4p .. 4p + 3 of all 16 rows, 64 bytes once unpacked (row by row, 4 bytes each).
Packed, the low bits of all parts come first, then the high bits; several parts share a vector of 64 bytes, bit by bit:

    low_bits 8    part p is vector p
    low_bits 4    vector v holds part v in bits 0-3, part v + 4 in bits 4-7                               4 vectors
    low_bits 2    vector v holds part v in bits 0-1, v + 2 in bits 2-3, v + 4 in bits 4-5, v + 6 in 6-7   2 vectors
    high_bits 2   as low_bits 2
    high_bits 1   one vector, part p in bit p

A part that shares a vector is so a shift and a mask away. A table, if the format has one, makes values with a sign.
What needs a sign is kept plus 128, and multiplied so where the CPU multiplies unsigned bytes by signed ones.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from numoe.kernels.cpu import dots
from numoe.kernels.cpu.llvm import I16, LANES, V16I32, V32I16, V64U8, constant_of, offset, pointer

PARTS = 8
VECTOR_BYTES = 64

# Tables of 16 values, by number; 0: the quants are the values.
IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
MXFP4 = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)
TABLES: tuple[tuple[int, ...], ...] = ((), IQ4, MXFP4)
NO_TABLE, IQ4_TABLE, MXFP4_TABLE = range(3)


def quants_bytes(low_bits: int, high_bits: int) -> int:
    """Of one panel block."""
    return (low_bits + high_bits) * VECTOR_BYTES


def place_of(part: int, bits: int) -> tuple[int, int]:
    """The vector that holds `bits` bits of a part, and the first of those bits."""
    return part % bits, part // bits * bits


def _shift(builder: Any, vector: Any, left: int) -> Any:
    """Words, as there is no shift of bytes; what crosses from byte to byte is masked off by the caller."""
    words = builder.bitcast(vector, ir.VectorType(I16, vector.type.count // 2))
    amount = constant_of(words.type, abs(left))
    moved = builder.shl(words, amount) if left > 0 else builder.lshr(words, amount)
    return builder.bitcast(moved, vector.type)


def _bits(builder: Any, address: Any, part: int, bits: int, target: int, kind: Any) -> Any:
    """The bits of a part, moved to bit `target` of each byte; all others 0."""
    vector, first = place_of(part, bits)
    loaded = builder.load(pointer(builder, offset(builder, address, VECTOR_BYTES * vector), kind), align=1)
    if bits == 8:
        return loaded
    moved = _shift(builder, loaded, target - first) if target != first else loaded
    return builder.and_(moved, constant_of(kind, (2**bits - 1) << target))


def has_sign(low_bits: int, table: int) -> bool:
    """Whether quants are signed values plus 128."""
    return low_bits == 8 or table != NO_TABLE


def largest(low_bits: int, high_bits: int, table: int) -> int:
    """The largest magnitude of a quant, of those with a sign less 128."""
    if has_sign(low_bits, table):
        return max(abs(value) for value in TABLES[table]) if table else 128
    return int(2 ** (low_bits + high_bits)) - 1


def load_part(
    builder: Any,
    address: Any,
    part: int,
    low_bits: int,
    high_bits: int,
    table: int,
    minus: int = 0,  # 0 or 128
    kind: Any = V64U8,
) -> Any:
    """The quants of a part, or what the table makes of them, those with a sign less `minus`.

    `kind` is the type of 64 bytes, or of 32 of them from that address on.
    """
    found = _bits(builder, address, part, low_bits, 0, kind)
    if high_bits:
        high = _bits(builder, offset(builder, address, VECTOR_BYTES * low_bits), part, high_bits, low_bits, kind)
        found = builder.or_(found, high)
    if table:
        return dots.lookup(builder, found, tuple((value + 128 - minus) & 0xFF for value in TABLES[table]))
    return builder.xor(found, constant_of(kind, minus)) if minus else found


def load_unpacked(builder: Any, address: Any, part: int, kind: Any) -> Any:
    """As `load_part`, of quants that were unpacked before, part by part."""
    return builder.load(pointer(builder, offset(builder, address, VECTOR_BYTES * part), kind), align=32)


def both_words(builder: Any, pairs: Any, half: int) -> Any:
    """The low (half 0) or high word of each lane, twice."""
    sixteen = ir.Constant(V16I32, [16] * LANES)
    if half:
        upper = builder.and_(pairs, ir.Constant(V16I32, [0xFFFF0000] * LANES))
        return builder.or_(builder.lshr(pairs, sixteen), upper)
    lower = builder.and_(pairs, ir.Constant(V16I32, [0xFFFF] * LANES))
    return builder.or_(builder.shl(pairs, sixteen), lower)


def multiply(builder: Any, part: Any, scales: Any, half: int) -> Any:
    """Bytes times the low (half 0) or high word of their lane's scales; the products are below 256.

    Two bytes are multiplied at once, as a word: the product of the lower does not reach the upper.
    """
    both = builder.bitcast(both_words(builder, scales, half), V32I16)
    return builder.bitcast(builder.mul(builder.bitcast(part, V32I16), both), V64U8)
