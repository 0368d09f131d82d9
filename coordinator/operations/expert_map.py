"""The map of experts: who holds them, how often they were chosen, and how evenly that loads layers and workers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from numoe.coordinator.operations.history import short
from numoe.coordinator.operations.snapshot import Choices, ExpertMap, Moved, Packed
from numoe.coordinator.workers.placement import Placement
from numoe.model.planning.expert_owners import ExpertOwners
from numoe.model.planning.plan import Range

Owners = tuple[ExpertOwners | None, ...]  # [L]


def pack(numbers: NDArray[np.int64]) -> Packed:
    """Whole numbers of 0 and more in as few bytes as the largest of them needs."""
    most = int(numbers.max(initial=0))
    names: tuple[Literal["uint8", "uint16", "uint32"], ...] = ("uint8", "uint16", "uint32")
    for name in names:
        if most <= np.iinfo(name).max:
            return Packed(name, numbers.shape, numbers.astype(f"<{np.dtype(name).str[1:]}").tobytes())
    return Packed("float64", numbers.shape, numbers.astype("<f8").tobytes())


class ExpertPlaces:
    """Who holds the experts, followed over time by one thread."""

    def __init__(self, placement: Placement, experts: int, expert_bytes: Sequence[int], at: float) -> None:
        """`experts` of a layer, `expert_bytes` of one expert by layer; `at` in Unix time."""
        self._owners, self._runs, self._experts = placement.experts, _runs(placement), experts
        self._expert_bytes, self._placed_at = tuple(expert_bytes), at
        self._moved: dict[int, float] = {}
        self._update()

    def follow(self, placement: Placement, at: float) -> None:
        """See where experts are now; costs next to nothing where none has moved. Other workers begin a new map."""
        owners, runs = placement.experts, _runs(placement)
        if runs != self._runs:
            self._owners, self._runs, self._placed_at, self._moved = owners, runs, at, {}
            self._update()
        if owners == self._owners:
            return
        for layer, (before, after) in enumerate(zip(self._owners, owners, strict=True)):
            if before is not after and before is not None and after is not None:
                for expert, (old, new) in enumerate(zip(before.workers, after.workers, strict=True)):
                    if old != new:
                        self._moved[layer * self._experts + expert] = at
        self._owners = owners
        self._update()

    def _update(self) -> None:
        none = (0,) * self._experts
        masks = [none if owners is None else owners.masks for owners in self._owners]
        holders = np.array(masks, np.int64).reshape(len(self._owners), self._experts)
        held = holders[None] >> np.arange(len(self._runs))[:, None, None] & 1
        layers = np.arange(len(self._owners))
        running = np.array([(run.start <= layers) & (layers < run.stop) for run in self._runs])  # [workers, L]
        counted, self._running = held.sum(0), np.maximum(running.sum(0), 1)  # [L, E], [L]
        by_row = (running / self._running)[:, :, None]
        self._parts = np.where(counted > 0, held / np.maximum(counted, 1), by_row)  # [workers, L, E]
        times: dict[float, list[int]] = {}
        for expert, at in self._moved.items():
            times.setdefault(at, []).append(expert)
        moved = tuple(Moved(at, tuple(sorted(some))) for at, some in sorted(times.items()))
        self.map = ExpertMap(pack(holders), self._expert_bytes, self._placed_at, moved)

    def choices(self, hits: NDArray[np.int64], seconds: float) -> Choices:
        """How choices [L, E] of some seconds load experts, layers and workers; holders of one expert take turns."""
        loads = np.einsum("wle,le->wl", self._parts, hits.astype(np.float64))
        total = float(loads.sum())
        return Choices(
            seconds=round(seconds, 1),
            counts=pack(hits),
            skew=_over_mean(hits.astype(np.float64).T, self._experts),
            imbalance=_over_mean(loads, self._running),
            shares=tuple(short(load / total) if total else 0.0 for load in loads.sum(1).tolist()),
        )


def _runs(placement: Placement) -> tuple[Range, ...]:
    """[workers] the layers that each runs."""
    return tuple(worker.layers or Range(0, len(placement.experts)) for worker in placement.workers)


def _over_mean(loads: NDArray[np.float64], many: int | NDArray[np.int64]) -> tuple[float, ...]:
    """Of each column, the largest over the mean of so many; 1 where there is nothing."""
    mean = loads.sum(0) / many
    return tuple(map(short, np.where(mean > 0, loads.max(0) / np.where(mean > 0, mean, 1.0), 1.0).tolist()))
