"""The workers that `numoe serve` would start, to be measured: same plan and processes, no engine and doors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from numoe.coordinator.machine.model_file import read_spec
from numoe.coordinator.machine.planning import find_speeds, plan_this_machine
from numoe.coordinator.measuring.peaks import Peaks, peaks_of
from numoe.coordinator.measuring.steps import Steps
from numoe.coordinator.progress import LoadProgress
from numoe.coordinator.settings import ServeSettings, expert_reduction
from numoe.coordinator.workers.group import HostGroup
from numoe.model.architectures.spec import ModelSpec
from numoe.model.machine.topology_reading import read_topology
from numoe.model.planning.prediction.speeds import Speeds
from numoe.protos.errors import SetupError


@dataclass(frozen=True, slots=True)
class MeasuredWorkers:
    """Workers that hold a model, and what they could do at most."""

    spec: ModelSpec
    group: HostGroup
    settings: ServeSettings
    peaks: Peaks
    speeds: Speeds
    workers: int
    threads: int  # of all workers
    processor: str  # as it calls itself

    def peak(self, node: int) -> float:
        """Bytes per second that a node's cores read from its memory at most."""
        return self.speeds.read_rate(node, node)

    def steps(self) -> Steps:
        """What runs steps on them, of tokens that run the experts that the settings say."""
        timeout, experts = self.settings.workers.step_timeout_seconds, expert_reduction(self.settings.engine)
        return Steps(self.group, self.spec.vocabulary, timeout, experts)


@contextmanager
def measured_workers(path: Path | None, settings: ServeSettings, progress: LoadProgress) -> Iterator[MeasuredWorkers]:
    """Workers that hold the model of a file, or of the packed folder of the settings, ended with the context.

    Raises SetupError: the file cannot be served so; ServiceError: the workers did not start.
    """
    spec = read_spec(path, settings)
    _check_context(spec, settings)
    plan = plan_this_machine(spec, settings)
    topology = read_topology()
    speeds = find_speeds(topology, settings.workers)
    peaks = peaks_of(plan, speeds)
    from numoe.coordinator.workers.starting import (
        start_workers,  # brings Ray: seconds, for which a refusal need not wait
    )

    group = start_workers(spec=spec, plan=plan, settings=settings, progress=progress)
    try:
        threads = sum(len(shard.cpus) for shard in plan.shards)
        yield MeasuredWorkers(spec, group, settings, peaks, speeds, len(plan.shards), threads, topology.processor.name)
    finally:
        group.close()


def _check_context(spec: ModelSpec, settings: ServeSettings) -> None:
    """Refuse what serving would shorten in silence: a context longer than the model's."""
    needed = settings.engine.context_tokens
    if needed is not None and needed > spec.context_length:
        expected = f"the model's context is {spec.context_length}: measure less"
        raise SetupError(f"{needed} positions are needed for this, but {expected}")
