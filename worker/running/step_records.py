"""What the compiled step is told of a shard: its sizes, its constants and its weights."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from numoe.kernels.attention.kv_cache import kv_block_bytes
from numoe.kernels.attention.rope import rope_table
from numoe.kernels.attention.value_tile import attention_tiles
from numoe.kernels.records import Constants, ShardSizes, Weights
from numoe.kernels.weights.formats import BY_GGML_TYPE, FORMATS, NUMBERS, Format
from numoe.model.architectures.spec import ModelSpec
from numoe.model.gguf.kv_types import KvTypes
from numoe.model.planning.assignment import WorkerAssignment
from numoe.worker.loading.loader import LoadedWeights


def kv_formats(assignment: WorkerAssignment) -> tuple[int, int]:
    """The numbers of the formats that keys and values are kept in."""
    keys, values = (NUMBERS[BY_GGML_TYPE[type_].name] for type_ in assignment.kv_types)
    return keys, values


def kv_bytes(assignment: WorkerAssignment) -> int:
    """Bytes of the shard's KV cache."""
    spec = assignment.spec
    head = kv_block_bytes(spec.head_size, *kv_formats(assignment))
    return spec.layers * assignment.limits.kv_blocks * assignment.shard.kv_heads.size * head


def sizes_of(assignment: WorkerAssignment) -> ShardSizes:
    """The whole numbers of the compiled step."""
    spec, shard = assignment.spec, assignment.shard
    key_format, value_format = kv_formats(assignment)
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
        worker=assignment.worker,
        workers=len(assignment.plan.shards),
        own_query_heads=shard.heads.size,
        first_query_head=shard.heads.start,
        own_kv_heads=shard.kv_heads.size,
        first_kv_head=shard.kv_heads.start,
        first_width=shard.width_rows.start,
        own_vocabulary=shard.vocabulary.size,
        first_vocabulary=shard.vocabulary.start,
        embeds=int(spec.embeds),
        embedding_tile=NUMBERS[BY_GGML_TYPE[spec.token_embedding.type].name],
        embedding_row_bytes=spec.token_embedding.row_bytes,
        key_format=key_format,
        value_format=value_format,
        hadamard=int(assignment.hadamard),
        kv_blocks=assignment.limits.kv_blocks,
    )


def constants_of(assignment: WorkerAssignment) -> Constants:
    """The real numbers of the compiled step."""
    rope = assignment.spec.rope
    angles = rope_table(
        assignment.limits.context_tokens,
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
    return Constants(epsilon=np.array([assignment.spec.rms_epsilon], np.float32), rope=angles)


def formats_of(spec: ModelSpec, kv_types: KvTypes) -> list[Format]:
    """The formats whose tiles a model needs: those of its matrices and of the KV cache."""
    types = spec.matrix_types | {*kv_types}
    return [format_ for format_ in FORMATS if format_.ggml_type in types]


def weights_of(loaded: LoadedWeights, formats: Iterable[Format], *, values: bool) -> Weights:
    """The weights of the compiled step; compiles the tiles or takes them from the cache.

    Args:
        values: whether the tiles of the values of a Q8_0 cache are needed, too.
    """
    tiles = attention_tiles(formats, values=values)
    arranged = loaded.arranged
    return Weights(arranged.layers, arranged.head, loaded.output_norm, loaded.embedding, tiles)
