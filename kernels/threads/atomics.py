"""Atomic operations on int32 words, int64 that others look at, and the pause of a spin loop."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from numoe.kernels.cpu.llvm import I32, I64


@intrinsic
def atomic_add(typing_context: Any, address: Any, value: Any) -> Any:
    """Add to an int32, sequentially consistent, and return the value before."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        place = builder.inttoptr(values[0], I32.as_pointer())
        return builder.atomic_rmw("add", place, values[1], "seq_cst")

    return types.int32(types.uintp, types.int32), code


@intrinsic
def atomic_load(typing_context: Any, address: Any) -> Any:
    """Read an int32 with acquire ordering."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.load_atomic(builder.inttoptr(values[0], I32.as_pointer()), "acquire", 4)

    return types.int32(types.uintp), code


@intrinsic
def atomic_store(typing_context: Any, address: Any, value: Any) -> Any:
    """Write an int32 with release ordering."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        builder.store_atomic(values[1], builder.inttoptr(values[0], I32.as_pointer()), "release", 4)
        return context.get_dummy_value()

    return types.void(types.uintp, types.int32), code


@intrinsic
def long_load(typing_context: Any, address: Any) -> Any:
    """Read an int64 whole, in no order with others."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.load_atomic(builder.inttoptr(values[0], I64.as_pointer()), "monotonic", 8)

    return types.int64(types.uintp), code


@intrinsic
def long_store(typing_context: Any, address: Any, value: Any) -> Any:
    """Write an int64 whole, in no order with others."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        builder.store_atomic(values[1], builder.inttoptr(values[0], I64.as_pointer()), "monotonic", 8)
        return context.get_dummy_value()

    return types.void(types.uintp, types.int64), code


@intrinsic
def relax(typing_context: Any) -> Any:
    """Tell the core that this is a spin loop."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        pause = ir.FunctionType(ir.VoidType(), [])
        builder.call(cgutils.get_or_insert_function(builder.module, pause, "llvm.x86.sse2.pause"), [])
        return context.get_dummy_value()

    return types.void(), code
