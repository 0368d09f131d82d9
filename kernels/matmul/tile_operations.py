"""Operations on tiles: C vectors, one per activation column, that take the same weights.

`stride` and `columns` are compile-time constants; column c's operand lies at address + c * stride, or if none is given
in the column's block of an integer group, INTEGER_BYTES after the one before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from numoe.kernels.cpu.dots import dot2, dot4
from numoe.kernels.cpu.llvm import (
    I64,
    LANES,
    V16F32,
    V16I32,
    Tile,
    constant_vector,
    f32x16,
    fma_value,
    i32x16,
    load_splat,
    offset,
    pointer,
)
from numoe.kernels.matmul.groups import INTEGER_BYTES, VALUE_BYTES
from numoe.kernels.weights import quants
from numoe.kernels.weights.quants import PARTS


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
def tile_zero_i32(typing_context: Any, columns: Any) -> Any:
    """An integer tile of zeros."""
    tile = Tile("i32", columns.literal_value)

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return ir.Constant(context.get_value_type(tile), [ir.Constant(V16I32, [0] * LANES)] * tile.columns)

    return tile(columns), code


@intrinsic(prefer_literal=True)
def tile_load_i32(typing_context: Any, columns: Any, address: Any) -> Any:
    """An integer tile: each column starts at its own int32, a field of its block."""
    tile = Tile("i32", columns.literal_value)

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        undefined = ir.Constant(context.get_value_type(tile), ir.Undefined)
        return _map_columns(
            builder,
            tile,
            undefined,
            lambda c, _: load_splat(builder, offset(builder, values[1], INTEGER_BYTES * c), V16I32),
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
def tile_scale(typing_context: Any, dots: Any, scale: Any) -> Any:
    """scale * dots[c], dots being whole numbers below 2**24; a float tile."""
    tile = Tile("f32", dots.columns)

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        undefined = ir.Constant(context.get_value_type(tile), ir.Undefined)
        return _map_columns(
            builder, tile, undefined, lambda c, _: builder.fmul(values[1], _as_float(builder, values[0], c))
        )

    return tile(dots, f32x16), code


@intrinsic
def tile_add_dots(typing_context: Any, tile: Any, dots: Any, scale: Any) -> Any:
    """tile[c] + scale * dots[c], rounded once"""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        def each(column: int, sums: Any) -> Any:
            return fma_value(builder, values[2], _as_float(builder, values[1], column), sums)

        return _map_columns(builder, tile, values[0], each)

    return tile(tile, dots, f32x16), code


@intrinsic
def tile_add_scaled(typing_context: Any, tile: Any, block: Any, address: Any) -> Any:
    """tile[c] += x_scale[c] * block[c]; x_scale: a field of each column's block."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        def each(column: int, sums: Any) -> Any:
            x_scale = load_splat(builder, offset(builder, values[2], INTEGER_BYTES * column), V16F32)
            return fma_value(builder, x_scale, builder.extract_value(values[1], column), sums)

        return _map_columns(builder, tile, values[0], each)

    return tile(tile, block, types.uintp), code


def _as_float(builder: Any, dots: Any, column: int) -> Any:
    return builder.sitofp(builder.extract_value(dots, column), V16F32)


@intrinsic
def tile_store(typing_context: Any, tile: Any, address: Any, stride: Any) -> Any:
    """Column c's 16 rows go to address + c * stride; stride in bytes, not a constant."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        for column in range(tile.columns):
            place = builder.add(values[1], builder.mul(values[2], ir.Constant(I64, column)))
            builder.store(builder.extract_value(values[0], column), pointer(builder, place, V16F32), align=4)
        return context.get_dummy_value()

    return types.void(tile, types.uintp, types.intp), code


@intrinsic(prefer_literal=True)
def tile_dot_pairs(typing_context: Any, columns: Any, low: Any, high: Any, address: Any) -> Any:
    """low * x.low + high * x.high for the pair of int16 in each column's block; low and high are constants."""
    tile = Tile("i32", columns.literal_value)
    words = ir.Constant(V16I32, [(low.literal_value & 0xFFFF) | (high.literal_value & 0xFFFF) << 16] * LANES)

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        def each(column: int, _: Any) -> Any:
            pair = load_splat(builder, offset(builder, values[3], INTEGER_BYTES * column), V16I32)
            return dot2(builder, ir.Constant(V16I32, [0] * LANES), words, pair)

        return _map_columns(builder, tile, ir.Constant(context.get_value_type(tile), ir.Undefined), each)

    return tile(columns, low, high, types.uintp), code


@intrinsic
def tile_add_pairs(typing_context: Any, tile: Any, words: Any, address: Any) -> Any:
    """tile[c] += words.low * x.low + words.high * x.high, x being a pair of int16, a field of each column's block."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        def each(column: int, sums: Any) -> Any:
            pair = load_splat(builder, offset(builder, values[2], INTEGER_BYTES * column), V16I32)
            return dot2(builder, sums, values[1], pair)

        return _map_columns(builder, tile, values[0], each)

    return tile(tile, i32x16, types.uintp), code


@intrinsic
def tile_weigh_halves(typing_context: Any, first: Any, last: Any, words: Any) -> Any:
    """words.low * first[c] + words.high * last[c]; both tiles hold numbers that fit 16 bits."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        def each(column: int, low: Any) -> Any:
            high = builder.shl(builder.extract_value(values[1], column), ir.Constant(V16I32, [16] * LANES))
            pair = builder.or_(builder.and_(low, ir.Constant(V16I32, [0xFFFF] * LANES)), high)
            return dot2(builder, ir.Constant(V16I32, [0] * LANES), values[2], pair)

        return _map_columns(builder, first, values[0], each)

    return first(first, last, i32x16), code


@intrinsic(prefer_literal=True)
def tile_dot(
    typing_context: Any,
    tile: Any,
    weights: Any,
    x: Any,
    low_bits: Any,
    high_bits: Any,
    table: Any,
    first: Any,
    last: Any,
) -> Any:
    """tile[c] += the products of parts `first` .. `last` - 1 of one block (quants.py), exact.

    weights: address of the block's quants; x: address of the block's values of column 0. The rest are constants.
    """
    constants = [value.literal_value for value in (low_bits, high_bits, table, first, last)]

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        sums, place, x = values[:3]
        for part in range(*constants[3:]):
            row = quants.load_part(builder, place, part, *constants[:3])
            sums = _dot_part(builder, tile, sums, row, x, part)
        return sums

    return tile(tile, types.uintp, types.uintp, low_bits, high_bits, table, first, last), code


@intrinsic(prefer_literal=True)
def tile_dot_weighed(typing_context: Any, tile: Any, weights: Any, x: Any, low_bits: Any, scales: Any) -> Any:
    """As tile_dot for a whole block, each quant times its half's scale: words.low first, words.high last.

    Quants and scales are unsigned, their products below 256.
    """
    bits = low_bits.literal_value

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        sums, place, x, _, words = values
        for part in range(PARTS):
            row = quants.load_part(builder, place, part, bits, 0, 0)
            row = quants.multiply(builder, row, words, part // (PARTS // 2))
            sums = _dot_part(builder, tile, sums, row, x, part)
        return sums

    return tile(tile, types.uintp, types.uintp, low_bits, i32x16), code


def _dot_part(builder: Any, tile: Tile, sums: Any, row: Any, x: Any, part: int) -> Any:
    def each(column: int, total: Any) -> Any:
        return dot4(builder, total, row, offset(builder, x, INTEGER_BYTES * column + 4 * VALUE_BYTES * part))

    return _map_columns(builder, tile, sums, each)
