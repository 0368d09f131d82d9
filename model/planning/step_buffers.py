"""How much memory the compiled step's buffers take of a worker, beside weights, KV cache and arena.

The worker allocates them (worker/running/step_memory.py) by numbers that the kernels own; this module repeats these
numbers for who plans, as panels.py does, and a test holds every buffer to what the worker allocates. Where instruction
sets differ it counts the largest.
"""

from __future__ import annotations

from collections.abc import Mapping

from numoe.model.architectures.spec import LayerTensors, ModelSpec
from numoe.model.gguf.tensors import TensorType
from numoe.model.planning.plan import BLOCK_ROWS, PANEL_ROWS, Shard, ShardPlan
from numoe.protos.arena import dense_columns, expert_columns, whole_panels
from numoe.protos.messages import StepLimits

INTEGER_BYTES, FLOAT_BYTES = 48, 128  # of a column's block of 32 values
GROUP_BYTES, SEGMENT_BYTES, SEGMENT_GROUPS = 16, 12, 8
WIDEST, MOST_HEADS = 12, 8  # columns of a tile, and of one of attention
MOST_TOKENS = 8  # that go over a context together
BUCKET_BYTES, UNPACKED_BYTES = 2 * 1024 * 8, 276  # of a thread
CANDIDATES_TOGETHER, CANDIDATES_LISTED = 128, 4096  # of a draw
PIECE, KV_BLOCK, SPLIT_BELOW = 512, 64, 4  # positions of a piece and of a block; pieces are shared out below this share
ROUTER_PARTS = 4  # of the inputs, with sums of their own
STATE = 16  # floats before a row of attention
FLOAT_TYPES = frozenset({TensorType.F32, TensorType.F16, TensorType.BF16})


def buffer_bytes(spec: ModelSpec, shard: Shard, workers: int, limits: StepLimits) -> dict[str, int]:
    """Bytes of each of the step's buffers that are a worker's own, by their names in kernels/records.py."""
    threads, kv_heads, size = len(shard.cpus), shard.kv_heads.size, spec.head_size
    tokens = max(limits.step_tokens, limits.sequences)
    dense, experts = dense_columns(tokens), expert_columns(tokens, spec.active_experts, spec.experts)
    longest = max(spec.width, spec.query_heads * size, spec.expert_width)
    packed = max(spec.width, spec.expert_width)
    pieces = _most_pieces(threads, kv_heads, limits.context_tokens) if threads > 1 else 0
    of_tokens = _grouping_bytes(dense, 1)
    groups = -(-spec.vocabulary // CANDIDATES_TOGETHER) if spec.draws else 0
    return {
        "x_integer": dense * (longest // BLOCK_ROWS) * INTEGER_BYTES,
        "x_float": dense * (longest // BLOCK_ROWS) * FLOAT_BYTES,
        "packed_integer": experts * (packed // BLOCK_ROWS) * INTEGER_BYTES,
        "packed_float": experts * (packed // BLOCK_ROWS) * FLOAT_BYTES,
        "qkv": _spread_bytes(dense, (shard.heads.size + 2 * kv_heads) * size),
        "router_logits": 4 * dense * ROUTER_PARTS * whole_panels(spec.experts),
        "down": _spread_bytes(experts, shard.width_rows.size),
        "rows": 4 * threads * longest,
        "scratch": threads * max(_scratch_bytes(size, spec.query_heads // spec.kv_heads), 4 * 3 * WIDEST * PANEL_ROWS),
        "piece_rows": 4 * pieces * shard.heads.size * (STATE + size),
        "piece_tokens": 4 * pieces,
        "piece_starts": 4 * (tokens + 1),
        "unpacked": threads * UNPACKED_BYTES,
        "routed_starts": 4 * (workers + 1),
        "columns": 4 * tokens * spec.active_experts,
        "counts": 4 * spec.experts,
        "loads": 4 * workers,
        "owners": 4 * spec.experts,
        "dense": of_tokens,
        "routed": of_tokens,
        "expert": _grouping_bytes(experts, spec.experts),
        "candidates": 4 * threads * groups * CANDIDATES_TOGETHER,
        "candidate_groups": 4 * threads * 2 * whole_panels(groups),
        "candidate_values": 4 * threads * CANDIDATES_LISTED,
        "candidate_ids": 4 * threads * CANDIDATES_LISTED,
        "candidate_buckets": threads * BUCKET_BYTES,
    }


def touched_buffers(spec: ModelSpec, plan: ShardPlan, sizes: Mapping[str, int]) -> dict[str, int]:
    """Those of the buffers that steps write to: others are addresses without memory behind them."""
    matrices = [matrix for layer in spec.layer_tensors for matrix in layer.matrices]
    matrices += [spec.output] if spec.draws else []
    floats = [matrix.type in FLOAT_TYPES for matrix in matrices]
    packed = [
        _of_columns(layer, by_row=owners is None)
        for layer, owners in zip(spec.layer_tensors, plan.experts, strict=True)
    ]
    untouched = {
        "x_integer": all(floats),
        "x_float": not any(floats),
        "packed_integer": all(types <= FLOAT_TYPES for types in packed),
        "packed_float": not any(types & FLOAT_TYPES for types in packed),
        "down": None not in plan.experts,
    }
    return {name: size for name, size in sizes.items() if not untouched.get(name, False)}


def _of_columns(layer: LayerTensors, *, by_row: bool) -> frozenset[TensorType]:
    """Types of the matrices whose activations are packed: gate and up, and down where all workers gather for it."""
    return frozenset({layer.gate.type, layer.up.type, *([layer.down.type] if by_row else [])})


def _spread_bytes(rows: int, values: int) -> int:
    """Of rows of floats an odd number of cache lines apart."""
    return 4 * rows * PANEL_ROWS * (-(-values // PANEL_ROWS) | 1)


def _grouping_bytes(columns: int, experts: int) -> int:
    """Of what says how columns share tiles: groups, segments, two numbers a column, two numbers in all."""
    return columns * (GROUP_BYTES + 8) + (experts + columns // SEGMENT_GROUPS) * SEGMENT_BYTES + 8


def _scratch_bytes(head_size: int, heads: int) -> int:
    """Of a thread's attention: some tokens' query heads that share a key-value head, and one piece of their context."""
    queries = -(-heads // MOST_HEADS) * MOST_HEADS * head_size
    tile = MOST_HEADS * (STATE + head_size + STATE + PIECE + head_size)
    values = max(MOST_HEADS * KV_BLOCK, head_size // 32 * (STATE + MOST_HEADS * KV_BLOCK // 2))
    states = MOST_TOKENS * (heads * (STATE + head_size) + queries)
    return 4 * (states + tile + values + head_size // 32 * KV_BLOCK)


def _most_pieces(threads: int, kv_heads: int, context_tokens: int) -> int:
    return -(-SPLIT_BELOW * threads // max(kv_heads, 1)) * -(-context_tokens // PIECE)
