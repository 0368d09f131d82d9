"""The memory of one shard beside its weights: KV cache, buffers, and the records that the compiled step is given."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from numoe.kernels.attention.kv_cache import kv_block_bytes
from numoe.kernels.attention.piece_list import most_pieces
from numoe.kernels.attention.rope import rope_table
from numoe.kernels.attention.scratch import row_floats, scratch_floats
from numoe.kernels.attention.value_tile import attention_tiles
from numoe.kernels.experts.phases import GATE_AND_UP_TILES
from numoe.kernels.matmul.column_groups import GROUPS_AT_ONCE
from numoe.kernels.matmul.groups import FLOAT_BYTES, INTEGER_BYTES, WIDEST
from numoe.kernels.records import GROUP, PART, SEGMENT, Constants, Grouping, Memory, ShardSizes, StepInput, Weights
from numoe.kernels.weights.file_blocks import UNPACKED_BYTES
from numoe.kernels.weights.formats import BY_GGML_TYPE, FORMATS, NUMBERS, ROWS, Format
from numoe.model.architectures.spec import ModelSpec
from numoe.model.gguf.tensors import TensorType
from numoe.model.planning.assignment import WorkerOrder
from numoe.protos.arena import ArenaLayout, dense_columns, expert_columns, whole_panels
from numoe.worker.loading.arrange import row_bytes
from numoe.worker.loading.loader import LoadedWeights
from numoe.worker.placing.memory import allocate

Views = NDArray[np.uint8]


def kv_format(order: WorkerOrder) -> int:
    """The number of the format that keys and values are kept in."""
    return NUMBERS[BY_GGML_TYPE[order.kv_type].name]


def kv_bytes(order: WorkerOrder) -> int:
    """Bytes of the shard's KV cache."""
    spec = order.spec
    head = kv_block_bytes(spec.head_size, kv_format(order))
    return spec.layers * order.limits.kv_blocks * order.shard.kv_heads.size * head


def sizes_of(order: WorkerOrder) -> ShardSizes:
    """The whole numbers of the compiled step."""
    spec, shard = order.spec, order.shard
    return ShardSizes(
        layers=spec.layers,
        width=spec.width,
        query_heads=spec.query_heads,
        kv_heads=spec.kv_heads,
        head_size=spec.head_size,
        rotated=spec.rope.dimensions,
        neox=int(spec.rope.style == "neox"),
        experts=spec.experts,
        active_experts=spec.active_experts,
        vocabulary=spec.vocabulary,
        routed=int(spec.routed),
        worker=order.worker,
        workers=len(order.plan.shards),
        own_query_heads=shard.heads.size,
        first_query_head=shard.heads.start,
        own_kv_heads=shard.kv_heads.size,
        first_kv_head=shard.kv_heads.start,
        first_width=shard.width_rows.start,
        own_vocabulary=shard.vocabulary.size,
        first_vocabulary=shard.vocabulary.start,
        embedding_tile=NUMBERS[BY_GGML_TYPE[spec.token_embedding.type].name],
        embedding_row_bytes=row_bytes(spec.token_embedding),
        kv_format=kv_format(order),
        kv_blocks=order.limits.kv_blocks,
    )


def constants_of(order: WorkerOrder) -> Constants:
    """The real numbers of the compiled step."""
    rope = order.spec.rope
    angles = rope_table(
        order.limits.context_tokens,
        rope.dimensions,
        rope.base,
        rope.scaling,
        rope.factor,
        rope.original_context,
        rope.attention_factor,
        rope.extrapolation_factor,
        rope.beta_fast,
        rope.beta_slow,
    )
    return Constants(epsilon=np.array([order.spec.rms_epsilon], np.float32), rope=angles)


def formats_of(spec: ModelSpec, kv_type: TensorType) -> list[Format]:
    """The formats whose tiles a model needs: those of its matrices and of the KV cache."""
    types = spec.matrix_types | {kv_type}
    return [format_ for format_ in FORMATS if format_.ggml_type in types]


def weights_of(loaded: LoadedWeights, formats: Iterable[Format], *, values: bool) -> Weights:
    """The weights of the compiled step; compiles the tiles or takes them from the cache.

    `values`: also the tiles of the values of a Q8_0 cache.
    """
    tiles = attention_tiles(formats, values=values)
    arranged = loaded.arranged
    return Weights(arranged.layers, arranged.head, loaded.output_norm, loaded.embedding, tiles)


def step_input(layout: ArenaLayout, arena: Views) -> StepInput:
    """The step slot of the arena."""
    return StepInput(*(layout.view(arena, name) for name in StepInput._fields))


