"""What attention over a piece needs of memory: a thread's scratch, and the row that a piece gives of each head.

row of a piece and head    [16] maximum, sum (rest unused) | [K] output, float32
"""

from __future__ import annotations

from typing import NamedTuple

from numoe.kernels.attention.kv_cache import KV_BLOCK
from numoe.kernels.attention.value_tile import COLUMN_BYTES, MOST_COLUMNS, WORD_GROUP_HEAD
from numoe.kernels.cpu.jit import kernel
from numoe.kernels.matmul.groups import WIDEST

MOST_HEADS = min(MOST_COLUMNS, WIDEST)  # query heads of a tile
MOST_TOKENS = 8  # that go over a context together
PIECE_BLOCKS = 8  # 512 positions: long enough that merging costs nothing, short enough to share out a 16k context
PIECE = PIECE_BLOCKS * KV_BLOCK
ROW_HEAD = 16  # floats of a row before the output
WORD_GROUP_BYTES = WORD_GROUP_HEAD + KV_BLOCK // 32 * MOST_HEADS * COLUMN_BYTES  # of a block


def row_floats(head_size: int) -> int:
    """Floats of the row of a piece and head."""
    return ROW_HEAD + head_size


class Scratch(NamedTuple):
    """Addresses in a thread's scratch."""

    states: int  # [MOST_TOKENS, heads] rows' heads: maximum and sum so far
    outputs: int  # [MOST_TOKENS, heads, K] so far
    queries: int  # [MOST_TOKENS] groups of MOST_HEADS heads, one after the other
    rows: int  # [MOST_HEADS] rows of a piece
    sums: int  # [MOST_HEADS, 16] of a piece's weights
    scores: int  # [MOST_HEADS, PIECE]
    weights: int  # of a KV block's positions: a float group, or a word group per 32 dimensions
    scales: int  # [K / 32, KV_BLOCK] of a KV block's values
    product: int  # [MOST_HEADS, K] of a KV block
    end: int


@kernel
def queries_bytes(size: int, heads: int) -> int:
    """Bytes of a token's queries in the scratch."""
    return (heads + MOST_HEADS - 1) // MOST_HEADS * MOST_HEADS * 4 * size


@kernel
def scratch_of(memory: int, size: int, heads: int) -> Scratch:
    """The parts of a thread's scratch at address `memory`, `heads` being the query heads that share a KV head."""
    outputs = memory + 4 * ROW_HEAD * MOST_TOKENS * heads
    queries = outputs + 4 * MOST_TOKENS * heads * size
    rows = queries + MOST_TOKENS * queries_bytes(size, heads)
    sums = rows + 4 * MOST_HEADS * (ROW_HEAD + size)
    scores = sums + 4 * MOST_HEADS * 16
    weights = scores + 4 * MOST_HEADS * PIECE
    scales = weights + max(4 * MOST_HEADS * KV_BLOCK, size // 32 * WORD_GROUP_BYTES)
    product = scales + 4 * size // 32 * KV_BLOCK
    end = product + 4 * MOST_HEADS * size
    return Scratch(memory, outputs, queries, rows, sums, scores, weights, scales, product, end)


def scratch_floats(head_size: int, heads: int) -> int:
    """Floats of a thread's scratch."""
    return int(scratch_of(0, head_size, heads).end) // 4
