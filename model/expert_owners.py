"""Which workers hold which experts of a layer, where workers hold whole experts rather than rows of every one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ExpertOwners:
    """The experts of one layer and who holds them."""

    workers: tuple[tuple[int, ...], ...]  # [E] the workers that hold each expert, ascending; several hold replicas

    def held_by(self, worker: int) -> tuple[int, ...]:
        """The experts that a worker holds, ascending."""
        return tuple(expert for expert, holders in enumerate(self.workers) if worker in holders)

    @property
    def replicas(self) -> int:
        """Experts held beyond one of each."""
        return sum(len(holders) - 1 for holders in self.workers)

    @property
    def masks(self) -> tuple[int, ...]:
        """[E] a bit per worker that holds the expert."""
        return tuple(sum(1 << worker for worker in holders) for holders in self.workers)


def share_experts(loads: Sequence[float], workers: int, replicas: int = 0) -> ExpertOwners:
    """Share whole experts out so that workers hold equally many and are, on average, equally loaded.

    Heaviest first, each expert goes to the least loaded worker that has room; then, one by one, the expert with the
    largest load per holder gets one more holder. Experts of equal loads are shared out in runs.

    Args:
        loads: [E] how often each expert is active, in any unit.
        workers: how many share them.
        replicas: experts to be held once more; what exceeds one replica per expert and other worker is left out.
    """
    experts = len(loads)
    if len(set(loads)) <= 1:
        holders = [{expert * workers // experts} for expert in range(experts)]
    else:
        holders = _heaviest_first(loads, workers)
    room = [-(-replicas // workers)] * workers
    for _ in range(min(replicas, experts * (workers - 1))):
        carried = _carried(loads, holders, workers)
        for expert in sorted(range(experts), key=lambda expert: (-loads[expert] / len(holders[expert]), expert)):
            free = [worker for worker in range(workers) if room[worker] > 0 and worker not in holders[expert]]
            if free:
                chosen = min(free, key=lambda worker: (carried[worker], worker))
                holders[expert].add(chosen)
                room[chosen] -= 1
                break
    return ExpertOwners(tuple(tuple(sorted(some)) for some in holders))


def _heaviest_first(loads: Sequence[float], workers: int) -> list[set[int]]:
    experts = len(loads)
    holders: list[set[int]] = [set() for _ in range(experts)]
    counts, carried = [0] * workers, [0.0] * workers
    most, full = -(-experts // workers), experts % workers or workers  # so many workers may hold the most
    for expert in sorted(range(experts), key=lambda expert: (-loads[expert], expert)):
        limit = [most if count == most or counts.count(most) < full else most - 1 for count in counts]
        free = [worker for worker in range(workers) if counts[worker] < limit[worker]]
        chosen = min(free, key=lambda worker: (carried[worker], worker))
        holders[expert].add(chosen)
        counts[chosen] += 1
        carried[chosen] += loads[expert]
    return holders


def _carried(loads: Sequence[float], holders: Sequence[set[int]], workers: int) -> list[float]:
    """What each worker computes on average, if holders of one expert take turns."""
    carried = [0.0] * workers
    for load, some in zip(loads, holders, strict=True):
        for worker in some:
            carried[worker] += load / len(some)
    return carried
