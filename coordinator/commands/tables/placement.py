"""What `numoe placement` shows: a line per worker, and its layers' memory by NUMA node, equal layers together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from numoe.coordinator.commands.tables.figures import human_bytes, human_count, ruled_table
from numoe.model.machine.id_lists import format_id_list
from numoe.protos.foreign_text import harmless
from numoe.v1.placement_pb2 import GetPlacementResponse, Locality, MemoryOnNodes, WorkerPlacement, WorkerState


def describe_placement(placement: GetPlacementResponse) -> RenderableType:
    """Tabulate each worker's place, binding and memory, then which layers have how much of it on which node."""
    workers = placement.workers
    problems = [
        Text(f"Worker {worker.worker}: {harmless(worker.locality.problem)}.")
        for worker in workers
        if worker.locality.problem
    ]
    hosts = len({worker.host for worker in workers})
    on = f" on {human_count(hosts, 'host')}" if hosts > 1 else ""
    return Group(
        Text(f"{placement.split} split over {human_count(len(workers), 'worker')}{on}"),
        _worker_table(workers),
        _memory_table(workers),
        *problems,
    )


def _worker_table(workers: Sequence[WorkerPlacement]) -> RenderableType:
    several = any(worker.host for worker in workers)
    hosts = ["host"] if several else []
    shown = ruled_table("workers", "worker", *hosts, "pid", "node", "CPUs", "state", "binding", "threads bound")
    for worker in workers:
        found = worker.locality
        shown.add_row(
            str(worker.worker),
            *([harmless(worker.host) or "this"] if several else []),
            str(worker.pid) if worker.HasField("pid") else "-",
            str(worker.numa_node) if worker.HasField("numa_node") else "-",
            format_id_list(worker.cpus),
            WorkerState.Name(worker.state).removeprefix("WORKER_STATE_").lower(),
            harmless(found.binding) or "-",
            _bound_threads(found) if found.threads else "-",
        )
    return shown


def _bound_threads(found: Locality) -> str:
    """How many are kept on the worker's CPUs: none where the binding leaves them to the kernel."""
    return f"{found.threads_inside if found.binding.startswith('cpus') else 0} of {found.threads}"


def _memory_table(workers: Sequence[WorkerPlacement]) -> RenderableType:
    shown = ruled_table("memory, as the kernel tells", "worker", "what", "where")
    for worker in workers:
        for what, where in _memory_of(worker):
            shown.add_row(str(worker.worker), what, where)
    return shown


def _memory_of(worker: WorkerPlacement) -> Iterator[tuple[str, str]]:
    """Everything that is known of a worker's memory; a size without a node where the kernel does not tell."""
    found, known = worker.locality, bool(worker.locality.kv.nodes)
    if worker.HasField("weight_bytes"):
        weights = _total([*found.layers, found.vocabulary])
        yield "all weights", _by_node(weights) if known else human_bytes(worker.weight_bytes)
    alike: dict[str, list[int]] = {}
    for layer, part in enumerate(found.layers if known else (), worker.first_layer):
        alike.setdefault(_by_node(_total([part])), []).append(layer)
    for where, layers in alike.items():
        yield f"{'layer' if len(layers) == 1 else 'each of layers'} {format_id_list(layers)}", where
    for held in worker.experts:
        yield f"experts in layers {format_id_list(held.layers)}", format_id_list(held.experts) or "none"
    if known:
        yield "vocabulary", _by_node(_total([found.vocabulary]))
    if worker.HasField("kv_bytes"):
        yield "KV cache", _by_node(_total([found.kv])) if known else human_bytes(worker.kv_bytes)
    if known:
        yield "arena", _by_node(_total([found.arena]))


def _total(parts: Sequence[MemoryOnNodes]) -> Counter[int]:
    """Bytes by node."""
    total: Counter[int] = Counter()
    for part in parts:
        total.update({at.numa_node: at.bytes for at in part.nodes})
    return total


def _by_node(counted: Counter[int]) -> str:
    return ", ".join(f"node {node}: {human_bytes(count)}" for node, count in sorted(counted.items())) or "-"
