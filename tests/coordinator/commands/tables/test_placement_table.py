"""What `numoe placement` puts on the screen stays readable for many layers."""

from __future__ import annotations

from dataclasses import replace

from numoe.coordinator.api.grpc.placement import placement_message
from numoe.coordinator.commands.tables.placement import describe_placement
from numoe.coordinator.workers.placement import Placement, WorkerPlacement
from numoe.model.planning.expert_owners import ExpertOwners
from numoe.model.planning.plan import Range, Shard, Spread
from numoe.protos.locality import Locality
from tests.coordinator.commands.tables.screen import shown

GIB = 1 << 30
PART = Range(0, 16)
SHARDS = [Shard(worker, worker, (2 * worker, 2 * worker + 1), PART, PART, PART, PART, PART) for worker in range(2)]
HOME = Locality(
    binding="cpus+memory",
    verified=True,
    layers=tuple({1: (2 if layer % 2 else 1) * GIB} for layer in range(94)),
    vocabulary={1: GIB},
    kv={1: 3 * GIB},
    arena={1: 1 << 20},
    moved_bytes=0,
    threads=40,
    threads_inside=40,
)


def screen(locality: Locality) -> str:
    first = WorkerPlacement(SHARDS[0], "starting")
    second = WorkerPlacement(SHARDS[1], "ready", 77, 142 * GIB, 3 * GIB, locality)
    return shown(describe_placement(placement_message(Placement("tensor", (first, second)))), width=200)


def test_equal_layers_share_a_line() -> None:
    text = screen(HOME)
    assert text.count("\n") < 40
    for part in ("node 1: 142 GiB", "node 1: 3.00 GiB", "40 of 40", "cpus+memory, verified", "starting"):
        assert part in text
    assert "each of layers 0,2,4,6,8" in text
    even = screen(replace(HOME, layers=({1: GIB},) * 94))
    assert [line for line in even.splitlines() if "layers 0-93" in line and "node 1: 1.00 GiB" in line]


def test_memory_elsewhere_is_named() -> None:
    text = screen(replace(HOME, kv={0: GIB, 1: 2 * GIB}, problem="found bytes of KV cache elsewhere"))
    assert "node 0: 1.00 GiB, node 1: 2.00 GiB" in text
    assert "Worker 1: found bytes of KV cache elsewhere." in text
    assert "verified" not in text


def test_a_worker_that_is_not_bound_is_not_shown_as_bound() -> None:
    shard = replace(SHARDS[1], spread=Spread("any", (0, 1), (0, 1, 2, 3)))
    found = replace(HOME, binding="none", kv={0: GIB, 1: 2 * GIB})
    worker = WorkerPlacement(shard, "ready", 77, 142 * GIB, 3 * GIB, found)
    placement = Placement("tensor", (worker,))
    assert placement.binding == "none"
    message = placement_message(placement)
    assert not message.workers[0].HasField("numa_node")
    [line] = [line for line in shown(describe_placement(message), width=200).splitlines() if " 77 " in line]
    assert [cell.strip() for cell in line.strip("│").split("│")] == ["1", "77", "-", "0-3", "ready", "none", "0 of 40"]
    text = shown(describe_placement(message), width=200)
    assert "node 0: 1.00 GiB, node 1: 2.00 GiB" in text


def test_sizes_are_told_where_the_kernel_does_not_tell_nodes() -> None:
    text = screen(replace(HOME, verified=False, layers=({},) * 94, vocabulary={}, kv={}, arena={}))
    assert "142 GiB" in text
    assert "node 1:" not in text


def test_whole_experts_are_told_by_layers_that_share_them_alike() -> None:
    halves, other = ExpertOwners(((0,),) * 4 + ((0, 1),) + ((1,),) * 3), ExpertOwners(((0,),) * 8)
    workers = tuple(WorkerPlacement(shard, "starting") for shard in SHARDS)
    message = placement_message(Placement("mixed", workers, (None, halves, halves, other)))
    told = [[(list(held.layers), list(held.experts)) for held in worker.experts] for worker in message.workers]
    assert told == [[([1, 2], [0, 1, 2, 3, 4]), ([3], list(range(8)))], [([1, 2], [4, 5, 6, 7]), ([3], [])]]
    lines = shown(describe_placement(message), width=200).splitlines()
    assert any("experts in layers 1-2" in line and "4-7" in line for line in lines)
    assert any("experts in layers 3" in line and "none" in line for line in lines)
