"""Operations that store vectors in the formats of the KV cache, and words for its tiles."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from numoe.kernels.cpu.llvm import (
    F16,
    I8,
    I16,
    I32,
    LANES,
    V16F32,
    V16I32,
    call_llvm,
    constant_vector,
    f32x16,
    offset,
    pointer,
)

MOST_BF16 = 2.0**128 - 2.0**120  # the largest finite bfloat16
PART_BYTES = 64  # of a part (quants.py): 4 bytes of each of 16 lanes


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
    """Store each lane `step` bytes after the one before."""
    for lane in range(vector.type.count):
        place = pointer(builder, offset(builder, address, step * lane), vector.type.element)
        builder.store(builder.extract_element(vector, ir.Constant(I32, lane)), place, align=1)


@intrinsic
def store_bf16x16(typing_context: Any, address: Any, vector: Any) -> Any:
    """Store 16 floats, rounded to finite bfloat16."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        rounded = _bfloats(builder, values[1])
        builder.store(rounded, pointer(builder, values[0], rounded.type), align=2)
        return context.get_dummy_value()

    return types.void(types.uintp, f32x16), code


@intrinsic
def store_key_bf16(typing_context: Any, address: Any, vector: Any) -> Any:
    """Store 16 floats, rounded to finite bfloat16, each 16 positions after the one before."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        _store_apart(builder, values[0], _bfloats(builder, values[1]), 2 * LANES)
        return context.get_dummy_value()

    return types.void(types.uintp, f32x16), code


@intrinsic
def store_key_f16(typing_context: Any, address: Any, vector: Any) -> Any:
    """Store 16 floats, rounded to half and clamped as store_f16x16 does, each 16 positions after the one before."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        low = call_llvm(builder, "llvm.maxnum.v16f32", V16F32, values[1], constant_vector(-65504.0))
        clamped = call_llvm(builder, "llvm.minnum.v16f32", V16F32, low, constant_vector(65504.0))
        half = builder.fptrunc(clamped, ir.VectorType(F16, LANES))
        _store_apart(builder, values[0], builder.bitcast(half, ir.VectorType(I16, LANES)), 2 * LANES)
        return context.get_dummy_value()

    return types.void(types.uintp, f32x16), code


@intrinsic
def store_key_bytes(typing_context: Any, address: Any, vector: Any) -> Any:
    """Store 16 whole numbers in -127 .. 127 plus 128 as bytes: four side by side, the next four a part further."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        signs = ir.Constant(ir.VectorType(I8, LANES), [-128] * LANES)
        fours = builder.bitcast(builder.xor(_whole(builder, values[1], I8), signs), ir.VectorType(I32, 4))
        _store_apart(builder, values[0], fours, PART_BYTES)
        return context.get_dummy_value()

    return types.void(types.uintp, f32x16), code


@intrinsic
def store_value_bytes(typing_context: Any, address: Any, vector: Any) -> Any:
    """Store 16 whole numbers in -127 .. 127 as signed bytes, 4 bytes apart."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        _store_apart(builder, values[0], _whole(builder, values[1], I8), 4)
        return context.get_dummy_value()

    return types.void(types.uintp, f32x16), code


@intrinsic
def store_words(typing_context: Any, address: Any, vector: Any) -> Any:
    """Store 16 whole numbers in 0 .. 32767 as words."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        words = _whole(builder, values[1], I16)
        builder.store(words, pointer(builder, values[0], words.type), align=2)
        return context.get_dummy_value()

    return types.void(types.uintp, f32x16), code
