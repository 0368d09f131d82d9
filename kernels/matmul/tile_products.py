"""Operations on tiles that multiply integers and sum the products exactly, by dots.py.

Where BYTE_PAIRS two products of bytes become a sum of 16 bits, and as many of those are added as must fit: those of 8
parts of 4-bit quants, of 4 of 5 bits, of 2 of 6 bits, of 1 of signed bytes. Then pairs of sums are widened.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from numoe.kernels.cpu.dots import BYTE_PAIRS, REGISTER, add_pairs, byte_pairs, dot2, dot4
from numoe.kernels.cpu.llvm import (
    I32,
    I64,
    LANES,
    V16I32,
    V64U8,
    Tile,
    constant_of,
    i32x16,
    joined,
    lanes_of,
    load_splat,
    offset,
    pointer,
)
from numoe.kernels.matmul.groups import INTEGER_BYTES, MOST_VALUE
from numoe.kernels.matmul.tile_operations import map_columns, new_tile
from numoe.kernels.weights import quants
from numoe.kernels.weights.quants import NO_TABLE, PARTS, VECTOR_BYTES

MOST_WORD = 32767
UNPACKED_BYTES = PARTS * VECTOR_BYTES  # of a block


class Form(NamedTuple):
    """How quants are kept, see quants.py."""

    low_bits: int
    high_bits: int
    table: int
    unpacked: bool  # whether they are read as `tile_unpack` wrote them

    @property
    def signed(self) -> bool:
        """Whether they are signed values plus 128."""
        return quants.has_sign(self.low_bits, self.table)

    def load(self, builder: Any, place: Any, part: int, kind: Any) -> Any:
        """A part of a block, those with a sign as they are multiplied."""
        if self.unpacked:
            return quants.load_unpacked(builder, place, part, kind)
        minus = 128 if BYTE_PAIRS and self.signed else 0
        return quants.load_part(builder, place, part, *self[:3], minus=minus, kind=kind)


@intrinsic(prefer_literal=True)
def tile_unpack(typing_context: Any, weights: Any, out: Any, low_bits: Any, high_bits: Any, table: Any) -> Any:
    """Write a block's quants as bytes that are read instead of them: UNPACKED_BYTES, on a cache line."""
    form = Form(low_bits.literal_value, high_bits.literal_value, table.literal_value, unpacked=False)

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        for start in range(0, VECTOR_BYTES, REGISTER.count):
            source, place = (offset(builder, address, start) for address in values[:2])
            rows = [form.load(builder, source, part, REGISTER) for part in range(PARTS)]  # all before the first store
            for part, row in enumerate(rows):
                own = pointer(builder, offset(builder, place, VECTOR_BYTES * part), REGISTER)
                builder.store(row, own, align=32)
        return context.get_dummy_value()

    return types.void(weights, out, low_bits, high_bits, table), code


@intrinsic(prefer_literal=True)
def tile_dot_pairs(typing_context: Any, columns: Any, low: Any, high: Any, address: Any) -> Any:
    """low * x.low + high * x.high for the pair of int16 in each column's block; low and high are constants."""
    tile = Tile("i32", columns.literal_value)
    words = ir.Constant(V16I32, [(low.literal_value & 0xFFFF) | (high.literal_value & 0xFFFF) << 16] * LANES)

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        def each(column: int) -> Any:
            pair = load_splat(builder, offset(builder, values[3], INTEGER_BYTES * column), V16I32)
            return dot2(builder, ir.Constant(V16I32, [0] * LANES), words, pair)

        return new_tile(context, builder, tile, each)

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


@intrinsic(prefer_literal=True)
def tile_dot(
    typing_context: Any,
    tile: Any,
    weights: Any,
    x: Any,
    low_bits: Any,
    high_bits: Any,
    table: Any,
    unpacked: Any,
    first: Any,
    last: Any,
) -> Any:
    """tile[c] += the products of parts `first` .. `last` - 1 of one block (quants.py), exact.

    weights: address of the block's quants; x: address of the block's values of column 0. The rest are constants.
    """
    form = Form(low_bits.literal_value, high_bits.literal_value, table.literal_value, bool(unpacked.literal_value))
    parts = range(first.literal_value, last.literal_value)

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        sums, place, x = values[:3]
        return _add_products(builder, tile, sums, place, x, form, parts)

    return tile(tile, types.uintp, types.uintp, low_bits, high_bits, table, unpacked, first, last), code


