"""The types of SIMD registers, and the pieces of LLVM IR that the operations on them are generated from."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import models, register_model

LANES = 16

I8, I16, I32, I64 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64)
F16, F32 = ir.HalfType(), ir.FloatType()
_ELEMENTS = {"i32": I32, "f32": F32}
V16F32, V16I32, V32I16, V64U8 = (ir.VectorType(*shape) for shape in ((F32, 16), (I32, 16), (I16, 32), (I8, 64)))


class Vector(types.Type):
    """The Numba type of one register."""

    def __init__(self, element: str, lanes: int) -> None:
        self.element, self.lanes = element, lanes
        super().__init__(f"Vector({element} x {lanes})")


class Tile(types.Type):
    """The Numba type of `columns` registers of 16 lanes."""

    def __init__(self, element: str, columns: int) -> None:
        self.element, self.columns = element, columns
        super().__init__(f"Tile({element} x {LANES}, {columns})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, vector: Vector) -> None:
        super().__init__(manager, vector, ir.VectorType(_ELEMENTS[vector.element], vector.lanes))


@register_model(Tile)
class _TileModel(models.PrimitiveModel):
    def __init__(self, manager: Any, tile: Tile) -> None:
        vector = ir.VectorType(_ELEMENTS[tile.element], LANES)
        super().__init__(manager, tile, ir.ArrayType(vector, tile.columns))


i32x16 = Vector("i32", 16)
f32x16 = Vector("f32", 16)


def pointer(builder: Any, address: Any, element: Any) -> Any:
    """A pointer to an element of a type, from an address that is a number."""
    return builder.inttoptr(address, element.as_pointer())


def offset(builder: Any, address: Any, count: int) -> Any:
    """The address `count` bytes further on."""
    return builder.add(address, ir.Constant(I64, count))


def splat_value(builder: Any, scalar: Any, vector: Any) -> Any:
    """A vector of a type with the same number in all lanes."""
    undefined = ir.Constant(vector, ir.Undefined)
    one = builder.insert_element(undefined, scalar, ir.Constant(I32, 0))
    return builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(I32, vector.count), [0] * vector.count))


def call_llvm(builder: Any, name: str, result: Any, *arguments: Any) -> Any:
    """Call one of LLVM's intrinsics."""
    signature = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, signature, name), arguments)


def load_splat(builder: Any, address: Any, vector: Any) -> Any:
    """Load one number into all lanes of a vector of a type."""
    return splat_value(builder, builder.load(pointer(builder, address, vector.element), align=4), vector)


def fma_value(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c of vectors of floats, rounded once."""
    return call_llvm(builder, "llvm.fma.v16f32", V16F32, a, b, c)


def joined(builder: Any, *halves: Any) -> Any:
    """One vector of 16 lanes, or two halves as one."""
    if len(halves) == 1:
        return halves[0]
    return builder.shuffle_vector(*halves, ir.Constant(V16I32, list(range(LANES))))


def lanes_of(builder: Any, vector: Any, first: int, count: int) -> Any:
    """Some lanes of a vector."""
    if count == vector.type.count:
        return vector
    return builder.shuffle_vector(
        vector, vector, ir.Constant(ir.VectorType(I32, count), list(range(first, first + count)))
    )


def constant_of(vector: Any, value: int) -> Any:
    """A vector of a type of integers with the same number in all lanes."""
    return ir.Constant(vector, [value] * vector.count)


def constant_vector(value: float) -> Any:
    """A vector of floats with the same number in all lanes."""
    return ir.Constant(V16F32, [value] * LANES)
