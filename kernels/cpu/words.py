"""Operations on vectors of two words a lane: the small scales that two halves of a block have (Q2_K, Q3_K)."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from numoe.kernels.cpu.llvm import I8, I16, LANES, V16I32, i32x16, offset, pointer, splat_value
from numoe.kernels.cpu.operation import operation


def _load_pairs(builder: Any, address: Any, *, signed: bool) -> Any:
    """The words of 16 bytes as the low words of lanes, those of the next 16 as the high words."""
    halves = [
        builder.load(pointer(builder, offset(builder, address, LANES * half), ir.VectorType(I8, LANES)), align=1)
        for half in range(2)
    ]
    low, high = (builder.sext(half, V16I32) if signed else builder.zext(half, V16I32) for half in halves)
    word = ir.Constant(V16I32, [0xFFFF] * LANES)
    return builder.or_(builder.and_(low, word), builder.shl(high, ir.Constant(V16I32, [LANES] * LANES)))


@operation(i32x16, types.uintp)
def load_u8_pairs(builder: Any, values: Any) -> Any:
    """Load two times 16 unsigned bytes as the low and the high words of 16 lanes."""
    return _load_pairs(builder, values[0], signed=False)


@operation(i32x16, types.uintp)
def load_i8_pairs(builder: Any, values: Any) -> Any:
    """Load two times 16 signed bytes as the low and the high words of 16 lanes."""
    return _load_pairs(builder, values[0], signed=True)


@operation(i32x16, i32x16)
def low_nibbles(builder: Any, values: Any) -> Any:
    """Bits 0-3 of each word."""
    return builder.and_(values[0], ir.Constant(V16I32, [0x000F000F] * LANES))


@operation(i32x16, i32x16)
def high_nibbles(builder: Any, values: Any) -> Any:
    """Bits 4-7 of each word."""
    moved = builder.lshr(values[0], ir.Constant(V16I32, [4] * LANES))
    return builder.and_(moved, ir.Constant(V16I32, [0x000F000F] * LANES))


@operation(i32x16, i32x16, types.int32)
def multiply_words(builder: Any, values: Any) -> Any:
    """Each of the two words of a lane times a number; the products fit 16 bits."""
    words = ir.VectorType(I16, 2 * LANES)
    factor = splat_value(builder, builder.trunc(values[1], I16), words)
    return builder.bitcast(builder.mul(builder.bitcast(values[0], words), factor), V16I32)
