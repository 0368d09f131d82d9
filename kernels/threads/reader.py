"""Reading memory as fast as a core can: what every figure of bandwidth is measured with.

Four streams of 128 bytes in turn. They can be one long stream (each 128 bytes behind the one before), or four that lie
a quarter of the buffer apart; which of them is faster depends on the machine's prefetchers.
"""

from __future__ import annotations

import numpy as np

from numoe.kernels.cpu.arithmetic import add, splat
from numoe.kernels.cpu.jit import kernel
from numoe.kernels.cpu.loads import load_f32x16
from numoe.kernels.cpu.stores import store_f32x16
from numoe.kernels.threads.atomics import atomic_add, atomic_load

ROUND_BYTES = 512  # of one round of loads
WINDOW_BYTES = 256 << 10  # between two looks at the stop word; some 20 us


@kernel
def read_memory(address: int, gap: int, stride: int, count: int, out: int) -> None:
    """Load 128 bytes at address + gap * k + stride * i for k in 0 .. 3 and i below count."""
    a0 = a1 = b0 = b1 = c0 = c1 = d0 = d1 = splat(np.float32(0.0))
    for step in range(count):
        a = address + stride * step
        b, c, d = a + gap, a + 2 * gap, a + 3 * gap
        a0, a1 = add(a0, load_f32x16(a)), add(a1, load_f32x16(a + 64))
        b0, b1 = add(b0, load_f32x16(b)), add(b1, load_f32x16(b + 64))
        c0, c1 = add(c0, load_f32x16(c)), add(c1, load_f32x16(c + 64))
        d0, d1 = add(d0, load_f32x16(d)), add(d1, load_f32x16(d + 64))
    store_f32x16(out, add(add(add(a0, a1), add(b0, b1)), add(add(c0, c1), add(d0, d1))))


@kernel
def read_until(address: int, windows: int, streams: int, out: int, done: int, stop: int) -> None:
    """Read `windows` windows at `address` over and over, in 1 or 4 streams, until the int32 at `stop` is not 0.

    The int32 at `done` counts the windows read, all rounds together.
    """
    rounds = WINDOW_BYTES // ROUND_BYTES
    while True:
        for window in range(windows):
            if atomic_load(stop) != 0:
                return
            if streams == 1:
                read_memory(address + window * WINDOW_BYTES, 128, ROUND_BYTES, rounds, out)
            else:
                quarter = windows * (WINDOW_BYTES // 4)
                read_memory(address + window * (WINDOW_BYTES // 4), quarter, 128, rounds, out)
            atomic_add(done, 1)
