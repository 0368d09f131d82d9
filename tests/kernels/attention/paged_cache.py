"""A KV cache as the step lays it out, for one KV head, and attention over it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from numoe.kernels.attention.heads import Queries, attend, begin_head, end_head, merge_piece
from numoe.kernels.attention.kv_cache import KV_BLOCK, KV_FORMATS, kv_block_bytes, kv_half_bytes, store_key, store_value
from numoe.kernels.attention.kv_stores import MOST_BF16
from numoe.kernels.attention.pieces import CachedHead, attend_piece, pieces_of
from numoe.kernels.attention.scratch import ROW_HEAD, row_floats, scratch_floats, scratch_of
from numoe.kernels.attention.value_tile import attention_tiles
from numoe.kernels.matmul.activations import write_column
from numoe.kernels.matmul.groups import WIDTHS
from numoe.kernels.weights.formats import NUMBERS
from tests.kernels.numeric import BY_NAME, SEED, address
from tests.kernels.reference import Reals

Singles = NDArray[np.float32]
TABLE = [7, 3, 5, 0, 1, 12, 2, 9, 4, 11, 6, 8, 10, 14, 13, 17, 15, 16, 18]  # blocks in no order

# Of keys and values; one name stands for both.
every_format = pytest.mark.parametrize("kv_format", [*KV_FORMATS, "Q8_0/F16", "F16/Q8_0", "F32/BF16"])


def of_keys(kv_format: str) -> str:
    """The name of the keys' format."""
    return kv_format.partition("/")[0]


def of_values(kv_format: str) -> str:
    """The name of the values' format."""
    return kv_format.rpartition("/")[2]


@cache
def kv_tiles() -> NDArray[np.uintp]:
    """The tiles that attention runs."""
    return attention_tiles([BY_NAME[name] for name in KV_FORMATS], values=True)


