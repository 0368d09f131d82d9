"""Vectors of float32: copying, adding, RMS normalisation."""

from __future__ import annotations

import numpy as np
from numba import types

from numoe.kernels.cpu.arithmetic import add, fma, mul, splat, sum_lanes
from numoe.kernels.cpu.jit import kernel
from numoe.kernels.cpu.loads import load_f32x16
from numoe.kernels.cpu.stores import store_f32x16

_memcpy = types.ExternalFunction("memcpy", types.uintp(types.uintp, types.uintp, types.uintp))


@kernel
def copy_bytes(out: int, source: int, count: int) -> None:
    """Copy `count` bytes from address `source` to address `out`; they must not overlap."""
    _memcpy(out, source, count)


@kernel
def copy_floats(out: int, x: int, count: int) -> None:
    """Copy `count` float32 (a multiple of 16) from address `x` to address `out`."""
    for value in range(0, count, 16):
        store_f32x16(out + 4 * value, load_f32x16(x + 4 * value))


@kernel
def add_vector(out: int, vector: int, count: int) -> None:
    """Add `count` float32 (a multiple of 16) at address `vector` to those at address `out`."""
    for value in range(0, count, 16):
        store_f32x16(out + 4 * value, add(load_f32x16(out + 4 * value), load_f32x16(vector + 4 * value)))


@kernel
def rms_norm(
    x: int,  # [D] float32, overwritten
    weight: int,  # [D] float32
    width: int,  # D, a multiple of 32
    epsilon: float,
) -> None:
    """x[d] = x[d] / sqrt(mean(x^2) + epsilon) * weight[d] (Zhang & Sennrich 2019); two sums of squares per lane.

    All become NaN where the sum is too large for a float32: zeros would look like an answer.
    """
    zero = splat(np.float32(0.0))
    even, odd = zero, zero
    for value in range(0, width, 32):
        a, b = load_f32x16(x + 4 * value), load_f32x16(x + 4 * value + 64)
        even, odd = fma(a, a, even), fma(b, b, odd)
    mean = sum_lanes(add(even, odd)) / np.float32(width)
    none = mean - mean  # 0, and NaN of infinity
    scale = splat(np.float32(1.0) / np.sqrt(mean + np.float32(epsilon)) + none)
    for value in range(0, width, 16):
        place = x + 4 * value
        store_f32x16(place, mul(mul(load_f32x16(place), scale), load_f32x16(weight + 4 * value)))