def _parts(order: WorkerOrder, layout: ArenaLayout, arena: Views) -> NDArray[np.void]:
    parts = np.zeros(len(order.plan.shards), PART)
    for worker, shard in enumerate(order.plan.shards):
        part = parts[worker]
        for name in PART.names or ():
            if PART[name] == np.uintp:
                part[name] = layout.view(arena, f"worker{worker}.{name}").ctypes.data
        part["first_vocabulary"] = shard.vocabulary.start
        part["width"] = shard.width_rows.size
        part["attention_width"] = shard.heads.size * order.spec.head_size
        part["expert_width"] = shard.expert_rows.size
        part["vocabulary"] = shard.vocabulary.size
    return parts


def _grouping(columns: int, experts: int) -> Grouping:
    return Grouping(
        groups=np.zeros(columns, GROUP),
        segments=np.zeros(experts + columns // GROUPS_AT_ONCE, SEGMENT),
        column_group=np.full(columns, -1, np.int32),
        source=np.zeros(columns, np.int32),
        used=np.zeros(2, np.int32),
    )


def memory_of(order: WorkerOrder, layout: ArenaLayout, arena: Views, kv: Views) -> Memory:
    """The working memory of the compiled step."""
    spec, limits, shard = order.spec, order.limits, order.shard
    threads = len(shard.cpus)
    tokens = max(limits.step_tokens, limits.sequences)
    dense = dense_columns(tokens)
    experts = expert_columns(tokens, spec.active_experts, spec.experts)
    longest = max(spec.width, spec.query_heads * spec.head_size, spec.expert_width)
    own = f"worker{order.worker}."

    def groups(columns: int, values: int, unit: int) -> NDArray[np.uint8]:
        return allocate(columns * (values // 32) * unit)

    def floats(*shape: int) -> NDArray[np.float32]:
        return allocate(max(1, int(np.prod(shape))) * 4).view(np.float32)[: int(np.prod(shape))].reshape(shape)

    def spread(rows: int, values: int) -> NDArray[np.float32]:
        return floats(rows, ROWS * (-(-values // ROWS) | 1))

    def ints(*shape: int) -> NDArray[np.int32]:
        return np.zeros(shape, np.int32)

    packed = max(spec.width, spec.expert_width)
    heads = shard.heads.size + 2 * shard.kv_heads.size
    vocabulary = whole_panels(spec.vocabulary)
    of_tokens = _grouping(dense, 1)
    heads_per_kv = spec.query_heads // spec.kv_heads
    pieces = most_pieces(threads, shard.kv_heads.size, limits.context_tokens) if threads > 1 else 0
    return Memory(
        kv=kv.ctypes.data,
        kv_block_bytes=kv_block_bytes(spec.head_size, kv_format(order)),
        parts=_parts(order, layout, arena),
        x_integer=groups(dense, longest, INTEGER_BYTES),
        x_float=groups(dense, longest, FLOAT_BYTES),
        packed_integer=groups(experts, packed, INTEGER_BYTES),
        packed_float=groups(experts, packed, FLOAT_BYTES),
        qkv=spread(dense, heads * spec.head_size),
        router_logits=floats(dense, whole_panels(spec.experts)),
        down=spread(experts, shard.width_rows.size),
        rows=floats(threads, longest),
        scratch=floats(threads, max(scratch_floats(spec.head_size, heads_per_kv), GATE_AND_UP_TILES * WIDEST * ROWS)),
        piece_rows=floats(pieces * shard.heads.size, row_floats(spec.head_size)),
        piece_tokens=ints(pieces),
        piece_starts=ints(tokens + 1),
        unpacked=np.zeros((threads, UNPACKED_BYTES), np.uint8),
        chosen=layout.view(arena, own + "chosen"),
        shares=layout.view(arena, own + "shares"),
        routed_starts=ints(len(order.plan.shards) + 1),
        columns=ints(tokens, spec.active_experts),
        counts=ints(spec.experts),
        loads=ints(len(order.plan.shards)),
        owners=ints(spec.experts),
        dense=of_tokens,
        routed=of_tokens._replace(segments=np.zeros_like(of_tokens.segments), used=ints(2)),
        expert=_grouping(experts, spec.experts),
        counters=layout.view(arena, own + "counters"),
        expert_hits=layout.view(arena, own + "expert_hits"),
        candidates=floats(threads, vocabulary),
        candidate_ids=ints(threads, vocabulary),
    )
