"""The bytes that plans count are those that workers hold."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from pathlib import Path

import pytest

from numoe.kernels.weights.formats import BY_GGML_TYPE
from numoe.model.architectures.spec import ModelSpec
from numoe.model.gguf.tensors import RUNNABLE_TYPES, TensorInfo, TensorType
from numoe.model.planning.panels import panel_bytes
from numoe.model.planning.plan import ShardPlan
from numoe.model.planning.plan_size import shard_bytes
from numoe.model.planning.splitting import PlanOptions, make_plan
from numoe.worker.loading import arrange
from tests.model.planning.examples import machine, sized_spec, tensors_of
from tests.tiny_model import TinyShape


@pytest.mark.parametrize("type_", sorted(RUNNABLE_TYPES), ids=lambda type_: type_.name)
def test_a_panel_of_every_format_is_as_large_as_the_kernels_make_it(type_: TensorType) -> None:
    tensor = TensorInfo("weights", type_, (40, 512), Path(), 0, 0)
    format_ = BY_GGML_TYPE[type_]
    assert panel_bytes(tensor) == 512 // format_.unit_values * format_.panel_unit_bytes


def vectors(spec: ModelSpec) -> int:
    """Bytes of the norms, which lie beside a worker's memory."""
    names = ("attn_norm", "attn_q_norm", "attn_k_norm", "ffn_norm")
    norms = [tensor for layer in spec.layer_tensors for tensor in tensors_of(layer, *names).values()]
    return sum(4 * prod(norm.shape) for norm in (*norms, spec.output_norm))


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("replicas", [None, 0.0, 0.25], ids=["tensor", "expert", "replicas"])
@pytest.mark.parametrize("tied", [False, True])
def test_a_worker_holds_what_the_plan_says_to_the_byte(workers: int, replicas: float | None, tied: bool) -> None:
    spec = sized_spec(TinyShape(types=(("attn_q", TensorType.Q8_0), ("ffn_down_exps", TensorType.F16)), tied=tied))
    split = PlanOptions(workers, split="tensor" if replicas is None else "expert", replicas=replicas or 0.0)
    made = make_plan(spec, machine(4), replace(split, replicas=0.0) if workers == 1 else split)
    for shard in made.shards:
        assert shard_bytes(made, spec, shard).weights == arrange.arrange(spec, made, shard).bytes + vectors(spec)


def test_layers_split_in_different_ways_are_counted_one_by_one() -> None:
    spec = sized_spec(TinyShape(layers=3))
    whole = make_plan(spec, machine(4), PlanOptions(2, split="expert"))
    mixed = ShardPlan(whole.model, whole.shards, (None, whole.experts[1], None))
    assert mixed.split == "mixed"
    for shard in mixed.shards:
        assert shard_bytes(mixed, spec, shard).weights == arrange.arrange(spec, mixed, shard).bytes + vectors(spec)
