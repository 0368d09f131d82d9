"""Finds out whether memory and threads are where a worker's assignment puts them, moves what is not, or refuses.

Guarantees: a worker whose locality is verified has every written byte of its weights, its KV cache and its part of the
arena on its node, and every thread of its process within its CPUs, as the kernel told after they were loaded.
Not guaranteed: that they stay. A process that is bound keeps them, unless somebody with the right to do so moves them.
Experts that come later are counted by locality_now.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from numoe.model.machine.id_lists import format_id_list
from numoe.model.machine.memory_policy import bound_nodes
from numoe.model.machine.threads import thread_cpus
from numoe.model.planning.plan import Shard
from numoe.protos.errors import SetupError
from numoe.protos.locality import Locality, NodeBytes, total
from numoe.worker.placing.pages import REFUSED, MemoryRange, count_bytes, move_to

NONE, CPUS, CPUS_AND_MEMORY = "none", "cpus", "cpus+memory"  # see binding.py
SETTING = "--allow-remote-memory"


@dataclass(frozen=True, slots=True)
class ShardMemory:
    """What must be on the shard's node."""

    layers: Sequence[Sequence[MemoryRange]]  # [L] weights
    vocabulary: Sequence[MemoryRange]
    kv: MemoryRange
    arena: MemoryRange  # this worker's part

    def ranges(self) -> Iterator[MemoryRange]:
        """All of it, range by range."""
        for layer in self.layers:
            yield from layer
        yield from (*self.vocabulary, self.kv, self.arena)


def look(memory: ShardMemory, shard: Shard) -> Locality:
    """Find out where everything is now, and change nothing."""
    binding, own = os.environ.get("NUMOE_BINDING", NONE), set(shard.cpus)
    masks = thread_cpus()
    threads, inside = len(masks), sum(cpus <= own for cpus in masks)
    count = len(own)  # of threads that look at pages: none of the shard's computes meanwhile

    def bytes_of(*ranges: MemoryRange) -> NodeBytes:
        return count_bytes(ranges, count)

    try:
        found = Locality(
            binding=binding,
            verified=binding != NONE,
            layers=tuple(bytes_of(*layer) for layer in memory.layers),
            vocabulary=bytes_of(*memory.vocabulary),
            kv=bytes_of(memory.kv),
            arena=bytes_of(memory.arena),
            moved_bytes=0,
            threads=threads,
            threads_inside=inside,
        )
    except OSError as error:
        if error.errno not in REFUSED:
            raise
        found = Locality(binding, False, tuple({} for _ in memory.layers), {}, {}, {}, 0, threads, inside)
    return replace(found, problem=problem_of(found, shard))


def settle(memory: ShardMemory, shard: Shard, allow_remote: bool) -> Locality:
    """Move what is elsewhere, and tell where everything is then; a process that is not bound is left as it is.

    Raises:
        SetupError: not all could be moved, or the process is not bound as ordered, unless `allow_remote`.
    """
    found = look(memory, shard)
    elsewhere = _elsewhere(found, shard.node)
    if elsewhere and found.binding != NONE:
        move_to(list(memory.ranges()), shard.node, len(set(shard.cpus)))
        found = look(memory, shard)
        found = replace(found, moved_bytes=elsewhere - _elsewhere(found, shard.node))
    if found.problem and not allow_remote:
        raise SetupError(
            f"worker {shard.worker}: {found.problem}; expected all on node {shard.node} and CPUs "
            f"{format_id_list(set(shard.cpus))}: free memory there, use other nodes (--nodes), or start with {SETTING}"
        )
    return found


def _elsewhere(found: Locality, node: int) -> int:
    """Bytes on other nodes."""
    parts = total((found.weights, found.kv, found.arena))
    return sum(count for where, count in parts.items() if where != node)


def problem_of(found: Locality, shard: Shard) -> str:
    """Say for people what is not as ordered; empty if everything is, or if the process is not bound."""
    if found.binding == NONE:
        return ""
    parts = {"weights": found.weights, "KV cache": found.kv, "its part of the arena": found.arena}
    remote = [
        f"{sum(part.values()):,} bytes of {name} ({_nodes(part)})"
        for name, part in parts.items()
        if set(part) - {shard.node}
    ]
    problems = [f"found {' and '.join(remote)}"] if remote else []
    if found.threads_inside < found.threads:
        problems.append(f"{found.threads - found.threads_inside} of {found.threads} threads may run on other CPUs")
    nodes = bound_nodes() if found.binding == CPUS_AND_MEMORY else None
    if nodes is not None and nodes != {shard.node}:
        problems.append(f"its memory is bound to node {', '.join(map(str, sorted(nodes)))}")
    return "; ".join(problems)


def _nodes(part: NodeBytes) -> str:
    return ", ".join(f"{count:,} on node {node}" for node, count in part.items())
