"""What workers could do at most, and what a token takes."""

from __future__ import annotations

from math import prod

from numoe.coordinator.measuring.peaks import model_tensors, operations_per_token, peaks_of
from numoe.model.gguf.kv_types import HALF_FLOATS
from numoe.model.machine.topology import Node, Topology
from numoe.model.planning.plan import Spread
from numoe.model.planning.plan_size import kv_position_bytes
from numoe.model.planning.prediction.speeds import Speeds, guessed_speeds
from numoe.model.planning.splitting import PlanOptions, make_plan
from tests.tiny_model import TinyShape, tensor_shapes, tiny_spec


def test_operations_are_those_of_the_active_weights() -> None:
    spec = tiny_spec(TinyShape(layers=2, width=64, query_heads=8, kv_heads=4, head_size=32, vocabulary=331))
    attention = 64 * 256 + 2 * 64 * 128 + 256 * 64
    experts = 2 * 3 * 64 * 96 + 8 * 64  # two active ones and the router
    assert operations_per_token(spec, with_output=False) == 2 * 2 * (attention + experts)
    assert operations_per_token(spec, with_output=True) == 2 * (2 * (attention + experts) + 331 * 64)
    assert kv_position_bytes(spec, spec.kv_heads, HALF_FLOATS) == 2 * 2 * 4 * 32 * 2


def test_every_tensor_counts_once_also_where_the_output_is_the_embedding() -> None:
    for shape in (TinyShape(), TinyShape(tied=True), TinyShape(architecture="llama", experts=1, active_experts=1)):
        expected = sum(prod(size) for size in tensor_shapes(shape).values())
        assert sum(prod(tensor.shape) for tensor in model_tensors(tiny_spec(shape))) == expected


def test_peaks_are_those_of_the_nodes_and_cores_that_the_plan_uses() -> None:
    gigabytes = 1 << 34
    nodes = tuple(
        Node(node, ((2 * node,), (2 * node + 1,)), gigabytes, gigabytes, gigabytes, (10, 20), package=node)
        for node in range(2)
    )
    spec, speeds = tiny_spec(TinyShape()), Speeds({0: 30e9, 1: 20e9}, "as told", integer_peak=1e12)
    both = peaks_of(make_plan(spec, Topology(nodes), PlanOptions(workers=2)), speeds)
    assert (both.bandwidth, both.operations) == (50e9, 4e12)
    assert "50.0 GB/s of node 0, 1, as told" in both.source
    assert "doctor" not in both.source
    guessed = peaks_of(make_plan(spec, Topology(nodes), PlanOptions(workers=2)), guessed_speeds(Topology(nodes)))
    assert "guessed from the number of cores (`numoe doctor` measures it)" in guessed.source
    one = peaks_of(make_plan(spec, Topology(nodes), PlanOptions(workers=1, threads_per_worker=1, nodes=(1,))), speeds)
    assert (one.bandwidth, one.operations) == (20e9, 1e12)
    spread = PlanOptions(threads=2, spread=Spread("interleave", (0, 1)))
    assert peaks_of(make_plan(spec, Topology(nodes), spread), speeds).bandwidth == 50e9
