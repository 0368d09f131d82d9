"""SIMD registers as Numba values, and the few operations the kernels are made of.

A *vector* is 16 lanes: one row of a panel per lane. A *tile* is C vectors, one per activation column. Lanes never mix
except in the `sum_`/`max_` reductions, whose order is fixed. All floating-point steps are single IEEE operations or
fused multiply-adds, written in the order they run, so every instruction set gives the same bits.

Only `tile_dot4` differs by instruction set; the rest is generic LLVM IR, which LLVM lowers to what the CPU has.
Addresses are plain integers (uintp), in bytes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

from numoe.kernels.jit import INSTRUCTION_SET

LANES = 16

I8, I16, I32, I64 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64)
F16, F32 = ir.HalfType(), ir.FloatType()
_ELEMENTS = {"u8": I8, "i32": I32, "f32": F32}
_V16F32, _V16I32, _V64U8 = ir.VectorType(F32, 16), ir.VectorType(I32, 16), ir.VectorType(I8, 64)


class Vector(types.Type):  # type: ignore[misc]
    """The Numba type of one register."""

    def __init__(self, element: str, lanes: int) -> None:
        self.element, self.lanes = element, lanes
        super().__init__(f"Vector({element} x {lanes})")


class Tile(types.Type):  # type: ignore[misc]
    """The Numba type of `columns` registers of 16 lanes."""

    def __init__(self, element: str, columns: int) -> None:
        self.element, self.columns = element, columns
        super().__init__(f"Tile({element} x {LANES}, {columns})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, vector: Vector) -> None:
        super().__init__(manager, vector, ir.VectorType(_ELEMENTS[vector.element], vector.lanes))


@register_model(Tile)
class _TileModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, tile: Tile) -> None:
        vector = ir.VectorType(_ELEMENTS[tile.element], LANES)
        super().__init__(manager, tile, ir.ArrayType(vector, tile.columns))


u8x64 = Vector("u8", 64)
i32x16 = Vector("i32", 16)
f32x16 = Vector("f32", 16)


# Building blocks of the code generators below.


def _pointer(builder: Any, address: Any, element: Any) -> Any:
    return builder.inttoptr(address, element.as_pointer())


def _offset(builder: Any, address: Any, count: int) -> Any:
    return builder.add(address, ir.Constant(I64, count))


def _splat(builder: Any, scalar: Any, vector: Any) -> Any:
    undefined = ir.Constant(vector, ir.Undefined)
    one = builder.insert_element(undefined, scalar, ir.Constant(I32, 0))
    return builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(I32, vector.count), [0] * vector.count))


def _call(builder: Any, name: str, result: Any, *arguments: Any) -> Any:
    signature = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, signature, name), arguments)


def _load_splat(builder: Any, address: Any, vector: Any) -> Any:
    return _splat(builder, builder.load(_pointer(builder, address, vector.element), align=4), vector)


def _fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    return _call(builder, "llvm.fma.v16f32", _V16F32, a, b, c)


def _constant(value: float) -> Any:
    return ir.Constant(_V16F32, [value] * LANES)


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


@_operation(u8x64, types.uintp)
def load_u8x64(builder: Any, values: Any) -> Any:
    """64 bytes."""
    return builder.load(_pointer(builder, values[0], _V64U8), align=1)


@_operation(f32x16, types.uintp)
def load_f32x16(builder: Any, values: Any) -> Any:
    """16 floats."""
    return builder.load(_pointer(builder, values[0], _V16F32), align=4)


@_operation(f32x16, types.uintp)
def load_f16x16(builder: Any, values: Any) -> Any:
    """16 half floats, widened exactly."""
    half = builder.load(_pointer(builder, values[0], ir.VectorType(F16, LANES)), align=2)
    return builder.fpext(half, _V16F32)


@_operation(f32x16, types.uintp)
def load_bf16x16(builder: Any, values: Any) -> Any:
    """16 bfloat16, widened exactly: they are the upper halves of floats."""
    short = builder.load(_pointer(builder, values[0], ir.VectorType(I16, LANES)), align=2)
    return builder.bitcast(builder.shl(builder.zext(short, _V16I32), _splat(builder, ir.Constant(I32, 16), _V16I32)), _V16F32)


@_operation(f32x16, types.uintp)
def load_i8x16(builder: Any, values: Any) -> Any:
    """16 signed bytes, as floats."""
    whole = builder.load(_pointer(builder, values[0], ir.VectorType(I8, LANES)), align=1)
    return builder.sitofp(whole, _V16F32)


@_operation(types.float32, types.uintp)
def widen_f16(builder: Any, values: Any) -> Any:
    """One half float."""
    return builder.fpext(builder.load(_pointer(builder, values[0], F16), align=2), F32)


@_operation(types.void, types.uintp, f32x16)
def store_f32x16(builder: Any, values: Any) -> Any:
    """16 floats."""
    builder.store(values[1], _pointer(builder, values[0], _V16F32), align=4)


@_operation(types.void, types.uintp, f32x16)
def store_f16x16(builder: Any, values: Any) -> Any:
    """16 floats rounded to half (nearest, ties to even); what half cannot hold becomes +-65504, NaN -65504."""
    low = _call(builder, "llvm.maxnum.v16f32", _V16F32, values[1], _constant(-65504.0))
    clamped = _call(builder, "llvm.minnum.v16f32", _V16F32, low, _constant(65504.0))
    half = builder.fptrunc(clamped, ir.VectorType(F16, LANES))
    builder.store(half, _pointer(builder, values[0], ir.VectorType(F16, LANES)), align=2)


@_operation(types.void, types.uintp, f32x16)
def store_i8x16(builder: Any, values: Any) -> Any:
    """16 floats that hold whole numbers in -128..127, as signed bytes."""
    whole = builder.trunc(builder.fptosi(values[1], _V16I32), ir.VectorType(I8, LANES))
    builder.store(whole, _pointer(builder, values[0], ir.VectorType(I8, LANES)), align=1)


@_operation(types.float32, types.uintp)
def load_f32(builder: Any, values: Any) -> Any:
    """One float."""
    return builder.load(_pointer(builder, values[0], F32), align=4)


@_operation(types.void, types.uintp, types.float32)
def store_f32(builder: Any, values: Any) -> Any:
    """One float."""
    builder.store(values[1], _pointer(builder, values[0], F32), align=4)


@_operation(types.void, types.uintp, types.int32)
def store_i32(builder: Any, values: Any) -> Any:
    """One int32."""
    builder.store(values[1], _pointer(builder, values[0], I32), align=4)


@_operation(types.void, types.uintp, types.float32)
def store_f16(builder: Any, values: Any) -> Any:
    """One float rounded to half, clamped as in store_f16x16."""
    low = _call(builder, "llvm.maxnum.f32", F32, values[1], ir.Constant(F32, -65504.0))
    clamped = _call(builder, "llvm.minnum.f32", F32, low, ir.Constant(F32, 65504.0))
    builder.store(builder.fptrunc(clamped, F16), _pointer(builder, values[0], F16), align=2)


@_operation(types.void, types.uintp, types.uintp)
def copy_32(builder: Any, values: Any) -> Any:
    """Copy 32 bytes: to the first address, from the second."""
    chunk = ir.VectorType(I8, 32)
    builder.store(builder.load(_pointer(builder, values[1], chunk), align=1), _pointer(builder, values[0], chunk), align=1)


# Arithmetic on vectors.


@_operation(f32x16, types.float32)
def splat(builder: Any, values: Any) -> Any:
    """The same float in all lanes."""
    return _splat(builder, values[0], _V16F32)


@_operation(f32x16, f32x16, f32x16)
def add(builder: Any, values: Any) -> Any:
    """x + y"""
    return builder.fadd(*values)


@_operation(f32x16, f32x16, f32x16)
def sub(builder: Any, values: Any) -> Any:
    """x - y"""
    return builder.fsub(*values)


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
    return _fma(builder, *values)


@_operation(f32x16, f32x16, f32x16)
def maximum(builder: Any, values: Any) -> Any:
    """The larger of x and y, lane by lane; the other one where one is NaN."""
    return _call(builder, "llvm.maxnum.v16f32", _V16F32, *values)


@_operation(f32x16, f32x16)
def absolute(builder: Any, values: Any) -> Any:
    """|x|"""
    return _call(builder, "llvm.fabs.v16f32", _V16F32, *values)


@_operation(f32x16, f32x16)
def round_even(builder: Any, values: Any) -> Any:
    """To the nearest whole number, ties to even."""
    return _call(builder, "llvm.rint.v16f32", _V16F32, *values)


@_operation(f32x16, f32x16, f32x16, f32x16, f32x16)
def where_less(builder: Any, values: Any) -> Any:
    """a < b ? x : y, lane by lane."""
    return builder.select(builder.fcmp_ordered("<", values[0], values[1]), values[2], values[3])


@_operation(f32x16, f32x16, f32x16)
def scale_by_power(builder: Any, values: Any) -> Any:
    """x * 2**n for whole n in -126..127 held in a float vector: n is added to the exponent field of 1.0."""
    exponent = builder.add(builder.fptosi(values[1], _V16I32), ir.Constant(_V16I32, [127] * LANES))
    power = builder.bitcast(builder.shl(exponent, ir.Constant(_V16I32, [23] * LANES)), _V16F32)
    return builder.fmul(values[0], power)


@_operation(types.float32, f32x16)
def sum_lanes(builder: Any, values: Any) -> Any:
    """The sum of the lanes, pairwise: halves are folded 8, 4, 2, 1."""
    vector, width = values[0], LANES
    while width > 1:
        width //= 2
        low = ir.Constant(ir.VectorType(I32, width), list(range(width)))
        high = ir.Constant(ir.VectorType(I32, width), list(range(width, 2 * width)))
        vector = builder.fadd(builder.shuffle_vector(vector, vector, low), builder.shuffle_vector(vector, vector, high))
    return builder.extract_element(vector, ir.Constant(I32, 0))


@_operation(types.float32, f32x16)
def max_lanes(builder: Any, values: Any) -> Any:
    """The largest lane."""
    return _call(builder, "llvm.vector.reduce.fmax.v16f32", F32, values[0])


@_operation(f32x16)
def lane_numbers(builder: Any, values: Any) -> Any:
    """0.0, 1.0, ... 15.0"""
    return ir.Constant(_V16F32, [float(lane) for lane in range(LANES)])


@_operation(types.float32, f32x16)
def first_lane(builder: Any, values: Any) -> Any:
    """Lane 0."""
    return builder.extract_element(values[0], ir.Constant(I32, 0))


# Tiles. `stride` and `columns` are compile-time constants; column c's operand lies at address + c * stride.


def _map_columns(builder: Any, tile: Tile, value: Any, each: Callable[[int, Any], Any]) -> Any:
    result = value
    for column in range(tile.columns):
        result = builder.insert_value(result, each(column, builder.extract_value(value, column)), column)
    return result


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def tile_zero(typing_context: Any, columns: Any) -> Any:
    """A float tile of zeros."""
    tile = Tile("f32", columns.literal_value)

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return ir.Constant(context.get_value_type(tile), [_constant(0.0)] * tile.columns)

    return tile(columns), code


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def tile_load_i32(typing_context: Any, columns: Any, address: Any) -> Any:
    """An integer tile: each column starts at its own int32, 4 bytes apart."""
    tile = Tile("i32", columns.literal_value)

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        undefined = ir.Constant(context.get_value_type(tile), ir.Undefined)
        return _map_columns(
            builder, tile, undefined, lambda c, _: _load_splat(builder, _offset(builder, values[1], 4 * c), _V16I32)
        )

    return tile(columns, types.uintp), code


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def tile_fma(typing_context: Any, tile: Any, weights: Any, address: Any, stride: Any) -> Any:
    """tile[c] += weights * x[c], x[c] one float at address + c * stride."""
    if not isinstance(stride, types.IntegerLiteral):
        return None
    step = stride.literal_value

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        def each(column: int, sums: Any) -> Any:
            return _fma(builder, values[1], _load_splat(builder, _offset(builder, values[2], step * column), _V16F32), sums)

        return _map_columns(builder, tile, values[0], each)

    return tile(tile, f32x16, types.uintp, stride), code


@intrinsic  # type: ignore[untyped-decorator]
def tile_add(typing_context: Any, tile: Any, other: Any) -> Any:
    """tile + other"""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return _map_columns(builder, tile, values[0], lambda c, x: builder.fadd(x, builder.extract_value(values[1], c)))

    return tile(tile, other), code


@intrinsic  # type: ignore[untyped-decorator]
def tile_add_scaled(typing_context: Any, tile: Any, dots: Any, scale: Any, address: Any) -> Any:
    """tile[c] += (scale * x_scale[c]) * dots[c]; x_scale: floats 4 bytes apart, dots: whole numbers below 2**24."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        def each(column: int, sums: Any) -> Any:
            x_scale = _load_splat(builder, _offset(builder, values[3], 4 * column), _V16F32)
            dot = builder.sitofp(builder.extract_value(values[1], column), _V16F32)
            return _fma(builder, builder.fmul(values[2], x_scale), dot, sums)

        return _map_columns(builder, tile, values[0], each)

    return tile(tile, dots, f32x16, types.uintp), code


