"""Arithmetic on vectors of 16 floats, the same bits on every CPU.

Lanes never mix except in the `sum_`/`max_` reductions, whose order is fixed. All floating-point steps are single IEEE
operations or fused multiply-adds, written in the order they run.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from llvmlite import ir
from numba import types

from numoe.kernels.cpu.llvm import (
    F32,
    I32,
    LANES,
    V16F32,
    V16I32,
    call_llvm,
    constant_vector,
    f32x16,
    fma_value,
    splat_value,
)
from numoe.kernels.cpu.operation import operation

MOST_F32 = 2.0**128 - 2.0**104  # the largest finite float


@operation(f32x16, f32x16)
def finite(builder: Any, values: Any) -> Any:
    """x, with the largest finite float of its sign where it is infinite, and the lowest where it is NaN."""
    low = call_llvm(builder, "llvm.maxnum.v16f32", V16F32, values[0], constant_vector(-MOST_F32))
    return call_llvm(builder, "llvm.minnum.v16f32", V16F32, low, constant_vector(MOST_F32))


@operation(f32x16, types.float32)
def splat(builder: Any, values: Any) -> Any:
    """The same float in all lanes."""
    return splat_value(builder, values[0], V16F32)


@operation(f32x16, f32x16, f32x16)
def add(builder: Any, values: Any) -> Any:
    """x + y"""
    return builder.fadd(*values)


@operation(f32x16, f32x16, f32x16)
def sub(builder: Any, values: Any) -> Any:
    """x - y"""
    return builder.fsub(*values)


@operation(f32x16, f32x16)
def negate(builder: Any, values: Any) -> Any:
    """-x"""
    return builder.fneg(values[0])


@operation(f32x16, f32x16, f32x16)
def mul(builder: Any, values: Any) -> Any:
    """x * y"""
    return builder.fmul(*values)


@operation(f32x16, f32x16, f32x16)
def div(builder: Any, values: Any) -> Any:
    """x / y"""
    return builder.fdiv(*values)


@operation(f32x16, f32x16, f32x16, f32x16)
def fma(builder: Any, values: Any) -> Any:
    """x * y + z, rounded once"""
    return fma_value(builder, *values)


@operation(f32x16, f32x16, f32x16)
def maximum(builder: Any, values: Any) -> Any:
    """The larger of x and y, lane by lane; y where one is NaN."""
    return _larger(builder, *values)


@operation(types.float32, f32x16, f32x16)
def largest_magnitude(builder: Any, values: Any) -> Any:
    """The largest of |x| and |y| over all lanes; NaN where one is: without their signs, floats order as integers do."""
    rest = ir.Constant(V16I32, [0x7FFFFFFF] * LANES)
    bits = [builder.and_(builder.bitcast(value, V16I32), rest) for value in values]
    return builder.bitcast(_folded(builder, _larger_integer(builder, *bits), partial(_larger_integer, builder)), F32)


@operation(f32x16, f32x16)
def absolute(builder: Any, values: Any) -> Any:
    """|x|"""
    return call_llvm(builder, "llvm.fabs.v16f32", V16F32, *values)


@operation(f32x16, f32x16)
def round_even(builder: Any, values: Any) -> Any:
    """To the nearest whole number, ties to even."""
    return call_llvm(builder, "llvm.rint.v16f32", V16F32, *values)


@operation(f32x16, f32x16, f32x16, f32x16, f32x16)
def where_less(builder: Any, values: Any) -> Any:
    """a < b ? x : y, lane by lane."""
    return builder.select(builder.fcmp_ordered("<", values[0], values[1]), values[2], values[3])


@operation(f32x16, f32x16, f32x16)
def scale_by_power(builder: Any, values: Any) -> Any:
    """x * 2**n for whole n in -126..127 held in a float vector: n is added to the exponent field of 1.0."""
    exponent = builder.add(builder.fptosi(values[1], V16I32), ir.Constant(V16I32, [127] * LANES))
    power = builder.bitcast(builder.shl(exponent, ir.Constant(V16I32, [23] * LANES)), V16F32)
    return builder.fmul(values[0], power)


@operation(types.uint64, f32x16, f32x16, f32x16)
def lanes_between(builder: Any, values: Any) -> Any:
    """A bit for each lane of x that is at least as large as in the second vector, and less than in the third."""
    x, least, below = values
    found = builder.and_(builder.fcmp_ordered(">=", x, least), builder.fcmp_ordered("<", x, below))
    return builder.zext(builder.bitcast(found, ir.IntType(LANES)), ir.IntType(64))


@operation(types.uint64, types.uint64)
def lowest_bit(builder: Any, values: Any) -> Any:
    """The number of the lowest bit that is set; one is."""
    return builder.cttz(values[0], ir.Constant(ir.IntType(1), 1))


@operation(f32x16, types.uint64, f32x16, f32x16)
def where_bits(builder: Any, values: Any) -> Any:
    """Of the lowest 16 bits each for a lane: x where it is set, else y."""
    lanes = builder.bitcast(builder.trunc(values[0], ir.IntType(LANES)), ir.VectorType(ir.IntType(1), LANES))
    return builder.select(lanes, values[1], values[2])


def _larger(builder: Any, x: Any, y: Any) -> Any:
    """One operation of every CPU; LLVM's own maxima care for NaN, and take three."""
    return builder.select(builder.fcmp_ordered(">", x, y), x, y)


def _larger_integer(builder: Any, x: Any, y: Any) -> Any:
    return builder.select(builder.icmp_signed(">", x, y), x, y)


def _folded(builder: Any, vector: Any, fold: Callable[[Any, Any], Any]) -> Any:
    """One number of all lanes: the upper half onto the lower one, until one is left."""
    width = LANES
    while width > 1:
        width //= 2
        halves = [ir.Constant(ir.VectorType(I32, width), list(range(first, first + width))) for first in (0, width)]
        vector = fold(*(builder.shuffle_vector(vector, vector, half) for half in halves))
    return builder.extract_element(vector, ir.Constant(I32, 0))


@operation(types.float32, f32x16)
def sum_lanes(builder: Any, values: Any) -> Any:
    """The sum of the lanes, pairwise: halves are folded 8, 4, 2, 1."""
    return _folded(builder, values[0], builder.fadd)


@operation(types.float32, f32x16)
def max_lanes(builder: Any, values: Any) -> Any:
    """The largest lane."""
    return _folded(builder, values[0], partial(_larger, builder))


@operation(f32x16)
def lane_numbers(builder: Any, values: Any) -> Any:
    """0.0, 1.0, ... 15.0"""
    return ir.Constant(V16F32, [float(lane) for lane in range(LANES)])


@operation(types.float32, f32x16)
def first_lane(builder: Any, values: Any) -> Any:
    """Lane 0."""
    return builder.extract_element(values[0], ir.Constant(I32, 0))
