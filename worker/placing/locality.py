"""Finds out whether memory and threads are where a worker's assignment puts them, moves what is not, or refuses.

Guarantees: a worker whose locality is verified has every written byte of its weights, its KV cache and its part of the
arena on its node, and every thread of its process within its CPUs, as the kernel told after they were loaded. Of one on
several nodes in turn, no node has less than LEAST_PART of its part.
Not guaranteed: that they stay. A process that is bound keeps them, unless somebody with the right to do so moves them.
Nor is anything of a worker that is not bound, which was started so to see what binding is worth; where its pages lie is
told all the same.
Experts that come later are counted by locality_now.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from numoe.model.machine.id_lists import format_id_list
from numoe.model.machine.memory_policy import MemoryPolicy, current_policy
from numoe.model.machine.threads import thread_cpus
from numoe.model.planning.plan import Shard
from numoe.protos.errors import SetupError
from numoe.protos.locality import CPUS, INTERLEAVED, MEMORY, NONE, Locality, NodeBytes, total
from numoe.protos.mapping import HUGE_PAGE
from numoe.worker.placing.pages import REFUSED, MemoryRange, count_bytes, move_to

SETTING = "--allow-remote-memory"
LEAST_PART = 0.9  # of what a node is to have of pages that lie on several in turn
COUNTED_PAGES = 64  # huge pages of each node: of fewer, which lie on one whole, a few decide


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
    binding, own = _binding(shard), set(shard.allowed_cpus)
    masks = thread_cpus()
    threads, inside = len(masks), sum(cpus <= own for cpus in masks)
    count = len(set(shard.cpus))  # of threads that look at pages: none of the shard's computes meanwhile

    def bytes_of(*ranges: MemoryRange) -> NodeBytes:
        return count_bytes(ranges, count, reading=binding in (NONE, CPUS))

    try:
        found = Locality(
            binding=binding,
            verified=True,
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
    elsewhere = _elsewhere(found, shard)
    if elsewhere and found.binding != NONE and shard.spread is None:
        move_to(list(memory.ranges()), shard.node, len(set(shard.cpus)))
        found = look(memory, shard)
        found = replace(found, moved_bytes=elsewhere - _elsewhere(found, shard))
    if found.problem and not allow_remote:
        raise SetupError(
            f"worker {shard.worker}: {found.problem}; expected all on node {format_id_list(shard.memory_nodes)} and "
            f"CPUs {format_id_list(shard.allowed_cpus)}: free memory there, use other nodes (--nodes), or start with "
            f"{SETTING}"
        )
    return found


def _binding(shard: Shard) -> str:
    """What binding.py has reached, less the CPUs where threads are not to be pinned."""
    told = os.environ.get("NUMOE_BINDING", NONE)
    return told if shard.pinned else told.removeprefix(CPUS).removeprefix("+") or NONE


def _elsewhere(found: Locality, shard: Shard) -> int:
    """Bytes on other nodes."""
    parts = total((found.weights, found.kv, found.arena))
    return sum(count for where, count in parts.items() if where not in shard.memory_nodes)


def problem_of(found: Locality, shard: Shard) -> str:
    """Say for people what is not as ordered; empty if everything is, or if the process was not to be bound."""
    if _unbound(found, shard):
        return ""
    parts = {"weights": found.weights, "KV cache": found.kv, "its part of the arena": found.arena}
    remote = [
        f"{sum(part.values()):,} bytes of {name} ({_nodes(part)})"
        for name, part in parts.items()
        if set(part) - set(shard.memory_nodes)
    ]
    problems = [f"found {' and '.join(remote)}"] if remote else []
    if found.threads_inside < found.threads:
        problems.append(f"{found.threads - found.threads_inside} of {found.threads} threads may run on other CPUs")
    problems += _policy_problems(found, shard)
    return "; ".join(problems)


def _unbound(found: Locality, shard: Shard) -> bool:
    """Whether nothing was promised: the process is bound to nothing, and was not to be, or was not started to serve."""
    return found.binding == NONE and (shard.spread is None or shard.spread.memory == "any")


def _policy_problems(found: Locality, shard: Shard) -> Iterator[str]:
    """What is not as ordered of the policy by which pages find their nodes."""
    spread, words = shard.spread, found.binding.split("+")
    if MEMORY in words:
        policy = current_policy()
        if policy is not None and policy != MemoryPolicy("bind", shard.memory_nodes):
            yield f"its memory is bound to node {', '.join(map(str, policy.nodes))}"
    elif spread is not None and spread.memory == "bind":
        yield "the kernel refuses to bind its memory (numoe doctor says why)"
    elif spread is not None and spread.memory == "interleave":
        if INTERLEAVED not in words:
            yield "the kernel refuses to put its pages on several nodes in turn (numoe doctor says why)"
        held = total((found.weights, found.kv))
        fair = sum(held.values()) / len(spread.nodes)
        if fair >= COUNTED_PAGES * HUGE_PAGE and min(held.get(node, 0) for node in spread.nodes) < LEAST_PART * fair:
            yield f"found its pages unevenly spread ({_nodes(held)})"


def _nodes(part: NodeBytes) -> str:
    return ", ".join(f"{count:,} on node {node}" for node, count in part.items())
