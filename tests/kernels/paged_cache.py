"""A KV cache as the step lays it out, for one KV head, and attention over it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from numoe.kernels.attention import (
    ROW_HEAD,
    CachedHead,
    attend,
    attend_piece,
    begin_head,
    end_head,
    merge_piece,
    pieces_of,
    row_floats,
    scratch_floats,
    scratch_of,
    write_group,
)
from numoe.kernels.formats import NUMBERS
from numoe.kernels.groups import WIDTHS
from numoe.kernels.kv_cache import BLOCK, KV_FORMATS, kv_block_bytes, kv_half_bytes, store_key, store_value
from numoe.kernels.value_tile import attention_tiles
from tests.kernels.numeric import BY_NAME, address

Singles = NDArray[np.float32]


@cache
def kv_tiles() -> NDArray[np.uintp]:
    """The tiles that attention runs."""
    return attention_tiles([BY_NAME[name] for name in KV_FORMATS], values=True)


@dataclass(frozen=True, slots=True)
class PagedCache:
    """Blocks of one KV head; a sequence's positions lie in the blocks of `table`, in order."""

    size: int  # K
    format: int
    blocks: NDArray[np.uint8]  # [blocks, block bytes]
    table: NDArray[np.int32]

    def store(self, first: int, keys: Singles, values: Singles) -> None:
        """Put keys and values [n, K] at positions first, first + 1, ..."""
        for position, (key, value) in enumerate(zip(keys, values, strict=True), first):
            block = address(self.blocks[self.table[position // BLOCK]])
            store_key(block, position % BLOCK, key, self.format)
            store_value(block, position % BLOCK, address(value), self.size, self.format)

    @property
    def head(self) -> CachedHead:
        return CachedHead(address(self.blocks), self.blocks.shape[1], self.format, self.size)

    def attend(self, queries: Singles, position: int, scratch: float = 0.0) -> Singles:
        """Attention of queries [heads, K] at `position`."""
        heads = len(queries)
        out = np.full((heads, self.size), np.nan, np.float32)
        memory = np.full(scratch_floats(self.size, heads), scratch, np.float32)
        parts = scratch_of(address(memory), self.size, heads)
        attend(kv_tiles(), self.head, self.table, position, address(queries), heads, address(out), parts)
        return out

    def attend_pieces(self, queries: Singles, position: int, columns: int, order: Sequence[int] | None = None) -> Singles:
        """As `attend`, every piece on its own in a tile of `columns`; the pieces are computed in any order."""
        used, count = len(queries), pieces_of(position)
        rows = np.full((count, used, row_floats(self.size)), np.nan, np.float32)
        for piece in order or range(count):
            memory = np.full(scratch_floats(self.size, used), np.nan, np.float32)
            parts = scratch_of(address(memory), self.size, used)
            write_group(parts.queries, columns, address(queries), used, self.format, self.size)
            attend_piece(
                kv_tiles(), WIDTHS.index(columns), used, parts.queries, self.head, self.table, position, piece,
                address(rows[piece]), parts,
            )  # fmt: skip
        out, state = np.full((used, self.size), np.nan, np.float32), np.zeros(ROW_HEAD, np.float32)
        for head in range(used):
            begin_head(address(state), address(out[head]), self.size)
            for piece in range(count):
                merge_piece(address(state), address(out[head]), address(rows[piece, head]), self.size)
            end_head(address(state), address(out[head]), self.size)
        return out


def empty_cache(size: int, kv_format: str, table: Sequence[int], fill: int = 0) -> PagedCache:
    """Blocks whose every byte is `fill`."""
    number = NUMBERS[kv_format]
    blocks = np.full((max(table) + 1, kv_block_bytes(size, number)), fill, np.uint8)
    return PagedCache(size, number, blocks, np.array(table, np.int32))
