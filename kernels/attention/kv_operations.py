"""The operations on vectors that only the KV cache needs: storing its formats, and products of bytes and words."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from numoe.kernels.cpu.dots import dot2
from numoe.kernels.cpu.llvm import (
    I8,
    I16,
    I32,
    LANES,
    V16F32,
    V16I32,
    V64U8,
    call_llvm,
    constant_vector,
    f32x16,
    load_splat,
    offset,
    pointer,
)

MOST_BF16 = 2.0**128 - 2.0**120  # the largest finite bfloat16
PART_BYTES = 64  # of a part (quants.py): 4 bytes of each of 16 lanes

_V32I16 = ir.VectorType(I16, 32)


def _whole(builder: Any, vector: Any, element: Any) -> Any:
    """Floats that hold whole numbers, as integers of a type."""
    return builder.trunc(builder.fptosi(vector, V16I32), ir.VectorType(element, LANES))


def _bfloats(builder: Any, vector: Any) -> Any:
    """Rounded to nearest, ties to even; infinities become the largest finite number, NaN the lowest."""
    low = call_llvm(builder, "llvm.maxnum.v16f32", V16F32, vector, constant_vector(-MOST_BF16))
    clamped = call_llvm(builder, "llvm.minnum.v16f32", V16F32, low, constant_vector(MOST_BF16))
    bits, sixteen = builder.bitcast(clamped, V16I32), ir.Constant(V16I32, [16] * LANES)
    odd = builder.and_(builder.lshr(bits, sixteen), ir.Constant(V16I32, [1] * LANES))
    raised = builder.add(bits, builder.add(odd, ir.Constant(V16I32, [0x7FFF] * LANES)))
    return builder.trunc(builder.lshr(raised, sixteen), ir.VectorType(I16, LANES))


def _store_apart(builder: Any, address: Any, vector: Any, step: int) -> None:
    """Each lane `step` bytes after the one before."""
    for lane in range(vector.type.count):
        place = pointer(builder, offset(builder, address, step * lane), vector.type.element)
        builder.store(builder.extract_element(vector, ir.Constant(I32, lane)), place, align=1)


@intrinsic
def store_bf16x16(typing_context: Any, address: Any, vector: Any) -> Any:
    """16 floats rounded to finite bfloat16."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        rounded = _bfloats(builder, values[1])
        builder.store(rounded, pointer(builder, values[0], rounded.type), align=2)
        return context.get_dummy_value()

    return types.void(types.uintp, f32x16), code


@intrinsic
def store_key_bf16(typing_context: Any, address: Any, vector: Any) -> Any:
    """16 floats rounded to finite bfloat16, each 16 positions after the one before."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        _store_apart(builder, values[0], _bfloats(builder, values[1]), 2 * LANES)
        return context.get_dummy_value()

    return types.void(types.uintp, f32x16), code


@intrinsic
def store_key_bytes(typing_context: Any, address: Any, vector: Any) -> Any:
    """16 whole numbers in -127 .. 127 plus 128 as bytes: four side by side, the next four a part further."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        signs = ir.Constant(ir.VectorType(I8, LANES), [-128] * LANES)
        fours = builder.bitcast(builder.xor(_whole(builder, values[1], I8), signs), ir.VectorType(I32, 4))
        _store_apart(builder, values[0], fours, PART_BYTES)
        return context.get_dummy_value()

    return types.void(types.uintp, f32x16), code


@intrinsic
def store_value_bytes(typing_context: Any, address: Any, vector: Any) -> Any:
    """16 whole numbers in -127 .. 127 as signed bytes, 4 bytes apart."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        _store_apart(builder, values[0], _whole(builder, values[1], I8), 4)
        return context.get_dummy_value()

    return types.void(types.uintp, f32x16), code


@intrinsic
def store_words(typing_context: Any, address: Any, vector: Any) -> Any:
    """16 whole numbers in 0 .. 32767, as words."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        words = _whole(builder, values[1], I16)
        builder.store(words, pointer(builder, values[0], words.type), align=2)
        return context.get_dummy_value()

    return types.void(types.uintp, f32x16), code


@intrinsic(prefer_literal=True)
def tile_dot_words(typing_context: Any, tile: Any, part: Any, words: Any, stride: Any, half: Any) -> Any:
    """tile[c] += half of the products of a part's 4 signed bytes per lane with 4 words at `words` + c * stride, exact.

    The words are in order; the bytes are those of 0, 2, 1, 3. Half 0 takes the first two words, half 1 the others.
    """
    step, upper = stride.literal_value, half.literal_value

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        sums, place, x = values[:3]
        eight = ir.Constant(_V32I16, [8] * 32)
        both = builder.bitcast(builder.load(pointer(builder, place, V64U8), align=1), _V32I16)
        pairs = builder.bitcast(builder.ashr(both if upper else builder.shl(both, eight), eight), V16I32)
        for column in range(tile.columns):
            weights = load_splat(builder, offset(builder, x, step * column + 4 * upper), V16I32)
            total = dot2(builder, builder.extract_value(sums, column), pairs, weights)
            sums = builder.insert_value(sums, total, column)
        return sums

    return tile(tile, types.uintp, types.uintp, stride, half), code


@intrinsic
def tile_add_i32(typing_context: Any, tile: Any, other: Any) -> Any:
    """tile + other"""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        total = values[0]
        for column in range(tile.columns):
            both = (builder.extract_value(one, column) for one in values)
            total = builder.insert_value(total, builder.add(*both), column)
        return total

    return tile(tile, other), code
