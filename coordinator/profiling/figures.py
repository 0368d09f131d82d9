"""What a profile says: its phases, its waits, its fill, and how evenly layers and threads work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from numoe.protos.profile import (
    FOR_THREADS,
    FOR_WORKERS,
    GROUPS,
    PHASES,
    WORK,
    Profile,
    WorkerProfile,
)

COMPUTING = tuple(PHASES.index(phase) for phase in PHASES if phase not in GROUPS["exchanges"])


@dataclass(frozen=True, slots=True)
class PhaseShare:
    """A phase, or several together, of one worker: means over its threads, of one step. Times are seconds."""

    name: str
    work: float
    for_threads: float  # waiting after it
    for_workers: float
    weight_bytes: float  # of one step
    kv_bytes: float
    imbalance: float  # the thread that works longest over the mean, less 1

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.work + self.for_threads + self.for_workers

    @property
    def read_rate(self) -> float | None:
        """Bytes per second while threads work on it or wait for each other; None: it reads nothing that is counted."""
        read, seconds = self.weight_bytes + self.kv_bytes, self.work + self.for_threads
        return read / seconds if read and seconds else None


def phase_shares(worker: WorkerProfile, steps: int, phases: Sequence[tuple[str, tuple[str, ...]]]) -> list[PhaseShare]:
    """A worker's time by phase; `phases`: names, and the phases that each stands for."""
    cells = worker.cells.sum(axis=1)  # [threads, PHASES, 3]
    found = []
    for name, members in phases:
        numbers = [PHASES.index(member) for member in members]
        mean = cells[:, numbers].sum(axis=1).mean(axis=0) / 1e9 / steps
        found.append(
            PhaseShare(
                name=name,
                work=float(mean[WORK]),
                for_threads=float(mean[FOR_THREADS]),
                for_workers=float(mean[FOR_WORKERS]),
                weight_bytes=float(worker.weight_bytes[numbers].sum()) / steps,
                kv_bytes=worker.kv_bytes / steps if "attend" in members else 0.0,
                imbalance=_imbalance(cells[:, numbers, WORK].sum(axis=1)),
            )
        )
    return found


def single_phases(phases: Sequence[str] = PHASES) -> list[tuple[str, tuple[str, ...]]]:
    """Each phase by itself."""
    return [(phase, (phase,)) for phase in phases]


def grouped_phases() -> list[tuple[str, tuple[str, ...]]]:
    """Phases by what they are for."""
    return list(GROUPS.items())


def step_seconds(worker: WorkerProfile, steps: int) -> float:
    """Of one step, as the worker counts for itself."""
    return worker.step_ns / 1e9 / steps


def accounted(worker: WorkerProfile) -> NDArray[np.float64]:  # [threads]
    """Which share of the time that each thread was inside steps its phases and waits are.

    Of the first thread that time is what the worker counts, profiled or not, for the benches too.
    """
    inside = worker.inside.astype(np.float64)
    inside[0] = worker.step_ns
    found: NDArray[np.float64] = worker.cells.sum(axis=(1, 2, 3)) / inside.clip(min=1)
    return found


def accounted_of_all(profile: Profile) -> float:
    """The least of it that any thread accounts for."""
    return float(min(accounted(worker).min() for worker in profile.workers))


def outside_steps(worker: WorkerProfile, profile: Profile) -> float:
    """Seconds for each step that threads are outside of steps, as a mean: until the coordinator has the next one."""
    return (profile.seconds - float(worker.inside.mean()) / 1e9) / profile.steps


def thread_imbalance(worker: WorkerProfile) -> float:
    """The work of the thread that works longest over the mean, less 1."""
    return _imbalance(worker.cells[..., WORK].sum(axis=(1, 2)))


def group_shares(profile: Profile) -> dict[str, float]:
    """Which share of the time inside steps threads spend on each group of phases, waiting for workers left out."""
    inside = sum(float(worker.inside.sum()) for worker in profile.workers)
    spent = sum(worker.cells.sum(axis=(0, 1)) for worker in profile.workers)  # [PHASES, 3]
    return {
        group: sum(float(spent[PHASES.index(one), kind]) for one in phases for kind in (WORK, FOR_THREADS)) / inside
        for group, phases in GROUPS.items()
    }


def layer_times(profile: Profile) -> NDArray[np.float64]:  # [layers, 3] seconds of one step
    """By layer: mean work of all threads, that of the thread that works longest, and the mean of waiting."""
    cells = np.concatenate([worker.cells for worker in profile.workers])[:, : profile.layers]
    threads = cells.any(axis=(2, 3)).sum(axis=0).clip(min=1)  # [layers]; of other hosts none has it
    work = cells[:, :, COMPUTING, WORK].sum(axis=2)
    waits = cells[..., FOR_THREADS].sum(axis=2) + cells[..., FOR_WORKERS].sum(axis=2)
    means = work.sum(axis=0) / threads, work.max(axis=0), waits.sum(axis=0) / threads
    found: NDArray[np.float64] = np.stack(means, axis=1)
    return found / 1e9 / profile.steps


def hosts_at_work(profile: Profile) -> tuple[float, int]:
    """How many hosts are inside a step at once, as a mean, and how many there are."""
    by_host: dict[str, list[float]] = {}
    for worker in profile.workers:
        by_host.setdefault(worker.host, []).append(float(worker.inside.mean()))
    return sum(map(fmean, by_host.values())) / 1e9 / profile.seconds, len(by_host)


def read_rate(profile: Profile) -> float:
    """Bytes of weights, keys and values per second of the stopwatch, as `numoe bench` counts it."""
    return sum(float(one.weight_bytes.sum()) + one.kv_bytes for one in profile.workers) / profile.seconds


def peak_of(profile: Profile) -> float:
    """Bytes per second that the memory of all workers gives at most."""
    return sum(worker.peak for worker in profile.workers)


def _imbalance(work: NDArray[np.int64]) -> float:
    mean = float(work.mean())
    return float(work.max()) / mean - 1 if mean else 0.0
