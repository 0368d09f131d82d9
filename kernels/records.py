"""What the compiled step is given: the model's matrices, the sizes of a shard, its memory, and the step's inputs.

Addresses are bytes in this process. The letters of shapes are those of model/architectures/spec.py.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]
Records = NDArray[np.void]
TileTable = NDArray[np.uintp]  # [formats + 1, widths] addresses of tile kernels, the last row's of value_tile.py
# One of several records: compiled code reads its fields as attributes, which NumPy's np.void does not have.
Record = Any

# Of a draw, see step/candidates.py: what candidates are counted in, whose largest is kept, and looked at one by one.
BUCKETS, TOGETHER, LISTED = 1 << 10, 128, 1 << 12

# A matrix in panels, or E of them.
MATRIX = np.dtype(
    [
        ("experts", np.uintp),  # address of [E] addresses of each one's first panel, 0 where this worker has none
        ("rows", np.int64),  # of this shard
        ("panels", np.int64),  # ceil(rows / 16)
        ("blocks", np.int64),  # values of a row / 32
        ("panel_bytes", np.int64),
        ("panel_stride", np.int64),  # bytes from one panel to the next: matrices that are read together lie interleaved
        ("expert_bytes", np.int64),  # panels * panel_bytes
        ("tile", np.int64),  # row of the tile table
        ("integer", np.int64),  # 1: reads integer groups, 0: float groups
    ],
    align=True,
)

# One layer. The vectors are float32 addresses, 0 where the architecture has none.
LAYER = np.dtype(
    [
        ("q", MATRIX),
        ("k", MATRIX),
        ("v", MATRIX),
        ("output", MATRIX),
        ("router", MATRIX),
        ("gate", MATRIX),
        ("up", MATRIX),
        ("down", MATRIX),
        ("attention_norm", np.uintp),  # [D]
        ("feed_forward_norm", np.uintp),  # [D]
        ("q_norm", np.uintp),  # [K]
        ("k_norm", np.uintp),  # [K]
        ("q_bias", np.uintp),  # [h*K]
        ("k_bias", np.uintp),  # [g*K]
        ("v_bias", np.uintp),  # [g*K]
        ("whole", np.int64),  # 1: workers hold whole experts, 0: rows of every one
    ],
    align=True,
)

# The part of the arena that one worker writes and all read; its own slices of each row.
PART = np.dtype(
    [
        ("embedding", np.uintp),  # [T, D] whole rows of the tokens whose vocabulary row this worker owns
        ("hidden", np.uintp),  # [T, d] the residual stream
        ("attention", np.uintp),  # groups of own heads' blocks, as the output projection reads them
        ("intermediate", np.uintp),  # groups of own rows' blocks of silu(gate) * up; whole experts': of all rows
        ("output", np.uintp),  # [columns, D] of the whole experts that this worker computed
        ("normed_integer", np.uintp),  # [T] integer columns, each by itself, of the tokens that this worker routed
        ("normed_float", np.uintp),  # the same as float columns
        ("chosen", np.uintp),  # [T, A] int32, their experts
        ("shares", np.uintp),  # [T, A]
        ("logits", np.uintp),  # [R, v]
        ("first_vocabulary", np.int64),
        ("width", np.int64),  # d
        ("attention_width", np.int64),  # h*K
        ("expert_width", np.int64),  # f
        ("vocabulary", np.int64),  # v
    ],
    align=True,
)

# A run of columns that share tiles. `column` counts where results go, `x_column` where the activations lie.
GROUP = np.dtype([("column", np.int32), ("x_column", np.int32), ("width", np.int32), ("count", np.int32)])
# Groups that go over the same panels: all of an expert, or some of a dense matrix, which is expert 0.
SEGMENT = np.dtype([("expert", np.int32), ("first_group", np.int32), ("groups", np.int32)])


class ShardSizes(NamedTuple):
    """Whole numbers of the model and the shard; real numbers follow in `Constants`."""

    layers: int
    width: int  # D
    query_heads: int  # H
    kv_heads: int  # G
    head_size: int  # K
    rotated: int  # values of a head that rotate
    neox: int  # 1: pairs (i, i + rotated/2), 0: pairs (2i, 2i + 1)
    experts: int  # E
    active_experts: int  # A
    vocabulary: int  # V
    routed: int  # 1: a router chooses; 0: one expert of weight 1
    worker: int
    workers: int
    own_query_heads: int  # h
    first_query_head: int
    own_kv_heads: int  # g
    first_kv_head: int
    first_width: int  # of the worker's slice of D
    own_vocabulary: int  # v
    first_vocabulary: int
    embeds: int  # 1: the step begins with its tokens, 0: with the rows of another host's last layer
    embedding_tile: int  # tile number of the embedding's format, and the bytes of its rows
    embedding_row_bytes: int
    key_format: int  # of the KV cache: a row of the tile table
    value_format: int
    hadamard: int  # 1: queries and keys are spread by attention/hadamard.py
    kv_blocks: int


class Constants(NamedTuple):
    """Real numbers of the model."""

    epsilon: Floats  # [1]
    rope: Floats  # [positions, rotated] cosines then sines


class Weights(NamedTuple):
    """The shard's weights."""

    layers: Records  # [L] LAYER
    head: Records  # [1] MATRIX, the vocabulary rows of the output
    output_norm: Floats  # [D]
    embedding: NDArray[np.uint8]  # [v * row bytes] rows as in the file
    tiles: TileTable


