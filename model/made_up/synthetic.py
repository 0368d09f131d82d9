"""Writes models of any shape with random weights, to measure speed and to test what real models are too large for.

*Guarantees*: the same file for the same shape and seed; activations stay near 1 from layer to layer, routing has wide
gaps, logits spread by about 3, so that rounding decides neither experts nor tokens. Memory stays below 1 GB.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from numoe.model.gguf.tensors import BLOCKS, TensorType
from numoe.model.gguf.write import NewTensor, Progress, check_row, write_gguf
from numoe.model.made_up.alphabet_vocabulary import vocabulary_metadata
from numoe.model.made_up.random_blocks import POOL_BLOCKS, BlockPools
from numoe.model.made_up.synthetic_shape import SyntheticShape, hyperparameters, role_of, tensor_shapes, tensor_types


def write_synthetic_model(
    path: str | Path,
    shape: SyntheticShape,
    seed: int = 0,
    progress: Progress | None = None,
    *,
    header_only: bool = False,
) -> None:
    """Write the model. Raises SetupError.

    Args:
        path: where it is to lie.
        shape: what it consists of.
        seed: of the random weights.
        progress: is called with the bytes done and those in all.
        header_only: the weights become a hole in the file; that is enough to plan with.
    """
    shapes = tensor_shapes(shape)
    types = tensor_types(shape)
    for name, size in shapes.items():
        check_row(name, types[name], size)
    pools = BlockPools(seed, _pool_size(shapes, types))
    tensors = [
        NewTensor(name, types[name], size, partial(_pieces, pools, shape, name, types[name], (seed, index)))
        for index, (name, size) in enumerate(shapes.items())
    ]
    metadata = {**hyperparameters(shape), **vocabulary_metadata(shape.vocabulary)}
    write_gguf(Path(path), shape.architecture, metadata, tensors, progress, header_only=header_only)


def _pool_size(shapes: Mapping[str, tuple[int, ...]], types: Mapping[str, TensorType]) -> int:
    """As many blocks as the largest tensor has, rounded up to a prime number; POOL_BLOCKS at most."""
    blocks = max(math.prod(size) // max(BLOCKS[types[name]][0], 32) for name, size in shapes.items())
    if blocks >= POOL_BLOCKS:
        return POOL_BLOCKS
    return next(n for n in range(max(blocks, 2), POOL_BLOCKS + 1) if all(n % d for d in range(2, math.isqrt(n) + 1)))


def _pieces(
    pools: BlockPools, shape: SyntheticShape, name: str, kind: TensorType, seed: tuple[int, int]
) -> Iterator[NDArray[Any]]:
    size, role = tensor_shapes(shape)[name], role_of(name)
    values = np.random.default_rng(seed).standard_normal
    fan_in = size[-1] ** -0.5
    if role.endswith("_norm"):
        yield np.float32(1) + np.float32(0.1) * values(size, np.float32)
    elif role == "ffn_gate_inp":
        yield values(size, np.float32) * np.float32(4 * fan_in)
    else:
        spread = {"output": 3 * fan_in, "token_embd": 3 * fan_in if shape.tied_output else 0.4}.get(role, fan_in)
        yield from pools.pieces(kind, size, spread)
