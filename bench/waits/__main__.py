"""What threads lose to waiting and claiming: python -m bench.waits [MODEL.gguf ...] [--threads 2,16,20,64,128]

Simulates a decode step of one worker, as it was before threads waited in groups and as it is, on more threads than this
machine may have (simulation.py). Of each model file the step is also measured on this machine, and simulated
with its bandwidth, its latencies and what its cores multiply.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from cyclopts import App
from rich.console import Console
from rich.table import Table

from bench.group import worker_group
from bench.ours import Measured, Workload
from bench.prediction import PASSES, TOKENS, measured_speeds
from bench.tiles.rates import with_core_rates
from bench.waits.simulation import (
    BEFORE,
    CACHE_THREADS,
    NOW,
    PUBLISHED,
    Latencies,
    Scheme,
    SimulatedTeam,
    latencies_of,
    simulate,
)
from bench.waits.step_phases import phases_of
from numoe.coordinator.machine.measuring import measure_waits
from numoe.coordinator.machine.model_file import read_spec
from numoe.coordinator.machine.planning import decide_plan
from numoe.coordinator.settings import ServeSettings, WorkerSettings
from numoe.kernels.threads.team import REACH
from numoe.model.architectures.spec import ModelSpec
from numoe.model.machine.topology import Topology
from numoe.model.machine.topology_reading import read_topology
from numoe.model.made_up.synthetic import write_synthetic_model
from numoe.model.made_up.synthetic_shape import PRESETS
from numoe.model.made_up.type_mixes import named
from numoe.model.planning.plan import ShardPlan
from numoe.model.planning.prediction.speeds import GIGA, Speeds
from numoe.model.planning.prediction.worker_rates import WorkerRates, rates_of

app = App(help=__doc__)

DECODES = 3  # of a model, between two measurements of the machine
LAYERS, SIMULATED_LAYERS = 94, (1, 3)  # of Qwen3-235B-A22B
SOCKET_BANDWIDTH = 480 * GIGA  # of an EPYC 9755
CHANGES = {
    "before": BEFORE,
    "groups": replace(BEFORE, together=NOW.together),
    "own first": replace(BEFORE, own_first=True),
    "tickets": replace(BEFORE, tickets=True),
    "tickets of groups": replace(BEFORE, together=NOW.together, near_claims=True, reach=REACH),
    "shared rounding": replace(BEFORE, shared_rounding=True),
    "chosen by the last": replace(BEFORE, chosen_by_last=True),
    "parts of the router": replace(BEFORE, router_parts=NOW.router_parts),
    "now": NOW,
}


@dataclass(frozen=True, slots=True)
class Simulated:
    """A step in one scheme."""

    seconds: float
    waiting: float
    claiming: float

    @property
    def lost(self) -> float:
        """The share of the step in which threads waited or claimed."""
        return (self.waiting + self.claiming) / self.seconds


def step_of(spec: ModelSpec, rates: WorkerRates, latencies: Latencies, scheme: Scheme, cache: int) -> Simulated:
    """Simulate one step."""
    team = SimulatedTeam(rates.cores, latencies, scheme, cache)
    seconds = simulate(list(phases_of(spec, rates, scheme)), team)
    return Simulated(seconds, team.lost.waiting, team.lost.claiming)


def socket_rates(threads: int) -> WorkerRates:
    """Of so many threads of a large socket: what their cores read, until its memory gives no more."""
    speeds = Speeds({0: SOCKET_BANDWIDTH}, "as an EPYC 9755's socket")
    return WorkerRates(threads, min(SOCKET_BANDWIDTH, threads * speeds.core_bandwidth), speeds)


def large_model(layers: int, type_name: str = "Q4_K_M") -> ModelSpec:
    """Qwen3-235B-A22B with some of its layers, of which no weight is written."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "large.gguf"
        type_, mix = named(type_name)
        shape = replace(PRESETS["qwen3-235b-a22b"], type=type_, mix=mix, layers=layers)
        write_synthetic_model(path, shape, 0, header_only=True)
        return read_spec(path)


def whole_step(models: Sequence[ModelSpec], threads: int, scheme: Scheme) -> Simulated:
    """A step of all LAYERS, as two models of few layers say: layers are alike."""
    few, more = (step_of(model, socket_rates(threads), PUBLISHED, scheme, CACHE_THREADS) for model in models)
    times = (LAYERS - models[0].layers) / (models[1].layers - models[0].layers)
    return Simulated(
        few.seconds + times * (more.seconds - few.seconds),
        few.waiting + times * (more.waiting - few.waiting),
        few.claiming + times * (more.claiming - few.claiming),
    )


def hold(path: Path) -> tuple[float, float]:
    """A model's step on this machine: seconds as simulated with its figures, and as they are.

    The least of some of either, taken in turn: others on a shared machine slow it down, for minutes at a time.
    """
    spec, topology = read_spec(path), read_topology()
    work = Workload(prompt=64, decode=TOKENS, depths=(), streams=(1,))
    settings = ServeSettings(workers=WorkerSettings(workers=1), engine=work.settings())
    plan = decide_plan(spec, topology, settings).plan  # which the worker gets too
    with worker_group(path, 1, None, work.settings()) as group:
        measured = Measured(group, work)
        measured.warm_up()
        waits = measure_waits(topology)
        latencies = latencies_of(waits.passes if waits else {})
        simulated, taken = [], []
        for _ in range(PASSES):
            simulated.append(_simulated_seconds(spec, topology, plan, latencies))
            taken += [measured.decode(TOKENS).seconds / TOKENS for _ in range(DECODES)]
    return min(simulated), min(taken)


def _simulated_seconds(spec: ModelSpec, topology: Topology, plan: ShardPlan, latencies: Latencies) -> float:
    """Of a step, as fast as this machine is now."""
    [shard] = plan.shards
    speeds = measured_speeds(topology, plan)
    speeds = with_core_rates(speeds, spec, shard.cpus, speeds.node_bandwidth[shard.node])
    [rates] = rates_of(plan.shards, topology, speeds)
    return step_of(spec, rates, latencies, NOW, CACHE_THREADS).seconds


@app.default
def main(*models: Path, threads: str = "2,16,20,64,128") -> None:
    """Print the tables.

    Parameters
    ----------
    models
        GGUF files, to be measured on this machine.
    threads
        Numbers of threads to simulate.
    """
    console, large = Console(), [large_model(layers) for layers in SIMULATED_LAYERS]
    table = Table("threads", *CHANGES, title="Qwen3-235B-A22B, Q4_K_M: ms a step of one worker (share lost)")
    for count in (int(part) for part in threads.split(",")):
        steps = [whole_step(large, count, scheme) for scheme in CHANGES.values()]
        table.add_row(str(count), *(f"{1e3 * step.seconds:.1f} ({step.lost:.0%})" for step in steps))
    console.print(table)
    if not models:
        return
    table = Table("model", "simulated ms", "measured ms", "ratio")
    for path in models:
        simulated, taken = hold(path)
        table.add_row(path.name, f"{1e3 * simulated:.2f}", f"{1e3 * taken:.2f}", f"{simulated / taken:.2f}")
    console.print(table)


if __name__ == "__main__":
    app()
