"""Operations on tiles: C vectors, one per activation column, that take the same weights.

`stride` and `columns` are compile-time constants; column c's operand lies at address + c * stride, or if none is given
in the column's block of an integer group, INTEGER_BYTES after the one before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from numoe.kernels.cpu.llvm import (
    I8,
    I64,
    LANES,
    V16F32,
    V16I32,
    Tile,
    constant_vector,
    f32x16,
    fma_value,
    load_splat,
    offset,
    pointer,
)
from numoe.kernels.matmul.groups import INTEGER_BYTES


def map_columns(builder: Any, tile: Tile, value: Any, each: Callable[[int, Any], Any]) -> Any:
    """A tile of what `each` makes of a column's number and its vector in `value`."""
    result = value
    for column in range(tile.columns):
        result = builder.insert_value(result, each(column, builder.extract_value(value, column)), column)
    return result


def new_tile(context: Any, builder: Any, tile: Tile, each: Callable[[int], Any]) -> Any:
    """A tile of what `each` makes of a column's number."""
    undefined = ir.Constant(context.get_value_type(tile), ir.Undefined)
    return map_columns(builder, tile, undefined, lambda column, _: each(column))


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
        def each(column: int) -> Any:
            return load_splat(builder, offset(builder, values[1], INTEGER_BYTES * column), V16I32)

        return new_tile(context, builder, tile, each)

    return tile(columns, types.uintp), code


@intrinsic(prefer_literal=True)
def tile_load(typing_context: Any, columns: Any, address: Any) -> Any:
    """A float tile: 16 rows of each column, one column after the other."""
    tile = Tile("f32", columns.literal_value)

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        def each(column: int) -> Any:
            return builder.load(pointer(builder, offset(builder, values[1], 4 * LANES * column), V16F32), align=64)

        return new_tile(context, builder, tile, each)

    return tile(columns, types.uintp), code


@intrinsic(prefer_literal=True)
def stack_bytes(typing_context: Any, size: Any) -> Any:
    """The address of so many bytes on the stack, on a cache line, until the caller returns."""
    kind = ir.ArrayType(I8, size.literal_value)

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        place = cgutils.alloca_once(builder, kind)
        place.align = 64
        return builder.ptrtoint(place, I64)

    return types.intp(size), code


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

        return map_columns(builder, tile, values[0], each)

    return tile(tile, f32x16, types.uintp, stride), code


@intrinsic
def tile_add(typing_context: Any, tile: Any, other: Any) -> Any:
    """tile + other"""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return map_columns(builder, tile, values[0], lambda c, x: builder.fadd(x, builder.extract_value(values[1], c)))

    return tile(tile, other), code


@intrinsic
def tile_scale(typing_context: Any, dots: Any, scale: Any) -> Any:
    """scale * dots[c], dots being whole numbers, rounded once where they are not below 2**24; a float tile."""
    tile = Tile("f32", dots.columns)

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return new_tile(context, builder, tile, lambda c: builder.fmul(values[1], _as_float(builder, values[0], c)))

    return tile(dots, f32x16), code


@intrinsic
def tile_add_dots(typing_context: Any, tile: Any, dots: Any, scale: Any) -> Any:
    """tile[c] + scale * dots[c], rounded once"""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        def each(column: int, sums: Any) -> Any:
            return fma_value(builder, values[2], _as_float(builder, values[1], column), sums)

        return map_columns(builder, tile, values[0], each)

    return tile(tile, dots, f32x16), code


@intrinsic
def tile_add_scaled(typing_context: Any, tile: Any, block: Any, address: Any) -> Any:
    """tile[c] += x_scale[c] * block[c]; x_scale: a field of each column's block."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        def each(column: int, sums: Any) -> Any:
            x_scale = load_splat(builder, offset(builder, values[2], INTEGER_BYTES * column), V16F32)
            return fma_value(builder, x_scale, builder.extract_value(values[1], column), sums)

        return map_columns(builder, tile, values[0], each)

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