@intrinsic  # type: ignore[untyped-decorator]
def tile_store(typing_context: Any, tile: Any, address: Any, stride: Any) -> Any:
    """Column c's 16 rows go to address + c * stride; stride in bytes, not a constant."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        for column in range(tile.columns):
            place = builder.add(values[1], builder.mul(values[2], ir.Constant(I64, column)))
            builder.store(builder.extract_value(values[0], column), _pointer(builder, place, _V16F32), align=4)
        return context.get_dummy_value()

    return types.void(tile, types.uintp, types.intp), code


def _dot4_vnni(builder: Any, sums: Any, weights: Any, x: Any) -> Any:
    return _call(builder, "llvm.x86.avx512.vpdpbusd.512", _V16I32, sums, weights, builder.bitcast(x, _V64U8))


def _dot4_portable(builder: Any, sums: Any, weights: Any, x: Any) -> Any:
    """Byte by byte in 32-bit lanes: weights unsigned, x signed."""
    words = builder.bitcast(weights, _V16I32)
    for byte in range(4):
        low = ir.Constant(_V16I32, [8 * byte] * LANES)
        unsigned = builder.and_(builder.lshr(words, low), ir.Constant(_V16I32, [255] * LANES))
        up = builder.shl(x, ir.Constant(_V16I32, [24 - 8 * byte] * LANES))
        signed = builder.ashr(up, ir.Constant(_V16I32, [24] * LANES))
        sums = builder.add(sums, builder.mul(unsigned, signed))
    return sums


_DOT4 = {"avx512vnni": _dot4_vnni, "portable": _dot4_portable}[INSTRUCTION_SET]


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def tile_dot4(typing_context: Any, tile: Any, weights: Any, address: Any, stride: Any) -> Any:
    """tile[c] += the 4 products u8 * s8 of each lane, exact; weights: 16 rows x 4 bytes, x[c]: 4 bytes at address + c * stride."""
    if not isinstance(stride, types.IntegerLiteral):
        return None
    step = stride.literal_value

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        def each(column: int, sums: Any) -> Any:
            return _DOT4(builder, sums, values[1], _load_splat(builder, _offset(builder, values[2], step * column), _V16I32))

        return _map_columns(builder, tile, values[0], each)

    return tile(tile, u8x64, types.uintp, stride), code
