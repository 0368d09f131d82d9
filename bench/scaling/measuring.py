"""What a number of cores does: its bandwidth, decodes, prompts, and what its threads wait."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.scaling.local_workers import TIMEOUT_SECONDS, LocalWorkers
from bench.tiles.rates import with_core_rates
from bench.waits.simulation import CACHE_THREADS, NOW, Latencies, SimulatedTeam, latencies_of, simulate
from bench.waits.step_phases import phases_of
from numoe.coordinator.measuring.peaks import operations_per_token
from numoe.coordinator.measuring.steps import Measurement, Steps
from numoe.model.architectures.spec import ModelSpec
from numoe.model.machine.topology import Topology
from numoe.model.machine.waits import pairs_to_try
from numoe.model.planning.plan import ShardPlan
from numoe.model.planning.prediction.speeds import guessed_speeds
from numoe.model.planning.prediction.worker_rates import WorkerRates
from numoe.model.planning.splitting import PlanOptions, make_plan
from numoe.protos.messages import StepLimits
from numoe.worker.loading.loader import LoadedWeights
from numoe.worker.placing.read_speed import ReadingTask
from numoe.worker.placing.read_speed import measure as measure_reading
from numoe.worker.placing.wait_speed import WaitTask
from numoe.worker.placing.wait_speed import measure as measure_waits

PROMPT, DECODE = 512, 32  # tokens
LIMITS = StepLimits(step_tokens=PROMPT, sequences=1, context_tokens=PROMPT, kv_blocks=PROMPT // 64, block_positions=64)
REPETITIONS = 3  # of each measurement, after one that does not count
READING_SECONDS = 0.6
READING_BYTES = 64 << 20  # of a core's slice, and more than its part of any cache


@dataclass(frozen=True, slots=True)
class Row:
    """One number of cores. Rates are of all of them together, medians."""

    cores: int
    workers: int  # one of each NUMA node
    read_gigabytes: float  # per second, of their own nodes' memory
    decode_tokens: float  # per second, one stream
    fill: float  # bytes of weights that decoding reads per second, over `read_gigabytes`
    prompt_tokens: float  # per second
    prompt_gigaops: float  # per second: products and additions with weights
    decode_waiting: float  # share of the threads' time in which they wait for each other
    prompt_waiting: float
    simulated_tokens: float | None  # per second, decoding, as bench/waits has it; None: of several workers
    claims: int | None  # of runs of work that threads draw in a decode step, as simulated


def plan_of(spec: ModelSpec, topology: Topology, nodes: Sequence[int], threads: int) -> ShardPlan:
    """A worker on each of some nodes, with so many threads on cores of its own."""
    options = PlanOptions(workers=len(nodes), threads_per_worker=threads, nodes=tuple(nodes))
    return make_plan(spec, topology, options)


def measure_cores(
    spec: ModelSpec, plan: ShardPlan, weights: Sequence[LoadedWeights], topology: Topology, latencies: Latencies
) -> Row:
    """Measure the workers of a plan, which hold these weights."""
    bandwidth = _read_rates([(shard.node, shard.cpus) for shard in plan.shards])
    workers = LocalWorkers(spec, plan, LIMITS, weights)
    try:
        steps = Steps(workers, spec.vocabulary, TIMEOUT_SECONDS)

        def decode() -> Measurement:
            return steps.decode(steps.random_tokens(DECODE))

        def prompt() -> Measurement:
            return steps.prompt(steps.random_tokens(PROMPT))

        decode(), prompt()
        decodes = [decode() for _ in range(REPETITIONS)]
        prompts = [prompt() for _ in range(REPETITIONS)]
        shares = []
        workers.note_times(on=True)
        for run in (decode, prompt):
            before = workers.waited()
            run()
            waiting, inside = (now - then for now, then in zip(workers.waited(), before, strict=True))
            shares.append(waiting / inside)
    finally:
        workers.close()
    seconds = statistics.median(one.seconds for one in decodes)
    of_prompt = PROMPT / statistics.median(one.seconds for one in prompts)
    simulated, claims = None, None
    if len(plan.shards) == 1:
        simulated, claims = _simulated(spec, plan, topology, bandwidth, latencies)
    return Row(
        cores=sum(len(shard.cpus) for shard in plan.shards),
        workers=len(plan.shards),
        read_gigabytes=bandwidth / 1e9,
        decode_tokens=DECODE / seconds,
        fill=statistics.mean(one.weight_bytes for one in decodes) / seconds / bandwidth,
        prompt_tokens=of_prompt,
        prompt_gigaops=of_prompt * operations_per_token(spec, with_output=False) / 1e9,
        decode_waiting=shares[0],
        prompt_waiting=shares[1],
        simulated_tokens=simulated,
        claims=claims,
    )


def measured_latencies(topology: Topology) -> Latencies:
    """How long a cache line takes from core to core of this machine."""
    passes: Any = measure_waits(WaitTask(pairs_to_try(topology), []))["passes"]
    return latencies_of(passes)


def _read_rates(places: Sequence[tuple[int, Sequence[int]]]) -> float:
    """Bytes per second that CPUs of nodes read of their own node's memory, added up: nodes share none."""
    total = 0.0
    for node, cpus in places:
        own = list(cpus)
        rates: Any = measure_reading(ReadingTask(node, READING_BYTES * len(own), own, [(node, own)], READING_SECONDS))[
            "rates"
        ]
        total += rates[node]
    return total


def _simulated(
    spec: ModelSpec, plan: ShardPlan, topology: Topology, bandwidth: float, latencies: Latencies
) -> tuple[float, int]:
    """Tokens per second and claims of a decode step of a lone worker, whose threads read so much together."""
    [shard] = plan.shards
    speeds, threads = with_core_rates(guessed_speeds(topology), spec, shard.cpus, bandwidth), len(shard.cpus)
    team = SimulatedTeam(threads, latencies, NOW, CACHE_THREADS)
    seconds = simulate(list(phases_of(spec, WorkerRates(threads, bandwidth, speeds), NOW)), team)
    return 1 / seconds, team.claims
