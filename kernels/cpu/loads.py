"""Operations that load vectors and single numbers, and ask for cache lines that will be loaded."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from numoe.kernels.cpu.llvm import (
    F16,
    F32,
    I8,
    I16,
    I32,
    I64,
    LANES,
    V16F32,
    V16I32,
    call_llvm,
    f32x16,
    pointer,
    splat_value,
)
from numoe.kernels.cpu.operation import operation


@operation(f32x16, types.uintp)
def load_f32x16(builder: Any, values: Any) -> Any:
    """Load 16 floats."""
    return builder.load(pointer(builder, values[0], V16F32), align=4)


@operation(f32x16, types.uintp)
def load_f16x16(builder: Any, values: Any) -> Any:
    """Load 16 half floats, widened exactly."""
    half = builder.load(pointer(builder, values[0], ir.VectorType(F16, LANES)), align=2)
    return builder.fpext(half, V16F32)


@operation(f32x16, types.uintp)
def load_bf16x16(builder: Any, values: Any) -> Any:
    """Load 16 bfloat16, widened exactly: they are the upper halves of floats."""
    short = builder.load(pointer(builder, values[0], ir.VectorType(I16, LANES)), align=2)
    return builder.bitcast(
        builder.shl(builder.zext(short, V16I32), splat_value(builder, ir.Constant(I32, 16), V16I32)), V16F32
    )


@operation(f32x16, types.uintp)
def load_i8x16(builder: Any, values: Any) -> Any:
    """Load 16 signed bytes as floats."""
    whole = builder.load(pointer(builder, values[0], ir.VectorType(I8, LANES)), align=1)
    return builder.sitofp(whole, V16F32)


@operation(f32x16, types.uintp)
def load_u8x16(builder: Any, values: Any) -> Any:
    """Load 16 unsigned bytes as floats."""
    whole = builder.load(pointer(builder, values[0], ir.VectorType(I8, LANES)), align=1)
    return builder.uitofp(whole, V16F32)


@operation(f32x16, types.uintp)
def load_e8m0x16(builder: Any, values: Any) -> Any:
    """Load 16 exponents e as the floats 2**(e - 128); below 2**-126 they are subnormal."""
    exponents = builder.zext(builder.load(pointer(builder, values[0], ir.VectorType(I8, LANES)), align=1), V16I32)
    one = ir.Constant(V16I32, [1] * LANES)
    normal = builder.shl(builder.sub(exponents, one), ir.Constant(V16I32, [23] * LANES))
    subnormal = builder.shl(ir.Constant(V16I32, [1 << 21] * LANES), builder.and_(exponents, one))
    is_normal = builder.icmp_unsigned(">", exponents, one)
    return builder.bitcast(builder.select(is_normal, normal, subnormal), V16F32)


@operation(types.float32, types.uintp)
def widen_f16(builder: Any, values: Any) -> Any:
    """Load one half float as a float."""
    return builder.fpext(builder.load(pointer(builder, values[0], F16), align=2), F32)


@operation(types.float32, types.uintp)
def load_f32(builder: Any, values: Any) -> Any:
    """Load one float."""
    return builder.load(pointer(builder, values[0], F32), align=4)


@operation(types.uintp, types.uintp)
def load_address(builder: Any, values: Any) -> Any:
    """Load one address."""
    return builder.load(pointer(builder, values[0], I64), align=8)


@operation(types.void, types.uintp)
def prefetch(builder: Any, values: Any) -> Any:
    """Ask for a cache line to be brought into the first-level cache; any address will do."""
    read, first_level, data = ir.Constant(I32, 0), ir.Constant(I32, 3), ir.Constant(I32, 1)
    place = pointer(builder, values[0], I8)
    call_llvm(builder, "llvm.prefetch.p0", ir.VoidType(), place, read, first_level, data)
