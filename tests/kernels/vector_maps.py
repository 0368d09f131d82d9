"""Vector functions over whole arrays, compiled, so that tests may try millions of values."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from numoe.kernels.cpu.functions import exp_vector, silu_vector
from numoe.kernels.cpu.jit import kernel
from numoe.kernels.cpu.loads import load_f32x16
from numoe.kernels.cpu.stores import store_f32x16


@kernel
def map_exp(out: NDArray[np.float32], x: NDArray[np.float32]) -> None:
    """exp of each; lengths are multiples of 16."""
    for value in range(0, x.shape[0], 16):
        store_f32x16(out.ctypes.data + 4 * value, exp_vector(load_f32x16(x.ctypes.data + 4 * value)))


@kernel
def map_silu(out: NDArray[np.float32], x: NDArray[np.float32]) -> None:
    """silu of each; lengths are multiples of 16."""
    for value in range(0, x.shape[0], 16):
        store_f32x16(out.ctypes.data + 4 * value, silu_vector(load_f32x16(x.ctypes.data + 4 * value)))
