"""Operations that store vectors and single numbers, and ask for cache lines that will be stored to."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from numoe.kernels.cpu.llvm import F16, F32, I8, I16, I32, LANES, V16F32, call_llvm, constant_vector, f32x16, pointer
from numoe.kernels.cpu.operation import operation


@operation(types.void, types.uintp, f32x16)
def store_f32x16(builder: Any, values: Any) -> Any:
    """Store 16 floats."""
    builder.store(values[1], pointer(builder, values[0], V16F32), align=4)


@operation(types.void, types.uintp, f32x16)
def store_f16x16(builder: Any, values: Any) -> Any:
    """Store 16 floats rounded to half (nearest, ties to even); what half cannot hold becomes +-65504, NaN -65504."""
    low = call_llvm(builder, "llvm.maxnum.v16f32", V16F32, values[1], constant_vector(-65504.0))
    clamped = call_llvm(builder, "llvm.minnum.v16f32", V16F32, low, constant_vector(65504.0))
    half = builder.fptrunc(clamped, ir.VectorType(F16, LANES))
    builder.store(half, pointer(builder, values[0], ir.VectorType(F16, LANES)), align=2)


@operation(types.void, types.uintp, types.float32)
def store_f32(builder: Any, values: Any) -> Any:
    """Store one float."""
    builder.store(values[1], pointer(builder, values[0], F32), align=4)


@operation(types.void, types.uintp, types.int32)
def store_i32(builder: Any, values: Any) -> Any:
    """Store one int32."""
    builder.store(values[1], pointer(builder, values[0], I32), align=4)


@operation(types.void, types.uintp, types.float32)
def store_f16(builder: Any, values: Any) -> Any:
    """Store one float rounded to half, clamped as in store_f16x16."""
    low = call_llvm(builder, "llvm.maxnum.f32", F32, values[1], ir.Constant(F32, -65504.0))
    clamped = call_llvm(builder, "llvm.minnum.f32", F32, low, ir.Constant(F32, 65504.0))
    builder.store(builder.fptrunc(clamped, F16), pointer(builder, values[0], F16), align=2)


@operation(types.void, types.uintp)
def store_short_nan(builder: Any, values: Any) -> Any:
    """Store 16 bits that are no number, neither as a half nor as a bfloat16."""
    builder.store(ir.Constant(I16, 0x7FFF), pointer(builder, values[0], I16), align=2)


@operation(types.void, types.uintp, types.uintp)
def copy_16(builder: Any, values: Any) -> Any:
    """Copy 16 bytes to the first address from the second."""
    chunk = ir.VectorType(I8, 16)
    builder.store(
        builder.load(pointer(builder, values[1], chunk), align=1), pointer(builder, values[0], chunk), align=1
    )


@operation(types.void, types.uintp)
def prefetch_write(builder: Any, values: Any) -> Any:
    """Ask for a cache line that will be written."""
    write, first_level, data = ir.Constant(I32, 1), ir.Constant(I32, 3), ir.Constant(I32, 1)
    place = pointer(builder, values[0], I8)
    call_llvm(builder, "llvm.prefetch.p0", ir.VoidType(), place, write, first_level, data)
