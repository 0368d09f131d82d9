"""Bytes per worker are exact sums over its rows, and agree with known models."""

from __future__ import annotations

from dataclasses import replace

import pytest

from numoe.model.architectures.spec import LayerTensors, ModelSpec
from numoe.model.gguf.kv_types import KvTypes
from numoe.model.gguf.tensors import TensorInfo, TensorType
from numoe.model.planning.panels import rows_bytes
from numoe.model.planning.plan_size import shard_bytes
from numoe.model.planning.splitting import PlanOptions, make_plan
from numoe.protos.locality import PAGE
from tests.model.planning.examples import sized_spec, small_machine, tensors_of
from tests.tiny_model import TinyShape

QWEN3_30B = TinyShape(
    layers=48,
    width=2048,
    query_heads=32,
    kv_heads=4,
    head_size=128,
    experts=128,
    active_experts=8,
    expert_width=768,
    vocabulary=151936,
    type=TensorType.Q8_0,
)


def held_bytes(spec: ModelSpec) -> int:
    """The file's tensors, the output's last panel and the routers' filled up, a tied output twice."""
    layers = sum(tensor.bytes for layer in spec.layer_tensors for tensor in tensors_of(layer).values())
    output = rows_bytes(spec.output, spec.vocabulary)
    filling = sum(router_bytes(layer) - layer.router.bytes for layer in spec.layer_tensors if layer.router)
    return layers + spec.token_embedding.bytes + spec.output_norm.bytes + output + filling


def router_bytes(layer: LayerTensors) -> int:
    return rows_bytes(layer.router, layer.router.shape[0]) if layer.router else 0


def shared_bytes(spec: ModelSpec) -> int:
    """Norms and routers, which every worker holds."""
    names = ("attn_norm", "attn_q_norm", "attn_k_norm", "ffn_norm")
    layers = sum(tensor.bytes for layer in spec.layer_tensors for tensor in tensors_of(layer, *names).values())
    return layers + spec.output_norm.bytes + sum(router_bytes(layer) for layer in spec.layer_tensors)


@pytest.mark.parametrize("tied", [False, True])
def test_one_worker_holds_the_whole_model(tied: bool) -> None:
    spec = sized_spec(TinyShape(tied=tied))
    made = make_plan(spec, small_machine(1))
    [shard] = made.shards
    assert shard_bytes(made, spec, shard).weights == held_bytes(spec)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_workers_hold_the_model_between_them(workers: int) -> None:
    spec = sized_spec(TinyShape(types=(("attn_q", TensorType.Q8_0), ("ffn_down_exps", TensorType.F16))))
    made = make_plan(spec, small_machine(4), PlanOptions(workers=workers))  # no kv head is shared
    held = sum(shard_bytes(made, spec, shard).weights for shard in made.shards)
    assert held == held_bytes(spec) + (workers - 1) * shared_bytes(spec)


@pytest.mark.parametrize("replicas", [0.0, 0.25])
def test_whole_experts_are_held_once_and_replicas_once_more(replicas: float) -> None:
    spec = sized_spec(TinyShape(experts=8, active_experts=2))
    made = make_plan(spec, small_machine(2), PlanOptions(split="expert", replicas=replicas))
    rows = make_plan(spec, small_machine(2))
    layer = spec.layer_tensors[0]
    more = spec.layers * round(replicas * 8) * (layer.gate.bytes + layer.up.bytes + layer.down.bytes) // 8
    held, held_by_row = (sum(shard_bytes(one, spec, shard).weights for shard in one.shards) for one in (made, rows))
    assert held_by_row + more <= held < held_by_row + more + spec.layers * (8 + round(replicas * 8)) * PAGE
    read, read_by_row = (
        sum(shard_bytes(one, spec, shard).read_per_token for shard in one.shards) for one in (made, rows)
    )
    assert read == read_by_row


def test_a_shared_key_value_head_counts_for_each_worker_that_keeps_it() -> None:
    spec = sized_spec(TinyShape(query_heads=8, kv_heads=1))
    made = make_plan(spec, small_machine(2))
    layer = spec.layer_tensors[0]
    twice = spec.layers * (layer.attn_k.bytes + layer.attn_v.bytes)
    assert (
        sum(shard_bytes(made, spec, shard).weights for shard in made.shards)
        == held_bytes(spec) + shared_bytes(spec) + twice
    )


def test_a_bias_is_held_with_its_rows() -> None:
    spec = sized_spec(TinyShape())
    bias = TensorInfo("bias", TensorType.F32, (8 * 32,), spec.output.path, 0, 8 * 32 * 4)
    layers = tuple(replace(layer, attn_q_bias=bias) for layer in spec.layer_tensors)
    made = make_plan(spec, small_machine(2))
    more = [shard_bytes(made, replace(spec, layer_tensors=layers), shard).weights for shard in made.shards]
    assert [new - shard_bytes(made, spec, shard).weights for new, shard in zip(more, made.shards, strict=True)] == [
        1024,
        1024,
    ]


def test_a_token_of_qwen3_30b_reads_3_22_gigabytes() -> None:
    spec = sized_spec(QWEN3_30B)
    made = make_plan(spec, small_machine(1))
    [shard] = made.shards
    router = 50e6  # the published figure counts the quantised matrices only
    assert shard_bytes(made, spec, shard).read_per_token - router == pytest.approx(3.22e9, rel=0.003)


def test_a_position_of_qwen3_30b_keeps_98_kilobytes() -> None:
    spec = sized_spec(QWEN3_30B)
    made = make_plan(spec, small_machine(2))
    assert sum(shard_bytes(made, spec, shard, kv_positions=1).kv_cache for shard in made.shards) == 98_304
    for one, position in ((TensorType.F32, 98_304), (TensorType.BF16, 49_152), (TensorType.Q8_0, 26_112)):
        for other, more in ((one, position), (TensorType.F32, 98_304)):
            for types in (KvTypes(one, other), KvTypes(other, one)):
                assert shard_bytes(made, spec, made.shards[0], 100, types).kv_cache == (position + more) // 2 * 100
