"""The Hadamard transform of heads: keys that are spread over all dimensions before they are rounded to 8 bits.

A few dimensions of keys are many times larger than the others, and 32 values share a scale. H / sqrt(K) is orthonormal
and symmetric, so that queries and keys multiplied by it have the scores that they had (QuaRot, Ashkboos et al. 2024;
ik_llama.cpp's -khad).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir

from numoe.kernels.cpu.arithmetic import add, mul, splat, sub
from numoe.kernels.cpu.jit import kernel
from numoe.kernels.cpu.llvm import I32, LANES, V16F32, f32x16
from numoe.kernels.cpu.loads import load_f32x16
from numoe.kernels.cpu.operation import operation
from numoe.kernels.cpu.stores import store_f32x16


def _butterfly(builder: Any, vector: Any, distance: int) -> Any:
    """Of every two lanes so far apart their sum in the first, their difference in the second."""
    lanes = ir.Constant(ir.VectorType(I32, LANES), [lane ^ distance for lane in range(LANES)])
    signs = ir.Constant(V16F32, [-1.0 if lane & distance else 1.0 for lane in range(LANES)])
    swapped = builder.shuffle_vector(vector, ir.Constant(V16F32, ir.Undefined), lanes)
    return builder.fadd(swapped, builder.fmul(vector, signs))


@operation(f32x16, f32x16)
def _within(builder: Any, values: Any) -> Any:
    """A vector times the Hadamard matrix of its 16 lanes."""
    vector = values[0]
    for distance in (1, 2, 4, 8):
        vector = _butterfly(builder, vector, distance)
    return vector


@kernel
def hadamard(x: int, size: int) -> None:
    """Multiply a head [K] float32 at address x by H / sqrt(K); K is a power of two, 32 at least."""
    for value in range(0, 4 * size, 64):
        store_f32x16(x + value, _within(load_f32x16(x + value)))
    distance = LANES
    while distance < size:
        for first in range(0, size, 2 * distance):
            for value in range(first, first + distance, LANES):
                one, other = load_f32x16(x + 4 * value), load_f32x16(x + 4 * (value + distance))
                store_f32x16(x + 4 * value, add(one, other))
                store_f32x16(x + 4 * (value + distance), sub(one, other))
        distance *= 2
    scale = splat(np.float32(1.0) / np.sqrt(np.float32(size)))
    for value in range(0, 4 * size, 64):
        store_f32x16(x + value, mul(load_f32x16(x + value), scale))
