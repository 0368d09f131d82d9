"""What threads ask the operating system for: the time, to sleep on a word, to wake who sleeps, to offer the core."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from numoe.kernels.cpu.jit import kernel
from numoe.kernels.cpu.llvm import I32, I64

_FUTEX_WAIT, _FUTEX_WAKE, _CLOCK_MONOTONIC = 0, 1, 1
_SYS_SCHED_YIELD, _SYS_FUTEX = 24, 202
_ALL = 2**31 - 1
_NAP_NS = 100_000_000  # a sleeper looks at the abort word at least ten times a second

_syscall = types.ExternalFunction(
    "syscall",
    types.int64(types.int64, types.uintp, types.int64, types.int64, types.uintp, types.uintp, types.int64),
)
_clock_gettime = types.ExternalFunction("clock_gettime", types.int32(types.int32, types.uintp))


@intrinsic
def _stack_pair(typing_context: Any, seconds: Any, nanoseconds: Any) -> Any:
    """The address of two int64 on the stack: a timespec."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        place = cgutils.alloca_once(builder, ir.ArrayType(I64, 2))
        builder.store(values[0], builder.gep(place, [ir.Constant(I32, 0), ir.Constant(I32, 0)]))
        builder.store(values[1], builder.gep(place, [ir.Constant(I32, 0), ir.Constant(I32, 1)]))
        return builder.ptrtoint(place, I64)

    return types.uintp(types.int64, types.int64), code


@intrinsic
def _load_i64(typing_context: Any, address: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.load(builder.inttoptr(values[0], I64.as_pointer()))

    return types.int64(types.uintp), code


@kernel
def clock_ns() -> int:
    """Monotonic time in nanoseconds, as time.monotonic_ns()."""
    place = _stack_pair(0, 0)
    _clock_gettime(_CLOCK_MONOTONIC, place)
    return _load_i64(place) * 1_000_000_000 + _load_i64(place + 8)


@kernel
def futex_wait(word: int, seen: np.int32) -> None:
    """Sleep while the int32 at `word` is `seen`, until woken or for 0.1 s."""
    _syscall(_SYS_FUTEX, word, _FUTEX_WAIT, seen, _stack_pair(0, _NAP_NS), 0, 0)


@kernel
def futex_wake(word: int) -> None:
    """Wake all who sleep on `word`."""
    _syscall(_SYS_FUTEX, word, _FUTEX_WAKE, _ALL, 0, 0, 0)


@kernel
def offer_core() -> None:
    """Let another thread that waits for this core have it (sched_yield)."""
    _syscall(_SYS_SCHED_YIELD, 0, 0, 0, 0, 0, 0)
