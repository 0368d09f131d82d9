"""Where experts of a layer live, and how often they are chosen, in a terminal."""

from __future__ import annotations

import struct

import pytest

from numoe.coordinator.commands.tables.experts import describe_experts
from numoe.protos.errors import SetupError
from numoe.v1.operations_pb2 import ExpertChoices, ExpertHolders, MovedExperts, WatchPlacementResponse
from numoe.v1.placement_pb2 import GetPlacementResponse, WorkerPlacement
from tests.coordinator.commands.tables.screen import shown

NODES = GetPlacementResponse(workers=[WorkerPlacement(worker=0, numa_node=0), WorkerPlacement(worker=1, numa_node=3)])


def choices(kind: str, *counts: float) -> ExpertChoices:
    return ExpertChoices(count_bytes=struct.calcsize(f"<{kind}"), counts=struct.pack(f"<{len(counts)}{kind}", *counts))


MAP = WatchPlacementResponse(
    now=1000.0,
    layers=2,
    experts=4,
    holders=ExpertHolders(
        holders=bytes([0, 0, 0, 0, 1, 2, 3, 2]),
        holder_bytes=1,
        expert_bytes=[1 << 20, 2 << 20],
        placed_at=900.0,
        moved=[MovedExperts(at=990.0, experts=[1, 5])],
    ),
    recent=choices("B", 1, 1, 1, 1, 0, 3, 1, 0),
    lately=choices("H", 9, 9, 9, 9, 0, 600, 200, 0),
    ever=choices("d", 9, 9, 9, 9, 0, 2.0**30, 2.0**30, 0),
)


def test_experts_of_a_layer_are_listed_the_most_chosen_first_on_a_narrow_terminal() -> None:
    lines = shown(describe_experts(MAP, NODES, 1, None), width=80).splitlines()
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    assert "experts of layer 1, 2.00 MiB each, the most chosen first" in lines[0]
    assert rows == [
        ["1", "1", "3", "3", "600", "1,073,741,824", "3.00 x"],
        ["2", "0, 1", "0, 3", "1", "200", "1,073,741,824", "1.00 x"],
        ["0", "0", "0", "0", "0", "0", "0.00 x"],
        ["3", "1", "3", "0", "0", "0", "0.00 x"],
    ]


def test_one_expert_is_told_in_two_lines() -> None:
    assert shown(describe_experts(MAP, NODES, 1, 1), width=200).splitlines() == [
        "Expert 1 of layer 1: worker 1; NUMA node 3; there for 10.0 s; 2.00 MiB",
        "chosen: 3 in 10 s, 600 in 5 min, 1,073,741,824 ever; of its fair share in 5 min: 3.00 x",
    ]


def test_rows_of_every_expert_lie_on_all_workers() -> None:
    told = shown(describe_experts(MAP, NODES, 0, 2), width=200)
    assert "Expert 2 of layer 0: worker 0, 1 (rows on each); NUMA node 0, 3; there for 0:01:40; 1.00 MiB\n" in told


@pytest.mark.parametrize(
    ("layer", "expert", "message"),
    [
        (2, None, "--layer is 2; the model has layers 0 to 1"),
        (-1, None, "--layer is -1; the model has layers 0 to 1"),
        (0, 4, "--expert is 4; a layer has experts 0 to 3"),
    ],
)
def test_what_is_not_there_is_said(layer: int, expert: int | None, message: str) -> None:
    with pytest.raises(SetupError, match=message):
        describe_experts(MAP, NODES, layer, expert)


def test_a_dense_model_has_none() -> None:
    with pytest.raises(SetupError, match="the model is dense: it has no experts"):
        describe_experts(WatchPlacementResponse(layers=2, experts=1), NODES, 0, None)


def test_experts_of_several_hosts_live_on_the_workers_that_run_their_layer() -> None:
    there = [WorkerPlacement(worker=worker, numa_node=3, host="10.0.0.2", first_layer=1) for worker in (8, 9)]
    placement = GetPlacementResponse(workers=[*NODES.workers, *there])
    told = WatchPlacementResponse()
    told.CopyFrom(MAP)
    told.holders.holders = struct.pack("<8H", 0, 0, 0, 0, 256, 512, 768, 0)
    told.holders.holder_bytes = 2
    assert "worker 0, 1 (rows on each); NUMA node 0, 3;" in shown(describe_experts(told, placement, 0, 2), width=200)
    for expert, workers in enumerate(("8", "9", "8, 9", "8, 9 (rows on each)")):
        seen = shown(describe_experts(told, placement, 1, expert), width=200)
        assert f"worker {workers}; NUMA node 3 of 10.0.0.2;" in seen
