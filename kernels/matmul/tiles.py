"""Tiles: 16 rows of a panel times C activation columns, one kernel per format and C, called by address.

The kernels are made in float_tile.py, integer_tile.py and, for attention, value_tile.py; tile_table.py compiles them.

The weights of a tile are one *panel* (formats.py): 16 rows, interleaved, so that one load feeds 16 lanes; the
activations are a *group* of C columns (groups.py). Every column sees the same operations in the same order for every C:
the products of a block are summed exactly as integers, made one float block value, and that times the activations'
scale is added to the column's total by one fused operation. So a result does not depend on which columns share a tile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

# Tiles at least so wide ask for the panel they are told, narrower ones for what lies so many bytes further on. Both ask
# for line after line in the order of memory, at the pace at which they read their own: the CPU's own prefetching brings
# half of what memory gives, and it helps only those who ask in order. One column so reads 97 % of what a core can read
# at all, in every format; 78 % where it asked for quants and heads as it came to them.
AHEAD_COLUMNS = 8
DISTANCE = 8192

TileKernel = Callable[..., None]  # (panel, blocks, group, out, stride, ahead, groups)
# Addresses are signed here: to Numba the sum of an unsigned and a signed number is a float.
TILE_SIGNATURE = types.void(*[types.intp] * 7)

# Numba keys a cached closure by the pickles of what it closes over: those of integers never change, but those of
# functions do with each process, which would then compile its own tiles and add them to the cache. So tiles close over
# integers only. They are constants to LLVM, which drops the branches not taken.


@intrinsic
def run_tile(
    typing_context: Any,
    address: Any,
    panel: Any,
    blocks: Any,
    group: Any,
    out: Any,
    stride: Any,
    ahead: Any,
    groups: Any,
) -> Any:
    """Call the tile kernel at `address`.

    `group` and `out` are addresses, `stride` the bytes between columns of `out`; `ahead` is a panel that will be read
    soon, or 0. `groups` of so many columns lie one after the other, and so do their outputs; GROUPS of them at most,
    more than one only of integers.
    """

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        word = ir.IntType(64)
        function = ir.FunctionType(ir.VoidType(), [word] * 7)
        builder.call(builder.inttoptr(values[0], function.as_pointer()), list(values[1:]))
        return context.get_dummy_value()

    arguments = (types.uintp, types.uintp, types.intp, types.uintp, types.uintp, types.intp, types.uintp, types.intp)
    return types.void(*arguments), code