class Grouping(NamedTuple):
    """How columns share tiles. Padding columns belong to no token and to no group."""

    groups: Records  # GROUP
    segments: Records  # SEGMENT
    column_group: Ints  # [columns] group of each column, -1 for padding
    source: Ints  # [columns] token of each column
    used: Ints  # [2] segments, columns including padding


class Memory(NamedTuple):
    """The shard's working memory. Columns: the step's tokens, or their expert columns, rounded up to whole groups.

    Rows that are spread lie an odd number of cache lines apart: a tile writes up to 12 of them at once, which would all
    fall into one set of the first-level cache if they were a multiple of 4096 bytes apart.
    """

    kv: int  # address of [L, blocks, g] KV blocks
    kv_block_bytes: int  # of one KV head
    parts: Records  # [workers] PART
    x_integer: NDArray[np.uint8]  # integer groups of all tokens, of the longest row
    x_float: NDArray[np.uint8]  # float groups of all tokens, of the longest row
    packed_integer: NDArray[np.uint8]  # integer groups of the expert columns
    packed_float: NDArray[np.uint8]
    qkv: Floats  # [columns, (h + 2g) * K and more], spread
    router_logits: Floats  # [columns, PARTS, E rounded up to 16] sums over parts of the inputs, see experts/router.py
    down: Floats  # [expert columns, d and more], spread
    rows: Floats  # [threads, longest row] a thread's own row
    scratch: Floats  # [threads, ...] a thread's own, see attention/scratch.py
    piece_rows: Floats  # [pieces * h, ...] rows of the pieces that threads share, see attention/scratch.py
    piece_tokens: Ints  # [pieces] the token of each
    piece_starts: Ints  # [T + 1] the first piece of each token, and SHARED_PIECES, see attention/piece_list.py
    unpacked: NDArray[np.uint8]  # [threads, UNPACKED_BYTES] scratch for one file block, see weights/file_blocks.py
    chosen: Ints  # [T, A] in the arena: experts by falling probability, then NOT_RUN
    shares: Floats  # [T, A] in the arena: their weights, sum 1
    routed_starts: Ints  # [workers + 1] the first token that each worker routes, see experts/sharing.py
    columns: Ints  # [T, A] the expert column of each
    counts: Ints  # [E] scratch of grouping
    loads: Ints  # [workers] scratch of assigning experts
    owners: Ints  # [E] the worker that computes each active expert of the layer, where experts are whole
    dense: Grouping
    routed: Grouping  # of `dense`, but with own segments: the tokens that this worker routes; columns are not counted
    expert: Grouping
    counters: Records  # [1] in the arena, see COUNTERS in protos/arena.py
    step_bytes: NDArray[np.int64]  # [PHASES] in the arena, written at the start: of weights that every step reads
    chosen_bytes: NDArray[np.int64]  # [PHASES] in the arena: of weights that steps read beyond, so far
    expert_hits: NDArray[np.int64]  # [L, E] in the arena: tokens routed to each expert
    # Scratch of sampling, see step/candidates.py.
    candidates: Floats  # [threads, V rounded up to TOGETHER]
    candidate_groups: Floats  # [threads, 2, V / TOGETHER rounded up to 16]
    candidate_values: Floats  # [threads, LISTED]
    candidate_ids: NDArray[np.int32]  # [threads, LISTED]
    candidate_buckets: NDArray[np.float64]  # [threads, 2, BUCKETS]


class StepInput(NamedTuple):
    """The step slot of the arena (protos/arena.py draws it)."""

    header: Ints  # [6] tokens, sequences, samples, level of kernels/threads/profile.py, whether it is checked, copies
    token_ids: Ints  # [T]
    hidden_in: Floats  # [T, D] the residual stream, where the step does not begin with tokens; else [0, D]
    positions: Ints  # [T]
    token_sequence: Ints  # [T] row of kv_tables
    kv_tables: Ints  # [S, blocks of the longest context]
    source_blocks: Ints  # [S] KV blocks to copy to those of the first positions; NO_BLOCK: none
    fewest_experts: Ints  # [S] that are run whatever their probabilities, see experts/router.py
    expert_threshold: Floats  # [S] of the largest probability, for all others
    samples: Records  # [R] SAMPLE
    seen_tokens: Ints  # ids that penalties apply to, of all samples one after the other
    seen_counts: Ints
    bias_tokens: Ints  # ids whose logits are changed by `bias_values`, of all samples one after the other
    bias_values: Floats
    allowed: NDArray[np.uint32]  # [R, V rounded up to TOGETHER / 32] a bit for each token, of samples that are masked
    masks_ready: Ints  # [32] of 16 each the first: whether `allowed` is written, and how many sleep until it is
    expert_holders: Ints  # [L, E] a bit per worker that holds the expert whole; 0 where the layer is split by row
    drawn_tokens: Ints  # [R], written
    drawn_logprobs: Floats  # [R], written
    top_tokens: Ints  # [R, MOST_ALTERNATIVES], written as far as a sample asks: the likeliest, best first
    top_logprobs: Floats  # [the same], written
    experts_run: NDArray[np.int64]  # [S], written: of all layers and all tokens of each sequence in the step
    not_finite: Ints  # [1], written by a checked step: where the residual stream was not finite first