@intrinsic(prefer_literal=True)
def tile_dot_halves(
    typing_context: Any,
    columns: Any,
    weights: Any,
    x: Any,
    low_bits: Any,
    high_bits: Any,
    unpacked: Any,
    scales: Any,
) -> Any:
    """scales.low * the products of a block's first half + scales.high * those of its last half, exact.

    Either half's products fit 16 bits, and so do the scales.
    """
    tile = Tile("i32", columns.literal_value)
    form = Form(low_bits.literal_value, high_bits.literal_value, NO_TABLE, bool(unpacked.literal_value))

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        _, place, x, *_, pairs = values
        sums = ir.Constant(context.get_value_type(tile), [constant_of(V16I32, 0)] * tile.columns)
        halves = range(PARTS // 2), range(PARTS // 2, PARTS)
        if BYTE_PAIRS:
            for half, parts in enumerate(halves):
                scale = quants.both_words(builder, pairs, half)
                sums = _add_products(builder, tile, sums, place, x, form, parts, scale)
            return sums
        first, last = (_add_products(builder, tile, sums, place, x, form, parts) for parts in halves)

        def each(column: int, low: Any) -> Any:
            high = builder.shl(builder.extract_value(last, column), ir.Constant(V16I32, [16] * LANES))
            both = builder.or_(builder.and_(low, ir.Constant(V16I32, [0xFFFF] * LANES)), high)
            return dot2(builder, constant_of(V16I32, 0), pairs, both)

        return map_columns(builder, tile, first, each)

    return tile(columns, types.uintp, types.uintp, low_bits, high_bits, unpacked, i32x16), code


@intrinsic(prefer_literal=True)
def tile_dot_weighed(typing_context: Any, columns: Any, weights: Any, x: Any, low_bits: Any, scales: Any) -> Any:
    """As tile_dot_halves, each quant times its half's scale before: fewer operations for many columns; not BYTE_PAIRS.

    Quants and scales are unsigned, their products below 256.
    """
    tile, bits = Tile("i32", columns.literal_value), low_bits.literal_value

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        _, place, x, _, words = values
        sums = ir.Constant(context.get_value_type(tile), [constant_of(V16I32, 0)] * tile.columns)
        for part in range(PARTS):
            row = quants.load_part(builder, place, part, bits, 0, 0)
            row = quants.multiply(builder, row, words, part // (PARTS // 2))
            sums = _dot_part(builder, tile, sums, row, x, part)
        return sums

    return tile(columns, types.uintp, types.uintp, low_bits, i32x16), code


def _add_products(
    builder: Any,
    tile: Tile,
    sums: Any,
    place: Any,
    x: Any,
    form: Form,
    parts: range,
    scale: Any = None,  # <16 x i32>, words to multiply sums of two products with; only where BYTE_PAIRS
) -> Any:
    """sums[c] + the products of some parts."""
    if not BYTE_PAIRS:
        for part in parts:
            sums = _dot_part(builder, tile, sums, form.load(builder, place, part, V64U8), x, part)
        return sums
    together = MOST_WORD // (2 * MOST_VALUE * quants.largest(*form[:3]))
    factors = constant_of(V16I32, 0x00010001) if scale is None else scale
    lanes, columns = REGISTER.count // 4, range(tile.columns)
    registers = []
    for start in range(0, LANES, lanes):  # all of one register first, so that few are in use
        totals = [lanes_of(builder, builder.extract_value(sums, column), start, lanes) for column in columns]
        weights = lanes_of(builder, factors, start, lanes)
        if (
            start and not form.signed
        ):  # LLVM would keep 8 registers of activations from one half to the other, in memory
            x = builder.asm(ir.FunctionType(I64, [I64]), "", "=r,0", [x], side_effect=False)
        for first in range(0, len(parts), together):
            source = offset(builder, place, 4 * start)
            words = _sum_pairs(builder, tile, source, x, form, parts[first : first + together])
            totals = [add_pairs(builder, total, word, weights) for total, word in zip(totals, words, strict=True)]
        registers.append(totals)
    for column, halves in enumerate(zip(*registers, strict=True)):
        sums = builder.insert_value(sums, joined(builder, *halves), column)
    return sums


def _sum_pairs(builder: Any, tile: Tile, place: Any, x: Any, form: Form, parts: range) -> list[Any]:
    """Per column a register of words: products of some parts, two of each added up; they fit."""
    x_kind = ir.VectorType(I32, REGISTER.count // 4)
    words: list[Any] = [None] * tile.columns
    for part in parts:
        row = form.load(builder, place, part, REGISTER)
        magnitudes = _magnitudes(builder, row) if form.signed else row
        for column in range(tile.columns):
            four = load_splat(builder, offset(builder, x, INTEGER_BYTES * column + 4 * part), x_kind)
            signs = (row,) if form.signed else ()
            pairs = byte_pairs(builder, magnitudes, builder.bitcast(four, REGISTER), *signs)
            words[column] = pairs if words[column] is None else builder.add(words[column], pairs)
    return words


def _magnitudes(builder: Any, row: Any) -> Any:
    zero = constant_of(row.type, 0)
    return builder.select(builder.icmp_signed("<", row, zero), builder.sub(zero, row), row)


def _dot_part(builder: Any, tile: Tile, sums: Any, row: Any, x: Any, part: int) -> Any:
    def each(column: int, total: Any) -> Any:
        four = load_splat(builder, offset(builder, x, INTEGER_BYTES * column + 4 * part), V16I32)
        return dot4(builder, total, row, builder.bitcast(four, V64U8))

    return map_columns(builder, tile, sums, each)
