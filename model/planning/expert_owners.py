"""Which workers hold which experts of a layer, if they hold whole experts instead of rows of every expert."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import accumulate, pairwise


@dataclass(frozen=True, slots=True)
class ExpertOwners:
    """Who holds the experts of one layer."""

    workers: tuple[tuple[int, ...], ...]  # [E] the workers that hold each expert, ascending; several hold replicas

    def held_by(self, worker: int) -> tuple[int, ...]:
        """The experts that a worker holds, ascending."""
        return tuple(expert for expert, holders in enumerate(self.workers) if worker in holders)

    @property
    def replicas(self) -> int:
        """How many experts are held beyond one of each."""
        return sum(len(holders) - 1 for holders in self.workers)

    @property
    def masks(self) -> tuple[int, ...]:
        """[E] the workers that hold each expert, as a bit each."""
        return tuple(sum(1 << worker for worker in holders) for holders in self.workers)


def share_experts(
    loads: Sequence[float], workers: int, replicas: int = 0, shares: Sequence[float] | None = None
) -> ExpertOwners:
    """Share whole experts out so that workers hold, and are on average loaded with, equally much, or their shares.

    The experts, heaviest first, go to the least loaded worker that has room. Then, one by one, the expert with the
    largest load per holder gets one more holder. If all loads are equal, each worker gets a run of experts.

    Args:
        loads: [E] how often each expert is active, in any unit.
        workers: how many workers share them.
        replicas: how many experts are held once more; at most all experts by all other workers.
        shares: [workers] how much each is to hold and compute, in any unit; None: all equally much.
    """
    experts = len(loads)
    if shares is not None:
        holders = _by_shares(loads, shares)
    elif len(set(loads)) <= 1:
        holders = [{expert * workers // experts} for expert in range(experts)]
    else:
        holders = _heaviest_first(loads, workers)
    _add_replicas(loads, holders, workers, min(replicas, experts * (workers - 1)))
    return ExpertOwners(tuple(tuple(sorted(some)) for some in holders))


def carried_loads(loads: Sequence[float], holders: Iterable[Collection[int]], workers: int) -> list[float]:
    """[workers] the load that each carries on average, if the holders of one expert take turns."""
    carried = [0.0] * workers
    for load, some in zip(loads, holders, strict=True):
        for worker in some:
            carried[worker] += load / len(some)
    return carried


def _heaviest_first(loads: Sequence[float], workers: int) -> list[set[int]]:
    experts = len(loads)
    holders: list[set[int]] = [set() for _ in range(experts)]
    counts, carried = [0] * workers, [0.0] * workers
    most, may_be_full = -(-experts // workers), experts % workers or workers  # so many workers may hold the most
    for expert in sorted(range(experts), key=lambda expert: (-loads[expert], expert)):
        limit = most if may_be_full else most - 1
        chosen = min((carried[worker], worker) for worker in range(workers) if counts[worker] < limit)[1]
        holders[expert].add(chosen)
        counts[chosen] += 1
        may_be_full -= counts[chosen] == most
        carried[chosen] += loads[expert]
    return holders


def _by_shares(loads: Sequence[float], shares: Sequence[float]) -> list[set[int]]:
    """As many experts for each worker as its share is of all; the heaviest where they take least of it."""
    experts, whole = len(loads), sum(shares)
    ends = [round(experts * carried / whole) for carried in accumulate(shares, initial=0.0)]
    room = [stop - start for start, stop in pairwise([*ends[:-1], experts])]
    if len(set(loads)) <= 1:
        return [{worker} for worker, size in enumerate(room) for _ in range(size)]
    holders: list[set[int]] = [set() for _ in range(experts)]
    carried = [0.0] * len(shares)
    for expert in sorted(range(experts), key=lambda expert: (-loads[expert], expert)):
        free = [worker for worker, size in enumerate(room) if size]
        chosen = min(free, key=lambda worker: ((carried[worker] + loads[expert]) / shares[worker], worker))
        holders[expert].add(chosen)
        carried[chosen] += loads[expert]
        room[chosen] -= 1
    return holders


def _add_replicas(loads: Sequence[float], holders: list[set[int]], workers: int, replicas: int) -> None:
    """Give holders to the experts that need them most; a worker carries its part of what an expert's holders share."""
    room = [-(-replicas // workers)] * workers
    carried = carried_loads(loads, holders, workers)
    waiting = [(-load / len(some), expert) for expert, (load, some) in enumerate(zip(loads, holders, strict=True))]
    heapify(waiting)
    while replicas and waiting:
        _, expert = heappop(waiting)
        some, load = holders[expert], loads[expert]
        free = [worker for worker in range(workers) if room[worker] and worker not in some]
        if not free:  # nor will it ever be: rooms only fill
            continue
        chosen = min(free, key=lambda worker: (carried[worker], worker))
        for worker in some:
            carried[worker] -= load / len(some) - load / (len(some) + 1)
        some.add(chosen)
        carried[chosen] += load / len(some)
        room[chosen] -= 1
        replicas -= 1
        heappush(waiting, (-load / len(some), expert))
