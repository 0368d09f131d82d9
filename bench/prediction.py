"""How right the cost model is: python -m bench.prediction MODEL.gguf ... [--workers 1] [--threads 2]

Measures this machine's bandwidth and integer peak, predicts the decode of one stream with an empty KV cache, decodes
with real workers, and prints predicted over measured. Bandwidth is measured before and after each decode, since on a
shared machine it moves within a minute; a prediction is only as right as the bandwidth it is given.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path

from cyclopts import App
from rich.console import Console
from rich.table import Table

from bench.group import worker_group
from bench.machine import integer_peak, read_bandwidth
from bench.ours import Measured, Workload
from numoe.coordinator.machine.model_file import read_spec
from numoe.coordinator.machine.planning import decide_plan
from numoe.coordinator.settings import ServeSettings, WorkerSettings
from numoe.model.architectures.spec import ModelSpec
from numoe.model.machine.topology import Topology
from numoe.model.machine.topology_reading import read_topology
from numoe.model.planning.plan import ShardPlan
from numoe.model.planning.prediction.cost import CostModel
from numoe.model.planning.prediction.forecast import Forecast
from numoe.model.planning.prediction.speeds import Speeds

app = App(help=__doc__)

PASSES = 5  # decodes of TOKENS tokens
TOKENS = 64


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was predicted and measured of one model file."""

    predicted: Forecast
    measured: float  # tokens per second, median
    speeds: Speeds

    @property
    def ratio(self) -> float:
        """Predicted over measured speed."""
        return self.predicted.tokens_per_second / self.measured


def measured_speeds(topology: Topology, made: ShardPlan) -> Speeds:
    """Bandwidth of each node's cores that compute, of one core alone, and the integer peak of all."""
    nodes = {
        node: tuple(dict.fromkeys(cpu for shard in made.shards if shard.node == node for cpu in shard.cpus))
        for node in {shard.node for shard in made.shards}
    }
    together = tuple(cpu for cpus in nodes.values() for cpu in cpus)
    return Speeds(
        {node: read_bandwidth(cpus).median for node, cpus in nodes.items()},
        "as measured",
        core_bandwidth=read_bandwidth(together[:1]).median,
        integer_peak=integer_peak(together).median,
    )


def hold(path: Path, workers: int, threads: int | None) -> Outcome:
    """Predict and measure one file."""
    spec, topology = read_spec(path), read_topology()
    work = Workload(prompt=64, decode=TOKENS, depths=(), streams=(1,))
    chosen = WorkerSettings(workers=workers, threads_per_worker=threads)
    settings = ServeSettings(workers=chosen, engine=work.settings())
    made = decide_plan(spec, topology, settings).plan  # which the workers get too
    with worker_group(path, workers, threads, work.settings()) as group:
        measured = Measured(group, work)
        measured.warm_up()
        before = measured_speeds(topology, made)
        seconds = statistics.median(measured.decode(TOKENS).seconds for _ in range(PASSES))
        after = measured_speeds(topology, made)
    speeds = between(before, after)
    return Outcome(_predicted(spec, made, topology, speeds), TOKENS / seconds, speeds)


def between(before: Speeds, after: Speeds) -> Speeds:
    """The mean of two measurements."""
    return Speeds(
        {node: (rate + after.node_bandwidth[node]) / 2 for node, rate in before.node_bandwidth.items()},
        before.source,
        core_bandwidth=(before.core_bandwidth + after.core_bandwidth) / 2,
        integer_peak=(before.integer_peak + after.integer_peak) / 2,
    )


def _predicted(spec: ModelSpec, made: ShardPlan, topology: Topology, speeds: Speeds) -> Forecast:
    return CostModel(spec, made.shards, topology, speeds, context=TOKENS // 2).predict(made)


@app.default
def main(*models: Path, workers: int = 1, threads: int | None = None) -> None:
    """Print predicted and measured tokens per second of each file.

    Parameters
    ----------
    models
        GGUF files.
    workers
        Worker processes.
    threads
        Computing threads of each. Default: one per core it owns.
    """
    console = Console()
    table = Table("model", "GB/s", "one core", "GOP/s", "predicted", "measured", "ratio", title=time.ctime())
    for path in models:
        found = hold(path, workers, threads)
        rates = (sum(found.speeds.node_bandwidth.values()), found.speeds.core_bandwidth, found.speeds.integer_peak)
        table.add_row(
            path.name,
            *(f"{rate / 1e9:.1f}" for rate in rates),
            f"{found.predicted.tokens_per_second:.1f}",
            f"{found.measured:.1f}",
            f"{found.ratio:.2f}",
        )
    console.print(table)


if __name__ == "__main__":
    app()
