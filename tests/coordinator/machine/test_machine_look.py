"""The rooms of a machine and what their memory is used for, the threads of workers, and the doctor's findings."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from numoe.coordinator.machine.machine_look import FINDINGS_SECONDS, MachineLook, Threads
from numoe.coordinator.settings import WorkerSettings
from numoe.coordinator.workers.placement import WorkerPlacement
from tests.coordinator.api.grpc.grpc_serving import LOCALITY
from tests.coordinator.workers.holders import SHARDS

GIB = 1 << 30
TOLD = WorkerSettings(bandwidth=(105.0, 90.0))


def test_memory_of_every_node_is_told_by_its_use(recorded_machines: Path) -> None:
    held = replace(LOCALITY, layers=({0: 3 << 20}, {1: 5 << 20}), vocabulary={}, kv={1: 1 << 20}, arena={0: 4096})
    worker = WorkerPlacement(SHARDS[0], "ready", locality=held)
    facts = MachineLook(TOLD, recorded_machines / "two-sockets").look([worker])
    first, second = facts.host.nodes
    assert (first.node, first.package, second.node, second.package) == (0, 0, 1, 1)
    assert (first.weight_bytes, first.kv_bytes, first.arena_bytes) == (3 << 20, 0, 4096)
    assert (second.weight_bytes, second.kv_bytes, second.arena_bytes) == (5 << 20, 1 << 20, 0)
    for node in facts.host.nodes:
        uses = (node.free_bytes, node.page_cache_bytes, node.weight_bytes, node.kv_bytes, node.arena_bytes)
        assert sum(uses) + node.other_bytes == node.total_bytes > 0
    assert (facts.peak(0), facts.peak(1), facts.peak(7)) == (105e9, 90e9, 0.0)
    assert facts.host.peak_source == "as told"


def test_where_the_kernel_does_not_tell_memory_is_where_it_was_planned(recorded_machines: Path) -> None:
    worker = WorkerPlacement(
        SHARDS[0], "ready", weight_bytes=700, kv_bytes=50, locality=replace(LOCALITY, verified=False)
    )
    facts = MachineLook(TOLD, recorded_machines / "two-sockets").look([worker])
    assert (facts.host.nodes[0].weight_bytes, facts.host.nodes[0].kv_bytes) == (700, 50)


def test_threads_that_may_run_elsewhere_are_counted() -> None:
    inside = replace(SHARDS[0], cpus=tuple(os.sched_getaffinity(0)))
    outside = replace(SHARDS[1], cpus=(4095,))
    workers = [WorkerPlacement(shard, "ready", pid=os.getpid()) for shard in (inside, outside)]
    look = MachineLook(WorkerSettings())
    threads = look.look(workers).threads
    assert threads[0].off == 0 < threads[0].all
    assert threads[1] == Threads(threads[1].all, threads[1].all)
    gone = [replace(worker, pid=pid) for worker, pid in zip(workers, (None, 2**22 + 1), strict=True)]
    assert look.look(gone).threads == {}


def test_findings_are_looked_for_once_a_minute(recorded_machines: Path) -> None:
    now = 0.0
    look = MachineLook(TOLD, recorded_machines / "two-sockets", clock=lambda: now)
    first = look.look([]).findings
    assert {finding.subject for finding in first} > {"huge pages", "swap"}
    now = FINDINGS_SECONDS - 1
    assert look.look([]).findings is first
    now = FINDINGS_SECONDS
    again = look.look([]).findings
    assert again == first
    assert again is not first
