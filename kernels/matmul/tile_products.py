"""Operations on tiles that multiply integers and sum the products exactly, by dots.py."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from numoe.kernels.cpu.dots import dot2, dot4
from numoe.kernels.cpu.llvm import LANES, V16I32, Tile, i32x16, load_splat, offset
from numoe.kernels.matmul.groups import INTEGER_BYTES, VALUE_BYTES
from numoe.kernels.matmul.tile_operations import map_columns
from numoe.kernels.weights import quants
from numoe.kernels.weights.quants import PARTS


@intrinsic(prefer_literal=True)
def tile_dot_pairs(typing_context: Any, columns: Any, low: Any, high: Any, address: Any) -> Any:
    """low * x.low + high * x.high for the pair of int16 in each column's block; low and high are constants."""
    tile = Tile("i32", columns.literal_value)
    words = ir.Constant(V16I32, [(low.literal_value & 0xFFFF) | (high.literal_value & 0xFFFF) << 16] * LANES)

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        def each(column: int, _: Any) -> Any:
            pair = load_splat(builder, offset(builder, values[3], INTEGER_BYTES * column), V16I32)
            return dot2(builder, ir.Constant(V16I32, [0] * LANES), words, pair)

        return map_columns(builder, tile, ir.Constant(context.get_value_type(tile), ir.Undefined), each)

    return tile(columns, low, high, types.uintp), code


@intrinsic
def tile_add_pairs(typing_context: Any, tile: Any, words: Any, address: Any) -> Any:
    """tile[c] += words.low * x.low + words.high * x.high, x being a pair of int16, a field of each column's block."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        def each(column: int, sums: Any) -> Any:
            pair = load_splat(builder, offset(builder, values[2], INTEGER_BYTES * column), V16I32)
            return dot2(builder, sums, values[1], pair)

        return map_columns(builder, tile, values[0], each)

    return tile(tile, i32x16, types.uintp), code


@intrinsic
def tile_weigh_halves(typing_context: Any, first: Any, last: Any, words: Any) -> Any:
    """words.low * first[c] + words.high * last[c]; both tiles hold numbers that fit 16 bits."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        def each(column: int, low: Any) -> Any:
            high = builder.shl(builder.extract_value(values[1], column), ir.Constant(V16I32, [16] * LANES))
            pair = builder.or_(builder.and_(low, ir.Constant(V16I32, [0xFFFF] * LANES)), high)
            return dot2(builder, ir.Constant(V16I32, [0] * LANES), values[2], pair)

        return map_columns(builder, first, values[0], each)

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

    return map_columns(builder, tile, sums, each)
