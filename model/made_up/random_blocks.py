"""Makes random tensor data of any block type, with a given spread, as fast as a disk takes it.

A pool of random blocks is made once per type and spread; tensors are cut from it in turn, over and over. *Rejected*:
drawing every value: 30 MB/s with numpy's normal distribution and rounding, where the pool gives over 1 GB/s.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from numoe.model.gguf.tensors import BLOCKS, TensorType
from numoe.model.gguf.write import import_gguf
from numoe.protos.errors import SetupError

# Rows cut one after the other from a pool with a prime number of blocks differ until there are as many rows as blocks.
# More than the rows of any `output` (152k): two equal rows there would tie two tokens.
POOL_BLOCKS = 262_147
VALUES = 32  # the types without blocks are handled 32 values at a time
SAMPLE = 1024  # blocks that the spread of a type is measured on

# Where a block keeps its float16 scale, and its float16 offset if it has one; the rest of it may be any bytes.
# Source: ggml-common.h of llama.cpp.
SCALES: dict[TensorType, tuple[int, int | None]] = {
    TensorType.Q8_0: (0, None),
    TensorType.Q4_0: (0, None),
    TensorType.Q4_1: (0, 2),
    TensorType.Q5_0: (0, None),
    TensorType.Q5_1: (0, 2),
    TensorType.Q2_K: (80, 82),
    TensorType.Q3_K: (108, None),
    TensorType.Q4_K: (0, 2),
    TensorType.Q5_K: (0, 2),
    TensorType.Q6_K: (208, None),
    TensorType.IQ4_NL: (0, None),
    TensorType.IQ4_XS: (0, None),
    TensorType.IQ2_XXS: (0, None),
    TensorType.IQ2_XS: (0, None),
    TensorType.IQ2_S: (0, None),
    TensorType.IQ3_XXS: (0, None),
    TensorType.IQ3_S: (0, None),
    TensorType.IQ1_S: (0, None),
}
# Where a block keeps the exponent e of its scale 2**(e - 128) instead.
EXPONENTS: dict[TensorType, int] = {TensorType.MXFP4: 0}
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
            known = ", ".join(sorted(known.name for known in SCALES.keys() | EXPONENTS.keys() | FLOATS))
            raise SetupError(f"random {tensor_type.name} blocks cannot be made, only {known}")
        scale_at, offset_at = SCALES[tensor_type]
        blocks = self._random_bytes(tensor_type)
        scale, offset = _calibrate(tensor_type, blocks[:SAMPLE].copy(), spread)
        vary = self._random.uniform(0.5, 1.5, self._size).astype(np.float32) / np.float32(math.sqrt(13 / 12))
        _set_half(blocks, scale_at, vary * np.float32(scale))
        if offset_at is not None:
            _set_half(blocks, offset_at, vary * np.float32(offset))
        return blocks

    def _power_blocks(self, tensor_type: TensorType, spread: float) -> NDArray[np.uint8]:
        """Blocks with two neighbouring powers of two as scales, in such shares that the mean square is right."""
        blocks, at = self._random_bytes(tensor_type), EXPONENTS[tensor_type]
        blocks[:, at] = 128
        scale = spread / float(_values(tensor_type, blocks[:SAMPLE].copy(), {}).std())
        lower = math.floor(math.log2(scale))
        larger = (4 ** (math.log2(scale) - lower) - 1) / 3
        blocks[:, at] = 128 + lower + (self._random.random(self._size) < larger)
        return blocks

    def _random_bytes(self, tensor_type: TensorType) -> NDArray[np.uint8]:
        size = BLOCKS[tensor_type][1]
        return np.frombuffer(self._random.bytes(self._size * size), np.uint8).reshape(self._size, size).copy()


def _calibrate(tensor_type: TensorType, sample: NDArray[np.uint8], spread: float) -> tuple[float, float]:
    """The scale and offset with which such blocks have mean 0 and this spread; their values are linear in both."""
    scale_at, offset_at = SCALES[tensor_type]
    by_scale = _values(tensor_type, sample, {scale_at: 1.0} if offset_at is None else {scale_at: 1.0, offset_at: 0.0})
    if offset_at is None:
        return spread / float(by_scale.std()), 0.0
    by_offset = _values(tensor_type, sample, {scale_at: 0.0, offset_at: 1.0})
    ratio = -float(by_scale.mean()) / float(by_offset.mean())
    scale = spread / float((by_scale + np.float32(ratio) * by_offset).std())
    return scale, scale * ratio


def _values(tensor_type: TensorType, sample: NDArray[np.uint8], halves: dict[int, float]) -> NDArray[np.float32]:
    for at, value in halves.items():
        _set_half(sample, at, np.full(len(sample), value, np.float32))
    values: NDArray[Any] = import_gguf().quants.dequantize(sample, tensor_type)
    return values.astype(np.float32)


def _set_half(blocks: NDArray[np.uint8], at: int, values: NDArray[np.float32]) -> None:
    blocks[:, at : at + 2] = values.astype("<f2").view(np.uint8).reshape(-1, 2)
