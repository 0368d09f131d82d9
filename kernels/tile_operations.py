"""Operations on tiles: C vectors, one per activation column, that take the same weights.

Only `tile_dot4` differs by instruction set; its sums are exact integers, so the bits do not. `stride` and `columns` are
compile-time constants; column c's operand lies at address + c * stride.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from numoe.kernels.jit import INSTRUCTION_SET
from numoe.kernels.llvm import (
    I64,
    LANES,
    V16F32,
    V16I32,
    V64U8,
    Tile,
    call_llvm,
    constant_vector,
    f32x16,
    fma_value,
    load_splat,
    offset,
    pointer,
    u8x64,
)


def _map_columns(builder: Any, tile: Tile, value: Any, each: Callable[[int, Any], Any]) -> Any:
    result = value
    for column in range(tile.columns):
        result = builder.insert_value(result, each(column, builder.extract_value(value, column)), column)
    return result


@intrinsic(prefer_literal=True)
def tile_zero(typing_context: Any, columns: Any) -> Any:
    """A float tile of zeros."""
    tile = Tile("f32", columns.literal_value)

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return ir.Constant(context.get_value_type(tile), [constant_vector(0.0)] * tile.columns)

    return tile(columns), code


@intrinsic(prefer_literal=True)
def tile_load_i32(typing_context: Any, columns: Any, address: Any) -> Any:
    """An integer tile: each column starts at its own int32, 4 bytes apart."""
    tile = Tile("i32", columns.literal_value)

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        undefined = ir.Constant(context.get_value_type(tile), ir.Undefined)
        return _map_columns(
            builder, tile, undefined, lambda c, _: load_splat(builder, offset(builder, values[1], 4 * c), V16I32)
        )

    return tile(columns, types.uintp), code


@intrinsic(prefer_literal=True)
def tile_fma(typing_context: Any, tile: Any, weights: Any, address: Any, stride: Any) -> Any:
    """tile[c] += weights * x[c], x[c] one float at address + c * stride."""
    if not isinstance(stride, types.IntegerLiteral):
        return None
    step = stride.literal_value

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        def each(column: int, sums: Any) -> Any:
            return fma_value(
                builder, values[1], load_splat(builder, offset(builder, values[2], step * column), V16F32), sums
            )

        return _map_columns(builder, tile, values[0], each)

    return tile(tile, f32x16, types.uintp, stride), code


@intrinsic
def tile_add(typing_context: Any, tile: Any, other: Any) -> Any:
    """tile + other"""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return _map_columns(builder, tile, values[0], lambda c, x: builder.fadd(x, builder.extract_value(values[1], c)))

    return tile(tile, other), code


@intrinsic
def tile_add_scaled(typing_context: Any, tile: Any, dots: Any, scale: Any, address: Any) -> Any:
    """tile[c] += (scale * x_scale[c]) * dots[c]; x_scale: floats 4 bytes apart, dots: whole numbers below 2**24."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        def each(column: int, sums: Any) -> Any:
            x_scale = load_splat(builder, offset(builder, values[3], 4 * column), V16F32)
            dot = builder.sitofp(builder.extract_value(values[1], column), V16F32)
            return fma_value(builder, builder.fmul(values[2], x_scale), dot, sums)

        return _map_columns(builder, tile, values[0], each)

    return tile(tile, dots, f32x16, types.uintp), code


@intrinsic
def tile_store(typing_context: Any, tile: Any, address: Any, stride: Any) -> Any:
    """Column c's 16 rows go to address + c * stride; stride in bytes, not a constant."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        for column in range(tile.columns):
            place = builder.add(values[1], builder.mul(values[2], ir.Constant(I64, column)))
            builder.store(builder.extract_value(values[0], column), pointer(builder, place, V16F32), align=4)
        return context.get_dummy_value()

    return types.void(tile, types.uintp, types.intp), code


def _dot4_vnni(builder: Any, sums: Any, weights: Any, x: Any) -> Any:
    return call_llvm(builder, "llvm.x86.avx512.vpdpbusd.512", V16I32, sums, weights, builder.bitcast(x, V64U8))


def _dot4_portable(builder: Any, sums: Any, weights: Any, x: Any) -> Any:
    """Byte by byte in 32-bit lanes: weights unsigned, x signed."""
    words = builder.bitcast(weights, V16I32)
    for byte in range(4):
        low = ir.Constant(V16I32, [8 * byte] * LANES)
        unsigned = builder.and_(builder.lshr(words, low), ir.Constant(V16I32, [255] * LANES))
        up = builder.shl(x, ir.Constant(V16I32, [24 - 8 * byte] * LANES))
        signed = builder.ashr(up, ir.Constant(V16I32, [24] * LANES))
        sums = builder.add(sums, builder.mul(unsigned, signed))
    return sums


_DOT4 = {"avx512vnni": _dot4_vnni, "portable": _dot4_portable}[INSTRUCTION_SET]


@intrinsic(prefer_literal=True)
def tile_dot4(typing_context: Any, tile: Any, weights: Any, address: Any, stride: Any) -> Any:
    """tile[c] += the 4 products u8 * s8 of each lane, exact.

    weights: 16 rows x 4 bytes; x[c]: 4 bytes at address + c * stride.
    """
    if not isinstance(stride, types.IntegerLiteral):
        return None
    step = stride.literal_value

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        def each(column: int, sums: Any) -> Any:
            return _DOT4(
                builder, sums, values[1], load_splat(builder, offset(builder, values[2], step * column), V16I32)
            )

        return _map_columns(builder, tile, values[0], each)

    return tile(tile, u8x64, types.uintp, stride), code
