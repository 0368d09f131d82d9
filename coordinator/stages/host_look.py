"""What a host tells of itself at one moment, and how that is seen in the whole."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from numoe.coordinator.machine.machine_look import MachineFacts
from numoe.coordinator.workers.group import HostGroup
from numoe.coordinator.workers.placement import Placement, WorkerPlacement
from numoe.model.planning.expert_owners import ExpertOwners
from numoe.model.planning.plan import Range
from numoe.protos.errors import Unavailable


@dataclass(frozen=True, slots=True)
class HostLook:
    """One look; workers and layers are numbered from 0 there."""

    at_ns: int  # time.monotonic_ns() of that host
    placement: Placement
    counters: tuple[np.void, ...]  # of each worker; none while there are no workers
    hits: NDArray[np.int64] | None  # [L, E] since the workers started; None: there are none
    counts: NDArray[np.int64]  # [L, E] of all workers that there were, those of now as of a second ago

    def heard(self, now_ns: int) -> HostLook:
        """By the clock of who was told it now: signs of life are as long ago here as they were there."""
        counted = tuple(one.copy() for one in self.counters)
        for one in counted:
            if one["seen_ns"]:
                one["seen_ns"] += now_ns - self.at_ns
        return replace(self, at_ns=now_ns, counters=counted)


def look_at(group: HostGroup) -> HostLook:
    """The workers of this host now."""
    try:
        hits = group.expert_hits()
    except Unavailable:
        hits = None
    return HostLook(time.monotonic_ns(), group.placement(), tuple(group.counters()), hits, group.expert_counts())


@dataclass(frozen=True, slots=True)
class HostPart:
    """What one host has, as all others see it: its workers are counted on from those of the hosts before."""

    first_layer: int
    placement: Placement

    @property
    def workers(self) -> int:
        return len(self.placement.workers)

    def worker(self, worker: WorkerPlacement, host: str, before: int) -> WorkerPlacement:
        """One of its workers, after so many `before`."""
        shard = replace(worker.shard, worker=worker.shard.worker + before)
        layers = Range(self.first_layer, self.first_layer + len(self.placement.experts))
        return replace(worker, host=host, shard=shard, layers=layers)

    def silent(self) -> HostPart:
        """As it is shown of a host that says nothing any more."""
        workers = tuple(replace(one, state="stuck") if one.state == "ready" else one for one in self.placement.workers)
        return replace(self, placement=replace(self.placement, workers=workers))


def join_parts(parts: Sequence[HostPart], names: Sequence[str]) -> Placement:
    """Where all hosts' workers and experts are; `names`: of the hosts."""
    workers: list[WorkerPlacement] = []
    experts: list[ExpertOwners | None] = []
    for host, part in zip(names, parts, strict=True):
        before = len(workers)
        workers += [part.worker(worker, host, before) for worker in part.placement.workers]
        experts += [_shifted(owners, before) for owners in part.placement.experts]
    splits, ready = {part.placement.split for part in parts}, [part.placement.ready_at for part in parts]
    since = None if None in ready else max(at for at in ready if at is not None)
    return Placement(splits.pop() if len(splits) == 1 else "mixed", tuple(workers), tuple(experts), since)


def _shifted(owners: ExpertOwners | None, first: int) -> ExpertOwners | None:
    if owners is None:
        return None
    return ExpertOwners(tuple(tuple(worker + first for worker in holders) for holders in owners.workers))


def machine_of(facts: MachineFacts, address: str, first: int) -> MachineFacts:
    """That of the host of this address, by the numbers of workers that are counted on from `first`."""
    threads = {worker + first: found for worker, found in facts.threads.items()}
    return replace(facts, host=replace(facts.host, address=address), threads=threads)