@dataclass(frozen=True, slots=True)
class PagedCache:
    """Blocks of one KV head; a sequence's positions lie in the blocks of `table`, in order."""

    size: int  # K
    key_format: int
    value_format: int
    blocks: NDArray[np.uint8]  # [blocks, block bytes]
    table: NDArray[np.int32]

    def store(self, first: int, keys: Singles, values: Singles) -> None:
        """Put keys and values [n, K] at positions first, first + 1, ..."""
        for position, (key, value) in enumerate(zip(keys, values, strict=True), first):
            block = address(self.blocks[self.table[position // KV_BLOCK]])
            store_key(block, position % KV_BLOCK, key, self.key_format)
            place = block + self.keys_bytes
            store_value(place, position % KV_BLOCK, address(value), self.size, self.value_format)

    @property
    def keys_bytes(self) -> int:
        """Bytes of a block before its values."""
        return int(kv_half_bytes(self.size, self.key_format))

    @property
    def head(self) -> CachedHead:
        """As attention takes it."""
        return CachedHead(address(self.blocks), self.blocks.shape[1], self.key_format, self.value_format, self.size)

    def values(self) -> Reals:  # [blocks, KV_BLOCK, K]
        """What the blocks hold as values."""
        held = np.ascontiguousarray(self.blocks[:, self.keys_bytes :])
        count = len(held)
        if self.value_format == NUMBERS["Q8_0"]:
            scales_bytes = 2 * KV_BLOCK * self.size // 32
            scales = held[:, :scales_bytes].copy().view(np.float16).reshape(count, -1, KV_BLOCK)
            parts = held[:, scales_bytes:].view(np.int8).reshape(count, -1, KV_BLOCK // 4, 16, 4)[..., [0, 2, 1, 3]]
            quants = parts.transpose(0, 2, 4, 1, 3).reshape(count, KV_BLOCK, self.size)
            steps = np.repeat(scales.transpose(0, 2, 1).astype(np.float64), 32, axis=2)
            return quants.astype(np.float64) * steps
        if self.value_format == NUMBERS["BF16"]:
            floats = (held.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        else:
            floats = held.view(np.float16 if self.value_format == NUMBERS["F16"] else np.float32).astype(np.float32)
        panels = floats.astype(np.float64).reshape(count, -1, KV_BLOCK, 16)
        return panels.transpose(0, 2, 1, 3).reshape(count, KV_BLOCK, self.size)

    def attend(self, queries: Singles, position: int, scratch: float = 0.0) -> Singles:
        """Attention of queries [heads, K] at `position`."""
        return self.attend_run(queries[np.newaxis], [position], scratch).reshape(queries.shape)

    def attend_run(
        self, queries: Singles, positions: Sequence[int], scratch: float = 0.0, tables: Sequence[Sequence[int]] = ()
    ) -> Singles:
        """Attention of queries [tokens, heads, K] at their positions, together; `tables`: of their sequences."""
        tokens, heads, _ = queries.shape
        memory = np.full(scratch_floats(self.size, heads), scratch, np.float32)
        parts = scratch_of(address(memory), self.size, heads)
        rows, seen = np.ascontiguousarray(queries), np.array(tables or [self.table.tolist()] * tokens, np.int32)
        run = Queries(
            address(rows), 4 * heads * self.size, np.array(positions, np.int32), np.arange(tokens, dtype=np.int32), seen
        )
        attend(kv_tiles(), self.head, run, 0, tokens, heads, parts)
        first = (parts.outputs - address(memory)) // 4
        found: Singles = memory[first : first + queries.size].reshape(queries.shape)
        return found

    def attend_pieces(
        self, queries: Singles, position: int, columns: int, order: Sequence[int] | None = None
    ) -> Singles:
        """As `attend`, every piece on its own in a tile of `columns`; the pieces are computed in any order."""
        used, count = len(queries), pieces_of(position)
        rows = np.full((count, used, row_floats(self.size)), np.nan, np.float32)
        for piece in order or range(count):
            memory = np.full(scratch_floats(self.size, used), np.nan, np.float32)
            parts = scratch_of(address(memory), self.size, used)
            for column in range(used):
                integer, blocks = self.key_format == NUMBERS["Q8_0"], self.size // 32
                write_column(parts.queries, columns, column, address(queries[column]), blocks, integer)
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


def as_stored(x: Singles, kv_format: str) -> Reals:
    """What a cache keeps of vectors [..., K]; NaN counts as the lowest number."""
    most = np.finfo(np.float32).max
    bounded = np.clip(np.nan_to_num(x, nan=-np.inf, posinf=np.inf, neginf=-np.inf), -most, most)
    if kv_format == "F16":
        bounded = np.clip(bounded, -65504, 65504).astype(np.float16)
    elif kv_format == "BF16":
        bits = np.clip(bounded, -MOST_BF16, MOST_BF16).astype(np.float32).view(np.uint32)
        bounded = ((bits + 0x7FFF + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)).view(np.float32)
    elif kv_format == "Q8_0":
        blocks = bounded.reshape(*x.shape[:-1], -1, 32)
        largest = np.abs(blocks).max(axis=-1, keepdims=True)
        inverse = np.where(largest > 1e-30, np.float32(127) / np.maximum(largest, np.float32(1e-30)), np.float32(0))
        scales = np.minimum(largest / np.float32(127), np.float32(65504)).astype(np.float16)
        stored: Reals = (np.rint(blocks * inverse) * scales.astype(np.float64)).reshape(x.shape)
        return stored
    return bounded.astype(np.float64)


def largest_rounding(x: Reals, kv_format: str) -> Reals:
    """How far as_stored can be from vectors [..., K] of ordinary size."""
    if kv_format == "Q8_0":  # half a step; the scale is a half float
        largest = np.abs(x).reshape(*x.shape[:-1], -1, 32).max(axis=-1)
        return np.repeat(largest, 32, axis=-1) * (0.5 / 127 + 2.0**-11)
    share = {"F32": 0.0, "F16": 2.0**-11, "BF16": 2.0**-8}[kv_format]
    found: Reals = np.abs(x) * share + 2.0**-25
    return found


def empty_cache(size: int, kv_format: str, table: Sequence[int], fill: int = 0) -> PagedCache:
    """Blocks whose every byte is `fill`."""
    formats = NUMBERS[of_keys(kv_format)], NUMBERS[of_values(kv_format)]
    blocks = np.full((max(table) + 1, kv_block_bytes(size, *formats)), fill, np.uint8)
    return PagedCache(size, *formats, blocks, np.array(table, np.int32))


def drawn(size: int, positions: int, heads: int) -> tuple[Singles, Singles, Singles]:
    """Queries whose scores spread by about 2, keys and values."""
    random = np.random.default_rng(SEED)
    queries = random.standard_normal((heads, size), np.float32) * np.float32(2 * size**-0.5)
    keys, values = random.standard_normal((2, positions, size), np.float32)
    return queries, keys, values


def filled(size: int, kv_format: str, keys: Singles, values: Singles, table: list[int] | None = None) -> PagedCache:
    """A cache that holds keys and values from position 0 on."""
    cache = empty_cache(size, kv_format, table or TABLE)
    cache.store(0, keys, values)
    return cache
