"""SIMD registers as Numba values, and the few operations on them that the kernels are made of.

A *vector* is 16 lanes: one row of a panel per lane. Lanes never mix except in the `sum_`/`max_` reductions, whose order
is fixed. All floating-point steps are single IEEE operations or fused multiply-adds, written in the order they run, so
every instruction set gives the same bits. All of it is generic LLVM IR, which LLVM lowers to what the CPU has.
Addresses are plain integers (uintp), in bytes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from numoe.kernels.cpu.instruction_sets import INSTRUCTION_SET
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
    constant_vector,
    f32x16,
    fma_value,
    i32x16,
    offset,
    pointer,
    splat_value,
)

MOST_F32 = 2.0**128 - 2.0**104  # the largest finite float

Generator = Callable[[Any, Any], Any]


def _operation(result: types.Type, *arguments: types.Type) -> Callable[[Generator], Any]:
    """Make an intrinsic of fixed types from a function (builder, arguments) -> LLVM value."""

    def decorate(generate: Generator) -> Any:
        def typing_of(_typing_context: Any, *_given: Any) -> Any:
            def code(context: Any, builder: Any, _signature: Any, values: Any) -> Any:
                made = generate(builder, values)
                return context.get_dummy_value() if result is types.void else made

            return result(*arguments), code

        names = ["typing_context", *(f"operand{index}" for index in range(len(arguments)))]
        parameters = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names]
        typing_of.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        typing_of.__name__, typing_of.__doc__ = generate.__name__, generate.__doc__
        return intrinsic(typing_of)

    return decorate


# Loads and stores.


@_operation(f32x16, types.uintp)
def load_f32x16(builder: Any, values: Any) -> Any:
    """16 floats."""
    return builder.load(pointer(builder, values[0], V16F32), align=4)


@_operation(f32x16, types.uintp)
def load_f16x16(builder: Any, values: Any) -> Any:
    """16 half floats, widened exactly."""
    half = builder.load(pointer(builder, values[0], ir.VectorType(F16, LANES)), align=2)
    return builder.fpext(half, V16F32)


@_operation(f32x16, types.uintp)
def load_bf16x16(builder: Any, values: Any) -> Any:
    """16 bfloat16, widened exactly: they are the upper halves of floats."""
    short = builder.load(pointer(builder, values[0], ir.VectorType(I16, LANES)), align=2)
    return builder.bitcast(
        builder.shl(builder.zext(short, V16I32), splat_value(builder, ir.Constant(I32, 16), V16I32)), V16F32
    )


@_operation(f32x16, types.uintp)
def load_i8x16(builder: Any, values: Any) -> Any:
    """16 signed bytes, as floats."""
    whole = builder.load(pointer(builder, values[0], ir.VectorType(I8, LANES)), align=1)
    return builder.sitofp(whole, V16F32)


@_operation(f32x16, types.uintp)
def load_u8x16(builder: Any, values: Any) -> Any:
    """16 unsigned bytes, as floats."""
    whole = builder.load(pointer(builder, values[0], ir.VectorType(I8, LANES)), align=1)
    return builder.uitofp(whole, V16F32)


@_operation(f32x16, types.uintp)
def load_e8m0x16(builder: Any, values: Any) -> Any:
    """16 exponents e, as the floats 2**(e - 128); below 2**-126 they are subnormal."""
    exponents = builder.zext(builder.load(pointer(builder, values[0], ir.VectorType(I8, LANES)), align=1), V16I32)
    one = ir.Constant(V16I32, [1] * LANES)
    normal = builder.shl(builder.sub(exponents, one), ir.Constant(V16I32, [23] * LANES))
    subnormal = builder.shl(ir.Constant(V16I32, [1 << 21] * LANES), builder.and_(exponents, one))
    is_normal = builder.icmp_unsigned(">", exponents, one)
    return builder.bitcast(builder.select(is_normal, normal, subnormal), V16F32)


def _load_pairs(builder: Any, address: Any, *, signed: bool) -> Any:
    halves = [
        builder.load(pointer(builder, offset(builder, address, LANES * half), ir.VectorType(I8, LANES)), align=1)
        for half in range(2)
    ]
    low, high = (builder.sext(half, V16I32) if signed else builder.zext(half, V16I32) for half in halves)
    word = ir.Constant(V16I32, [0xFFFF] * LANES)
    return builder.or_(builder.and_(low, word), builder.shl(high, ir.Constant(V16I32, [LANES] * LANES)))


@_operation(i32x16, types.uintp)
def load_u8_pairs(builder: Any, values: Any) -> Any:
    """Two times 16 unsigned bytes, as the low and the high words of 16 lanes."""
    return _load_pairs(builder, values[0], signed=False)


@_operation(i32x16, types.uintp)
def load_i8_pairs(builder: Any, values: Any) -> Any:
    """Two times 16 signed bytes, as the low and the high words of 16 lanes."""
    return _load_pairs(builder, values[0], signed=True)


@_operation(i32x16, i32x16)
def low_nibbles(builder: Any, values: Any) -> Any:
    """Bits 0-3 of each word."""
    return builder.and_(values[0], ir.Constant(V16I32, [0x000F000F] * LANES))


@_operation(i32x16, i32x16)
def high_nibbles(builder: Any, values: Any) -> Any:
    """Bits 4-7 of each word."""
    moved = builder.lshr(values[0], ir.Constant(V16I32, [4] * LANES))
    return builder.and_(moved, ir.Constant(V16I32, [0x000F000F] * LANES))


@_operation(i32x16, i32x16, types.int32)
def multiply_words(builder: Any, values: Any) -> Any:
    """Each of the two words of a lane times a number; the products fit 16 bits."""
    words = ir.VectorType(I16, 2 * LANES)
    factor = splat_value(builder, builder.trunc(values[1], I16), words)
    return builder.bitcast(builder.mul(builder.bitcast(values[0], words), factor), V16I32)


@_operation(types.float32, types.uintp)
def widen_f16(builder: Any, values: Any) -> Any:
    """One half float."""
    return builder.fpext(builder.load(pointer(builder, values[0], F16), align=2), F32)


@_operation(types.void, types.uintp, f32x16)
def store_f32x16(builder: Any, values: Any) -> Any:
    """16 floats."""
    builder.store(values[1], pointer(builder, values[0], V16F32), align=4)


@_operation(types.void, types.uintp, f32x16)
def store_f16x16(builder: Any, values: Any) -> Any:
    """16 floats rounded to half (nearest, ties to even); what half cannot hold becomes +-65504, NaN -65504."""
    low = call_llvm(builder, "llvm.maxnum.v16f32", V16F32, values[1], constant_vector(-65504.0))
    clamped = call_llvm(builder, "llvm.minnum.v16f32", V16F32, low, constant_vector(65504.0))
    half = builder.fptrunc(clamped, ir.VectorType(F16, LANES))
    builder.store(half, pointer(builder, values[0], ir.VectorType(F16, LANES)), align=2)


@_operation(types.void, types.uintp, f32x16)
def store_rounded(builder: Any, values: Any) -> Any:
    """16 floats that hold whole numbers in -127 .. 127, as values of an integer group (groups.py)."""
    whole = builder.fptosi(values[1], V16I32)
    if INSTRUCTION_SET.value_bytes == 2:
        order = [4 * four + value for four in range(LANES // 4) for value in (0, 2, 1, 3)]
        whole = builder.shuffle_vector(whole, whole, ir.Constant(V16I32, order))
    narrow = ir.VectorType(ir.IntType(8 * INSTRUCTION_SET.value_bytes), LANES)
    builder.store(builder.trunc(whole, narrow), pointer(builder, values[0], narrow), align=1)


@_operation(types.float32, types.uintp)
def load_f32(builder: Any, values: Any) -> Any:
    """One float."""
    return builder.load(pointer(builder, values[0], F32), align=4)


@_operation(types.uintp, types.uintp)
def load_address(builder: Any, values: Any) -> Any:
    """One address."""
    return builder.load(pointer(builder, values[0], I64), align=8)


@_operation(types.void, types.uintp, types.float32)
def store_f32(builder: Any, values: Any) -> Any:
    """One float."""
    builder.store(values[1], pointer(builder, values[0], F32), align=4)


@_operation(types.void, types.uintp, types.int32)
def store_i32(builder: Any, values: Any) -> Any:
    """One int32."""
    builder.store(values[1], pointer(builder, values[0], I32), align=4)


@_operation(types.void, types.uintp, types.float32)
def store_f16(builder: Any, values: Any) -> Any:
    """One float rounded to half, clamped as in store_f16x16."""
    low = call_llvm(builder, "llvm.maxnum.f32", F32, values[1], ir.Constant(F32, -65504.0))
    clamped = call_llvm(builder, "llvm.minnum.f32", F32, low, ir.Constant(F32, 65504.0))
    builder.store(builder.fptrunc(clamped, F16), pointer(builder, values[0], F16), align=2)


@_operation(types.void, types.uintp, types.uintp)
def copy_16(builder: Any, values: Any) -> Any:
    """Copy 16 bytes: to the first address, from the second."""
    chunk = ir.VectorType(I8, 16)
    builder.store(
        builder.load(pointer(builder, values[1], chunk), align=1), pointer(builder, values[0], chunk), align=1
    )


@_operation(types.void, types.uintp)
def prefetch(builder: Any, values: Any) -> Any:
    """Ask for a cache line to be brought into the first-level cache; any address will do."""
    read, first_level, data = ir.Constant(I32, 0), ir.Constant(I32, 3), ir.Constant(I32, 1)
    place = pointer(builder, values[0], I8)
    call_llvm(builder, "llvm.prefetch.p0", ir.VoidType(), place, read, first_level, data)


@_operation(types.void, types.uintp)
def prefetch_write(builder: Any, values: Any) -> Any:
    """Ask for a cache line that will be written."""
    write, first_level, data = ir.Constant(I32, 1), ir.Constant(I32, 3), ir.Constant(I32, 1)
    place = pointer(builder, values[0], I8)
    call_llvm(builder, "llvm.prefetch.p0", ir.VoidType(), place, write, first_level, data)


# Arithmetic on vectors.


@_operation(f32x16, f32x16)
def finite(builder: Any, values: Any) -> Any:
    """x, with the largest finite float of its sign where it is infinite, and the lowest where it is NaN."""
    low = call_llvm(builder, "llvm.maxnum.v16f32", V16F32, values[0], constant_vector(-MOST_F32))
    return call_llvm(builder, "llvm.minnum.v16f32", V16F32, low, constant_vector(MOST_F32))


@_operation(f32x16, types.float32)
def splat(builder: Any, values: Any) -> Any:
    """The same float in all lanes."""
    return splat_value(builder, values[0], V16F32)


@_operation(f32x16, f32x16, f32x16)
def add(builder: Any, values: Any) -> Any:
    """x + y"""
    return builder.fadd(*values)


@_operation(f32x16, f32x16, f32x16)
def sub(builder: Any, values: Any) -> Any:
    """x - y"""
    return builder.fsub(*values)


@_operation(f32x16, f32x16)
def negate(builder: Any, values: Any) -> Any:
    """-x"""
    return builder.fneg(values[0])


@_operation(f32x16, f32x16, f32x16)
def mul(builder: Any, values: Any) -> Any:
    """x * y"""
    return builder.fmul(*values)


@_operation(f32x16, f32x16, f32x16)
def div(builder: Any, values: Any) -> Any:
    """x / y"""
    return builder.fdiv(*values)


@_operation(f32x16, f32x16, f32x16, f32x16)
def fma(builder: Any, values: Any) -> Any:
    """x * y + z, rounded once"""
    return fma_value(builder, *values)


@_operation(f32x16, f32x16, f32x16)
def maximum(builder: Any, values: Any) -> Any:
    """The larger of x and y, lane by lane; y where one is NaN."""
    return _larger(builder, *values)


@_operation(f32x16, f32x16)
def absolute(builder: Any, values: Any) -> Any:
    """|x|"""
    return call_llvm(builder, "llvm.fabs.v16f32", V16F32, *values)


@_operation(f32x16, f32x16)
def round_even(builder: Any, values: Any) -> Any:
    """To the nearest whole number, ties to even."""
    return call_llvm(builder, "llvm.rint.v16f32", V16F32, *values)


@_operation(f32x16, f32x16, f32x16, f32x16, f32x16)
def where_less(builder: Any, values: Any) -> Any:
    """a < b ? x : y, lane by lane."""
    return builder.select(builder.fcmp_ordered("<", values[0], values[1]), values[2], values[3])


@_operation(f32x16, f32x16, f32x16)
def scale_by_power(builder: Any, values: Any) -> Any:
    """x * 2**n for whole n in -126..127 held in a float vector: n is added to the exponent field of 1.0."""
    exponent = builder.add(builder.fptosi(values[1], V16I32), ir.Constant(V16I32, [127] * LANES))
    power = builder.bitcast(builder.shl(exponent, ir.Constant(V16I32, [23] * LANES)), V16F32)
    return builder.fmul(values[0], power)


def _larger(builder: Any, x: Any, y: Any) -> Any:
    """One operation of every CPU; LLVM's own maxima care for NaN, and take three."""
    return builder.select(builder.fcmp_ordered(">", x, y), x, y)


