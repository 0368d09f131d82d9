"""How long cores take to pass a cache line on, and threads to wait for each other: what to measure, and what was found.

apart    cache      both cores share the last-level cache
         package    they are of one socket
         machine    of two
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

from numoe.model.machine.topology import Topology

Apart = Literal["cache", "package", "machine"]
APARTS: tuple[Apart, ...] = ("cache", "package", "machine")
PAIRS = 4  # of cores that are tried of each kind


@dataclass(frozen=True, slots=True)
class TeamWait:
    """What threads on so many cores of one node took, in seconds."""

    threads: int
    barrier: float  # until all know that all have come
    claims: float  # longer, where they share out 4 pieces of work each that take no time


@dataclass(frozen=True, slots=True)
class Waits:
    """What was measured."""

    passes: Mapping[Apart, float]  # seconds, one way; those that the machine has
    teams: tuple[TeamWait, ...]  # from few threads to many

    def lines(self) -> list[str]:
        """As the file of measurements has them, in TOML."""
        found = []
        for apart, seconds in self.passes.items():
            found += ["", "[[pass]]", f'apart = "{apart}"', f"seconds = {seconds:.3e}"]
        for team in self.teams:
            found += ["", "[[wait]]", f"threads = {team.threads}"]
            found += [f"barrier = {team.barrier:.3e}", f"claims = {team.claims:.3e}"]
        return found


def waits_in(document: Mapping[str, Any]) -> Waits | None:
    """Those of a file of measurements; None if it has none. Raises KeyError, TypeError or ValueError if damaged."""
    passes = {one["apart"]: float(one["seconds"]) for one in document.get("pass", [])}
    teams = [
        TeamWait(int(one["threads"]), float(one["barrier"]), float(one["claims"])) for one in document.get("wait", [])
    ]
    if not set(passes) <= set(APARTS):
        raise ValueError(f"found {sorted(passes)}, expected {APARTS}")
    return Waits(passes, tuple(teams)) if teams else None


def pairs_to_try(topology: Topology) -> list[tuple[Apart, int, int]]:
    """Some pairs of CPUs of different cores, of each kind that there is."""
    packages = {core[0]: node.package for node in topology.nodes for core in node.cores}
    last = max((cache.level for cache in topology.caches), default=0)
    shared = {cpu: number for number, cache in enumerate(topology.caches) if cache.level == last for cpu in cache.cpus}
    found: dict[Apart, list[tuple[Apart, int, int]]] = {apart: [] for apart in APARTS}
    for one, other in combinations(packages, 2):
        apart: Apart = "package" if packages[one] == packages[other] else "machine"
        if one in shared and shared[one] == shared.get(other):
            apart = "cache"
        found[apart].append((apart, one, other))
    return [pairs[len(pairs) * part // PAIRS] for pairs in found.values() if pairs for part in range(PAIRS)]


def teams_to_try(topology: Topology) -> list[list[int]]:
    """The CPUs of teams of 2, 4, 8 .. threads on cores of the largest node, at last of all of them."""
    cores = max(([core[0] for core in node.cores] for node in topology.nodes), key=len, default=[])
    sizes = {len(cores), *(1 << power for power in range(1, len(cores).bit_length()))}
    return [cores[:size] for size in sorted(sizes) if 2 <= size <= len(cores)]
