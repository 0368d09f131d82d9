"""Decides which experts should change workers, by who holds them, how often each is active, and how much room there is.

A step waits in every layer for the worker with the most active experts, so what counts is the load of the most loaded
worker of each layer. Exchanges come first, as they need no memory in the end; moves and replicas use spare room.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from numoe.model.planning.expert_owners import ExpertOwners, carried_loads
from numoe.model.planning.plan import PANEL_ROWS, Shard
from numoe.protos.errors import PlanError

LEAST_GAIN = 0.02  # of a layer's load per worker: less is noise in the counts, and not worth copying for


@dataclass(frozen=True, slots=True)
class ExpertMove:
    """One expert of one layer that goes from one worker to another."""

    layer: int
    expert: int
    source: int
    target: int | None  # None: nobody comes to hold it, `source` only lets go of its replica
    keep: bool = False  # the source keeps the expert, and the target gets a replica

    def possible(self, owners: ExpertOwners) -> bool:
        """Whether this move can be made and leaves the expert with a holder, if a layer's experts are held so."""
        holders = owners.workers[self.expert]
        here = self.source in holders
        return here and (len(holders) > 1 if self.target is None else self.target not in holders)

    def applied(self, owners: ExpertOwners) -> ExpertOwners:
        """Who holds the layer's experts after this move."""
        holders = set(owners.workers[self.expert])
        if self.target is not None:
            holders.add(self.target)
        if not self.keep:
            holders.discard(self.source)
        workers = list(owners.workers)
        workers[self.expert] = tuple(sorted(holders))
        return ExpertOwners(tuple(workers))


def balance(
    experts: Sequence[ExpertOwners | None],  # [L]
    loads: Sequence[Sequence[float]],  # [L, E] how often each was active
    expert_bytes: Sequence[int],  # [L] of one expert in a worker's memory
    room: Sequence[int],  # [workers] bytes that each may take in addition
    shares: Sequence[float] = (),  # [workers] of the load that each is to carry, in any unit; none: equal ones
) -> list[ExpertMove]:
    """Moves that load the workers more evenly in every layer, or nearer to their shares, in the order to make them."""
    shares = shares or [1.0] * len(room)
    left, moves = list(room), []
    for layer, owners in enumerate(experts):
        if owners is None or not sum(loads[layer]):
            continue
        while True:
            some = _best_moves(layer, owners, loads[layer], expert_bytes[layer], left, shares)
            if not some:
                break
            for move in some:
                owners = move.applied(owners)
                _account(move, expert_bytes[layer], left)
            moves += some
    return moves


def shares_of(shards: Sequence[Shard]) -> list[float]:
    """[workers] what part of the load each is to carry by its plan: that of its rows of the width."""
    rows = [max(1, shard.width_rows.size) for shard in shards]
    return [1.0] * len(rows) if max(rows) - min(rows) <= PANEL_ROWS else [float(own) for own in rows]


def drain(
    worker: int,
    experts: Sequence[ExpertOwners | None],
    loads: Sequence[Sequence[float]],
    expert_bytes: Sequence[int],
    room: Sequence[int],
) -> list[ExpertMove]:
    """Moves after which `worker` holds no whole expert; the other arguments are those of `balance`.

    Raises:
        PlanError: the other workers have no room for them.
    """
    left, moves, missing = list(room), [], 0
    for layer, owners in enumerate(experts):
        for expert in owners.held_by(worker) if owners else ():
            assert owners is not None
            if len(owners.workers[expert]) > 1:
                target = None
            else:
                carried = carried_loads(loads[layer], owners.workers, len(left))
                free = [other for other in range(len(left)) if other != worker and left[other] >= expert_bytes[layer]]
                if not free:
                    missing += expert_bytes[layer]
                    continue
                target = min(free, key=lambda other: (carried[other], other))
            moves.append(ExpertMove(layer, expert, worker, target))
            owners = moves[-1].applied(owners)
            _account(moves[-1], expert_bytes[layer], left)
    if missing:
        raise PlanError(
            f"worker {worker} cannot be drained: the other workers lack {missing:,} bytes for its experts; "
            "free memory on their nodes, or lower the context"
        )
    return moves


def _account(move: ExpertMove, size: int, left: list[int]) -> None:
    if move.target is not None:
        left[move.target] -= size
    if not move.keep:
        left[move.source] += size


def _best_moves(
    layer: int, owners: ExpertOwners, loads: Sequence[float], size: int, left: Sequence[int], shares: Sequence[float]
) -> list[ExpertMove]:
    """One move or exchange that takes load from the most loaded worker for its share; none if all gain too little.

    It goes to the least loaded worker that it is worth while with: that one may lack room, or fitting experts.
    """
    workers = range(len(left))
    carried = carried_loads(loads, owners.workers, len(left))
    order = sorted(workers, key=lambda worker: (carried[worker] / shares[worker], worker))
    high = max(workers, key=lambda worker: (carried[worker] / shares[worker], -worker))
    least = LEAST_GAIN * sum(loads) / len(left)
    for low in order:
        wanted = (carried[high] * shares[low] - carried[low] * shares[high]) / (shares[high] + shares[low])
        if low == high or wanted <= least or left[low] < size:
            continue
        best, gain = [], least
        for change, some in _changes(layer, owners, loads, high, low, spare=left[low] >= 2 * size):
            shrunk = wanted - abs(wanted - change)  # of the most loaded worker's load
            if shrunk > gain:
                best, gain = some, shrunk
        if best:
            return best
    return []


def _changes(
    layer: int, owners: ExpertOwners, loads: Sequence[float], high: int, low: int, *, spare: bool
) -> Iterator[tuple[float, list[ExpertMove]]]:
    """Possible changes, and the load that each takes from `high` to `low`; an exchange needs room for one expert."""
    alone = [expert for expert, holders in enumerate(owners.workers) if holders == (high,)]
    others = [expert for expert, holders in enumerate(owners.workers) if holders == (low,)]
    for expert in alone:
        for other in others:
            if loads[expert] > loads[other]:
                there = ExpertMove(layer, expert, high, low)
                yield loads[expert] - loads[other], [there, ExpertMove(layer, other, low, high)]
    if spare:
        for expert in alone:
            yield loads[expert], [ExpertMove(layer, expert, high, low)]
            yield loads[expert] / 2, [ExpertMove(layer, expert, high, low, keep=True)]
