"""Writing activation vectors as columns of groups, of integers or of floats.

Rounding to integers follows Q8: per block of 32 values, scale = max |x| / 127 (float32), q = round(x / scale), ties to
even. A block is rounded the same whoever rounds it: who made its values, who routes its token, or every worker alike.
The scale of a block with a value that is infinite or no number is none either, so that its products are none.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

from numoe.kernels.cpu.arithmetic import largest_magnitude, mul, round_even, splat, sum_lanes
from numoe.kernels.cpu.jit import kernel
from numoe.kernels.cpu.llvm import I8, LANES, V16I32, f32x16, pointer
from numoe.kernels.cpu.loads import load_f32x16
from numoe.kernels.cpu.operation import operation
from numoe.kernels.cpu.stores import copy_16, store_f32, store_f32x16, store_i32
from numoe.kernels.matmul.groups import FLOAT_BYTES, HALF_SUMS, INTEGER_BYTES, SCALE, SUM, SUM_128

_TINY = np.float32(1e-30)  # blocks below this are zeros: 127 / max would overflow


@kernel
def rounding_of(largest: np.float32) -> tuple[np.float32, np.float32]:
    """Of a block whose largest magnitude is given: its scale, and the factor before rounding to whole numbers."""
    inverse = np.float32(0.0)
    if largest > _TINY:
        inverse = np.float32(127.0) / largest
    return largest / np.float32(127.0), inverse


@operation(types.void, types.uintp, f32x16)
def store_rounded(builder: Any, values: Any) -> Any:
    """Store 16 floats that hold whole numbers in -127 .. 127 as values of an integer group (groups.py)."""
    narrow = ir.VectorType(I8, LANES)
    whole = builder.trunc(builder.fptosi(values[1], V16I32), narrow)
    builder.store(whole, pointer(builder, values[0], narrow), align=1)


@kernel
def write_integer_column(group: int, columns: int, column: int, x: int, blocks: int) -> None:
    """Round the float32 vector at x and write it as one column of the integer group of `columns` columns."""
    for block in range(blocks):
        place = group + (block * columns + column) * INTEGER_BYTES
        a, b = load_f32x16(x + 128 * block), load_f32x16(x + 128 * block + 64)
        scale, inverse = rounding_of(largest_magnitude(a, b))
        qa, qb = round_even(mul(a, splat(inverse))), round_even(mul(b, splat(inverse)))
        store_rounded(place, qa)
        store_rounded(place + 16, qb)
        first, last = sum_lanes(qa), sum_lanes(qb)
        store_f32(place + SCALE, scale)
        store_f32(place + SUM, first + last)
        store_i32(place + SUM_128, np.int32(-128) * np.int32(first + last))
        store_i32(place + HALF_SUMS, (np.int32(first) & 0xFFFF) | (np.int32(last) << 16))


@kernel
def write_float_column(group: int, columns: int, column: int, x: int, blocks: int) -> None:
    """Write the float32 vector at x as one column of the float group of `columns` columns."""
    for block in range(blocks):
        place = group + (block * columns + column) * FLOAT_BYTES
        store_f32x16(place, load_f32x16(x + 128 * block))
        store_f32x16(place + 64, load_f32x16(x + 128 * block + 64))


@kernel
def write_column(group: int, columns: int, column: int, x: int, blocks: int, integer: bool | int) -> None:
    """Write the float32 vector at x as one column of a group of `columns` columns, of integers or of floats."""
    if integer:
        write_integer_column(group, columns, column, x, blocks)
    else:
        write_float_column(group, columns, column, x, blocks)


@kernel
def block_bytes(integer: bool | int) -> int:
    """Bytes of one block of one column of a group, of integers or of floats."""
    return INTEGER_BYTES if integer else FLOAT_BYTES


@kernel
def copy_column(group: int, columns: int, column: int, source: int, blocks: int, size: int) -> None:
    """Copy a column that lies by itself into a group of `columns`; `size` bytes per block, a multiple of 16."""
    for block in range(blocks):
        place = group + (block * columns + column) * size
        for at in range(0, size, 16):
            copy_16(place + at, source + block * size + at)