def _folded(builder: Any, vector: Any, fold: Callable[[Any, Any], Any]) -> Any:
    """One number of all lanes: the upper half onto the lower one, until one is left."""
    width = LANES
    while width > 1:
        width //= 2
        halves = [ir.Constant(ir.VectorType(I32, width), list(range(first, first + width))) for first in (0, width)]
        vector = fold(*(builder.shuffle_vector(vector, vector, half) for half in halves))
    return builder.extract_element(vector, ir.Constant(I32, 0))


@_operation(types.float32, f32x16)
def sum_lanes(builder: Any, values: Any) -> Any:
    """The sum of the lanes, pairwise: halves are folded 8, 4, 2, 1."""
    return _folded(builder, values[0], builder.fadd)


@_operation(types.float32, f32x16)
def max_lanes(builder: Any, values: Any) -> Any:
    """The largest lane."""
    return _folded(builder, values[0], partial(_larger, builder))


@_operation(f32x16)
def lane_numbers(builder: Any, values: Any) -> Any:
    """0.0, 1.0, ... 15.0"""
    return ir.Constant(V16F32, [float(lane) for lane in range(LANES)])


@_operation(types.float32, f32x16)
def first_lane(builder: Any, values: Any) -> Any:
    """Lane 0."""
    return builder.extract_element(values[0], ir.Constant(I32, 0))
