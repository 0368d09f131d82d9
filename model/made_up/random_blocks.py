"""Makes random tensor data of any block type, with a given spread, as fast as a disk takes it.

A pool of random blocks is made once per type and spread; tensors are cut from it in turn, over and over. *Rejected*:
drawing every value: 30 MB/s with numpy's normal distribution and rounding, where the pool gives over 1 GB/s.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from numoe.model.gguf.tensors import BLOCKS, TensorType
from numoe.protos.errors import SetupError

# Rows cut one after the other from a pool with a prime number of blocks differ until there are as many rows as blocks.
# More than the rows of any `output` (152k): two equal rows there would tie two tokens.
POOL_BLOCKS = 262_147
VALUES = 32  # the types without blocks are handled 32 values at a time


class Scales(NamedTuple):
    """Where a block keeps its float16 scale d, and its float16 offset m if it has one; the rest of it may be any bytes.

    Source: ggml-common.h of llama.cpp; spreads are those of 200,000 random blocks.
    """

    at: int
    spread: float  # the standard deviation of its values where d is 1 and m is `ratio`
    offset_at: int | None = None
    ratio: float = 0.0  # of m to d, with which the mean is 0


SCALES: dict[TensorType, Scales] = {
    TensorType.Q8_0: Scales(0, 73.91),
    TensorType.Q4_0: Scales(0, 4.61),
    TensorType.Q4_1: Scales(0, 4.61, 2, -7.5),
    TensorType.Q5_0: Scales(0, 9.233),
    TensorType.Q5_1: Scales(0, 9.233, 2, -15.5),
    TensorType.Q2_K: Scales(80, 13.88, 82, 1.5),
    TensorType.Q3_K: Scales(108, 43.33),
    TensorType.Q4_K: Scales(0, 258.3, 2, 7.5),
    TensorType.Q5_K: Scales(0, 527.0, 2, 15.5),
    TensorType.Q6_K: Scales(208, 1366.0),
    TensorType.IQ4_NL: Scales(0, 67.15),
    TensorType.IQ4_XS: Scales(0, 1247.0),
    TensorType.IQ2_XXS: Scales(0, 53.35),
    TensorType.IQ2_XS: Scales(0, 55.91),
    TensorType.IQ2_S: Scales(0, 56.4),
    TensorType.IQ3_XXS: Scales(0, 142.4),
    TensorType.IQ3_S: Scales(0, 140.3),
    TensorType.IQ1_S: Scales(0, 7.202),
}
# Where a block keeps the exponent e of its scale 2**(e - 128) instead, and the spread of its values where that is 1.
EXPONENTS: dict[TensorType, tuple[int, float]] = {TensorType.MXFP4: (0, 5.851)}
FLOATS = frozenset({TensorType.F32, TensorType.F16, TensorType.BF16})


class BlockPools:
    """Pools of random blocks, each made when it is first needed."""

    __slots__ = ("_pools", "_random", "_size")

    def __init__(self, seed: int, size: int = POOL_BLOCKS) -> None:
        self._random = np.random.default_rng(seed)
        self._size = size
        self._pools: dict[tuple[TensorType, float], NDArray[np.uint8]] = {}

    def pieces(self, tensor_type: TensorType, shape: tuple[int, ...], spread: float) -> Iterator[NDArray[np.uint8]]:
        """The bytes of a tensor whose values have mean 0 and standard deviation `spread`. Raises SetupError."""
        pool = self._pool(tensor_type, spread)
        per_block = VALUES if tensor_type in FLOATS else BLOCKS[tensor_type][0]
        left = math.prod(shape) * pool.shape[1] // per_block  # bytes
        start = int(self._random.integers(len(pool)))
        while left:
            piece = pool[start:].reshape(-1)[:left]
            left -= piece.size
            start = 0
            yield piece

    def _pool(self, tensor_type: TensorType, spread: float) -> NDArray[np.uint8]:  # [blocks, bytes of a block]
        key = tensor_type, spread
        if key not in self._pools:
            make = self._floats if tensor_type in FLOATS else self._blocks
            if tensor_type in EXPONENTS:
                make = self._power_blocks
            self._pools[key] = make(tensor_type, spread)
        return self._pools[key]

    def _floats(self, tensor_type: TensorType, spread: float) -> NDArray[np.uint8]:
        values = self._random.standard_normal((self._size, VALUES), np.float32) * np.float32(spread)
        if tensor_type is TensorType.F32:
            return values.view(np.uint8)
        if tensor_type is TensorType.F16:
            return values.astype(np.float16).view(np.uint8)
        upper_half = ((values.view(np.uint32) + 0x8000) >> 16).astype(np.uint16)
        return upper_half.view(np.uint8)

    def _blocks(self, tensor_type: TensorType, spread: float) -> NDArray[np.uint8]:
        if tensor_type not in SCALES:
            names = ", ".join(sorted(known.name for known in SCALES.keys() | EXPONENTS.keys() | FLOATS))
            raise SetupError(f"random {tensor_type.name} blocks cannot be made, only {names}")
        known, blocks = SCALES[tensor_type], self._random_bytes(tensor_type)
        vary = self._random.uniform(0.5, 1.5, self._size).astype(np.float32) / np.float32(math.sqrt(13 / 12))
        scales = vary * np.float32(spread / known.spread)
        _set_half(blocks, known.at, scales)
        if known.offset_at is not None:
            _set_half(blocks, known.offset_at, scales * np.float32(known.ratio))
        return blocks

    def _power_blocks(self, tensor_type: TensorType, spread: float) -> NDArray[np.uint8]:
        """Blocks with two neighbouring powers of two as scales, in such shares that the mean square is right."""
        blocks, (at, unit) = self._random_bytes(tensor_type), EXPONENTS[tensor_type]
        scale = spread / unit
        lower = math.floor(math.log2(scale))
        larger = (4 ** (math.log2(scale) - lower) - 1) / 3
        blocks[:, at] = 128 + lower + (self._random.random(self._size) < larger)
        return blocks

    def _random_bytes(self, tensor_type: TensorType) -> NDArray[np.uint8]:
        size = BLOCKS[tensor_type][1]
        return np.frombuffer(self._random.bytes(self._size * size), np.uint8).reshape(self._size, size).copy()


def _set_half(blocks: NDArray[np.uint8], at: int, values: NDArray[np.float32]) -> None:
    blocks[:, at : at + 2] = values.astype("<f2").view(np.uint8).reshape(-1, 2)
