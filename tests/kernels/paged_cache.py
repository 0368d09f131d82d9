"""A KV cache as the step lays it out, for one KV head, and attention over it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from numoe.kernels.attention import BLOCK, attend, kv_block_bytes, scratch_floats, store_key, store_value
from numoe.kernels.formats import Format
from tests.kernels.numeric import BY_NAME, address, tile_address

Singles = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class PagedCache:
    """Blocks of one KV head; a sequence's positions lie in the blocks of `table`, in order."""

    size: int  # K
    half: bool
    blocks: NDArray[np.uint8]  # [blocks, block bytes]
    table: NDArray[np.int32]

    @property
    def format_(self) -> Format:
        return BY_NAME["F16" if self.half else "F32"]

    def store(self, first: int, keys: Singles, values: Singles) -> None:
        """Put keys and values [n, K] at positions first, first + 1, ..."""
        for position, (key, value) in enumerate(zip(keys, values, strict=True), first):
            block = address(self.blocks[self.table[position // BLOCK]])
            store_key(block, position % BLOCK, key, int(self.half))
            store_value(block, position % BLOCK, address(value), self.size, int(self.half))

    def values(self) -> Singles:
        """All numbers that the values' halves of the blocks hold."""
        held = self.blocks[:, self.blocks.shape[1] // 2 :]
        return np.ascontiguousarray(held).view(np.float16 if self.half else np.float32).astype(np.float32)

    def attend(self, queries: Singles, position: int, columns: int, scratch: float = 0.0) -> Singles:
        """Attention of queries [used, K] at `position`, in a tile of `columns`."""
        used = len(queries)
        out = np.full((used, self.size), np.nan, np.float32)
        memory = np.full(scratch_floats(self.size), scratch, np.float32)
        attend(
            tile_address(self.format_, columns),
            columns,
            used,
            address(queries),
            position,
            address(self.blocks),
            self.blocks.shape[1],
            int(self.half),
            self.table,
            address(out),
            memory,
            self.size,
        )
        return out


def empty_cache(size: int, half: bool, table: Sequence[int], fill: int = 0) -> PagedCache:
    """Blocks whose every byte is `fill`."""
    blocks = np.full((max(table) + 1, kv_block_bytes(size, half)), fill, np.uint8)
    return PagedCache(size, half, blocks, np.array(table, np.int32))
