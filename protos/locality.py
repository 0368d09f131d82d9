"""Where the kernel says that a worker's memory and threads are; workers report it to the coordinator after loading."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

PAGE = 4096  # bytes of a page of memory
VERIFIED = ", verified"
NONE, CPUS, MEMORY, INTERLEAVED = "none", "cpus", "memory", "interleaved"  # what a binding is made of, joined by +
CPUS_AND_MEMORY = f"{CPUS}+{MEMORY}"
ANY_MEMORY = "any"  # where a worker is told which nodes: no policy
NodeBytes = Mapping[int, int]  # bytes by NUMA node; pages that nobody has touched yet are on none


@dataclass(frozen=True, slots=True)
class Locality:
    """The report of one worker.

    Without `verified` the kernel refused to tell where pages are, and all byte counts are empty.
    """

    binding: (
        str  # "cpus+memory", "cpus+interleaved", "cpus", .. or "none": what the worker was bound to when it started
    )
    verified: bool  # every page and thread was looked at
    layers: tuple[NodeBytes, ...]  # [L] weights of each layer
    vocabulary: NodeBytes  # weights that belong to no layer: embedding and output rows
    kv: NodeBytes
    arena: NodeBytes  # its part of the arena
    moved_bytes: int  # lay on another node and were moved, while loading or when an expert came
    threads: int  # of the process
    threads_inside: int  # those that may run on the ordered CPUs only
    problem: str = ""  # what is elsewhere all the same, and was allowed to be

    @property
    def level(self) -> str:
        """How sure the placement is, in words for people: "cpus+memory, verified" at best."""
        sure = self.verified and not self.problem and self.binding != NONE
        return self.binding + (VERIFIED if sure else "")

    @property
    def weights(self) -> NodeBytes:
        """Bytes of all weights, those of layers and those of the vocabulary."""
        return total((*self.layers, self.vocabulary))


def total(parts: tuple[NodeBytes, ...]) -> NodeBytes:
    """The bytes of all parts together, by node."""
    summed: dict[int, int] = {}
    for part in parts:
        for node, count in part.items():
            summed[node] = summed.get(node, 0) + count
    return dict(sorted(summed.items()))
