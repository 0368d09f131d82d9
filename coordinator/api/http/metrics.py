"""The metrics that Prometheus reads: made from a snapshot and the engine's counts at the moment they are asked for.

Names begin with numoe_, units are base units, counters end in _total. Rates and shares are gauges of the last 10 s (10
to 15); whoever wants others takes them from the counters. No expert has a series of its own: 94 layers of 128 would be
12,032 of them, and the page shows them better. Where there are several hosts, workers and nodes have the label `host`,
its address; of a single one they have none. Counters with labels begin at 0 for every label that may come: the first
of a kind would be no increase to Prometheus, which had seen none before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from typing import get_args, get_type_hints

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector, CollectorRegistry

from numoe.coordinator.engine.counts import OUTCOMES, REFUSALS, EngineCounts, Histogram
from numoe.coordinator.operations.operations import Operations
from numoe.coordinator.operations.snapshot import Service, Snapshot, WorkerNow

_STATES: tuple[str, ...] = get_args(get_type_hints(Service)["state"])
_WORKER_GAUGES: dict[str, tuple[str, Callable[[WorkerNow], float | None]]] = {
    "fill_ratio": ("Bytes of weights read per second within steps, of what the node reads at most", lambda w: w.fill),
    "read_bytes_per_second": ("Bytes of weights read per second within steps", lambda w: w.read_rate),
    "peak_bytes_per_second": ("What the node's cores read at most, divided by the workers there", lambda w: w.peak),
    "busy_ratio": ("Share of the time spent inside steps", lambda w: w.busy),
    "wait_ratio": ("Share of the time inside steps spent waiting for other workers", lambda w: w.wait_share),
    "step_seconds": ("Time of one step, on average", lambda w: w.step_seconds),
    "on_node_bytes": ("Bytes of the worker's memory on its NUMA node", lambda w: w.on_node_bytes),
    "off_node_bytes": ("Bytes of the worker's memory on other NUMA nodes", lambda w: w.off_node_bytes),
    "threads": ("Threads of the worker's process", lambda w: w.process_threads),
    "threads_off_mask": (
        "Threads of the process that may run elsewhere than on its CPUs",
        lambda w: w.threads_off,
    ),
    "weight_bytes": ("Bytes of weights in the worker's memory", lambda w: w.weight_bytes),
    "kv_bytes": ("Bytes set aside for keys and values", lambda w: w.kv_bytes),
    "kv_used_bytes": ("Bytes of keys and values that requests hold", lambda w: w.kv_used_bytes),
    "heartbeat_age_seconds": ("Time since the worker's last sign of life", lambda w: w.seen_ago),
}


class _Families:
    """Gives a registry what was made already."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def negotiate(accept: str) -> tuple[Callable[[CollectorRegistry], bytes], str]:
    """How to write the metrics, and that format's content type, by the Accept header of who asks."""
    encode, content_type = choose_encoder(accept)
    return encode, content_type


async def render(operations: Operations) -> CollectorRegistry:
    """All metrics as of now."""
    snapshot = await operations.snapshot()
    counts = operations.counts
    families = [*_state(snapshot.service), *_service(snapshot), *_refusals(counts), *_histograms(counts)]
    return _registry([*families, *_workers(snapshot, counts), *_machine(snapshot)])


def render_loading(service: Service) -> CollectorRegistry:
    """What is known before the model is loaded: that it is being loaded, and since when."""
    return _registry(list(_state(service)))


def _registry(families: list[Metric]) -> CollectorRegistry:
    registry = CollectorRegistry()
    collector: Collector = _Families(families)
    registry.register(collector)
    return registry


def _state(service: Service) -> Iterator[Metric]:
    states = GaugeMetricFamily("numoe_state", "1 for what the service does with requests now", None, ["state"])
    for state in _STATES:
        states.add_metric([state], float(state == service.state))
    yield states
    yield GaugeMetricFamily("numoe_start_time_seconds", "Unix time at which the service started", service.started_at)


def _service(snapshot: Snapshot) -> Iterator[Metric]:
    service, flow = snapshot.service, snapshot.flow
    told = {"version": service.version, "model": service.model, "split": service.split, "binding": service.binding}
    yield InfoMetricFamily("numoe_service", "What is served", told)
    yield CounterMetricFamily("numoe_worker_restarts", "Restarts of all workers after one was lost", service.restarts)
    yield GaugeMetricFamily("numoe_requests_running", "Requests in work", flow.running)
    yield GaugeMetricFamily("numoe_requests_queued", "Requests that wait for a slot", flow.queued)
    yield GaugeMetricFamily("numoe_queue_age_seconds", "Age of the oldest waiting request", flow.oldest_queued_seconds)
    yield CounterMetricFamily("numoe_requests_rejected", "Requests refused for want of room", flow.rejected)
    ended = CounterMetricFamily("numoe_requests", "Requests that ended, by how", labels=["outcome"])
    for outcome, count in (dict.fromkeys(OUTCOMES, 0) | flow.ended).items():
        ended.add_metric([outcome], count)
    yield ended
    yield CounterMetricFamily("numoe_prompt_tokens", "Tokens of prompts that were run", flow.prompt_tokens)
    yield CounterMetricFamily("numoe_generated_tokens", "Tokens that were drawn", flow.generated_tokens)
    yield GaugeMetricFamily("numoe_kv_blocks", "Blocks of keys and values", flow.kv_blocks)
    yield GaugeMetricFamily("numoe_kv_blocks_used", "Blocks of keys and values that requests hold", flow.kv_blocks_used)
    yield GaugeMetricFamily(
        "numoe_kv_blocks_reserved",
        "Blocks that the requests in work hold, or need soon",
        flow.kv_blocks_reserved,
    )
    yield GaugeMetricFamily(
        "numoe_kv_blocks_cached", "Blocks that no request holds, and the next may take over", flow.kv_blocks_cached
    )
    yield CounterMetricFamily(
        "numoe_prompt_tokens_cached", "Tokens of prompts that had not to be run", flow.cached_tokens
    )
    yield CounterMetricFamily(
        "numoe_preemptions", "Requests that gave their KV blocks back to others", flow.preemptions
    )
    layers = GaugeMetricFamily(
        "numoe_layer_imbalance_ratio",
        "Choices that the most loaded worker of a layer computes, over the mean",
        None,
        ["layer"],
    )
    for layer, imbalance in enumerate(snapshot.lately.imbalance):
        layers.add_metric([str(layer)], imbalance)
    yield layers


def _refusals(counts: EngineCounts) -> Iterator[Metric]:
    refused = CounterMetricFamily(
        "numoe_requests_refused", "Requests refused before they were queued, by why", None, ["outcome"]
    )
    for outcome, count in (dict.fromkeys(REFUSALS, 0) | counts.refused).items():
        refused.add_metric([outcome], count)
    yield refused


def _histograms(counts: EngineCounts) -> Iterator[Metric]:
    waits = (
        ("numoe_queue_wait_seconds", "From a request's arrival to its first chunk", counts.queue_seconds),
        ("numoe_first_token_seconds", "From a request's arrival to its first token", counts.first_token_seconds),
        ("numoe_between_tokens_seconds", "From a request's token to its next one", counts.between_tokens_seconds),
        ("numoe_prefill_tokens_per_second", "Speed of a request's prompt", counts.prefill_rate),
        ("numoe_decode_tokens_per_second", "Speed of a finished request's answer", counts.decode_rate),
    )
    for name, description, histogram in waits:
        family = HistogramMetricFamily(name, description)
        _add(family, [], histogram)
        yield family
    phases = HistogramMetricFamily("numoe_step_phase_seconds", "Parts of the engine's round, by step", labels=["phase"])
    for phase, histogram in counts.phase_seconds.items():
        _add(phases, [phase], histogram)
    yield phases


def _add(family: HistogramMetricFamily, labels: list[str], histogram: Histogram) -> None:
    seen = histogram.look()
    bounds = [*map(str, seen.bounds), "+Inf"]
    family.add_metric(labels, list(zip(bounds, accumulate(seen.counts), strict=True)), seen.sum)


class _Places:
    """The labels of workers and nodes; of several hosts each has its host's address, too."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._addresses = [host.address for host in snapshot.hosts] if len(snapshot.hosts) > 1 else []

    def names(self, *own: str) -> list[str]:
        return [*own, "host"] if self._addresses else [*own]

    def of(self, host: int, *own: object) -> list[str]:
        return [*map(str, own), *self._addresses[host : host + 1]]

    def unknown(self, *own: str) -> list[str]:
        return [*own, "unknown"] if self._addresses else [*own]


def _workers(snapshot: Snapshot, counts: EngineCounts) -> Iterator[Metric]:
    places = _Places(snapshot)
    labels = places.names("worker", "node")
    workers = [(worker, places.of(worker.host, worker.worker, worker.node)) for worker in snapshot.workers]
    up = GaugeMetricFamily("numoe_worker_up", "1 while the worker takes part in steps", None, labels)
    for worker, place in workers:
        up.add_metric(place, float(worker.state == "ready"))
    yield up
    losses, lost = CounterMetricFamily("numoe_worker_losses", "How often the worker died", labels=labels), counts.losses
    for worker, place in workers:
        losses.add_metric(place, lost.get(worker.worker, 0))
    losses.add_metric(places.unknown("unknown", "unknown"), lost.get(None, 0))
    yield losses
    yield CounterMetricFamily(
        "numoe_tokens_run_again",
        "Positions that were run again as workers or blocks were lost",
        counts.tokens_run_again,
    )
    yield CounterMetricFamily(
        "numoe_drafted_tokens",
        "Tokens that were run before they were known, as texts seemed to repeat themselves",
        counts.drafted_tokens,
    )
    yield CounterMetricFamily(
        "numoe_accepted_tokens", "Of those, tokens that are part of answers", counts.accepted_tokens
    )
    for name, (description, value_of) in _WORKER_GAUGES.items():
        family = GaugeMetricFamily(f"numoe_worker_{name}", description, None, labels)
        for worker, place in workers:
            if (value := value_of(worker)) is not None:
                family.add_metric(place, value)
        yield family
    for name, description in (
        ("steps", "Steps that the worker has done since it started"),
        ("tokens", "Token positions that the worker has computed since it started"),
    ):
        counter = CounterMetricFamily(f"numoe_worker_{name}", description, labels=labels)
        for worker, place in workers:
            counter.add_metric(place, getattr(worker, name))
        yield counter


def _machine(snapshot: Snapshot) -> Iterator[Metric]:
    places = _Places(snapshot)
    labels = places.names("node", "use")
    memory = GaugeMetricFamily("numoe_node_memory_bytes", "Memory of a NUMA node, by use", None, labels)
    for number, host in enumerate(snapshot.hosts):
        for node in host.nodes:
            for use in ("free", "page_cache", "weight", "kv", "arena", "other"):
                memory.add_metric(places.of(number, node.node, use), getattr(node, f"{use}_bytes"))
    yield memory
    if len(snapshot.hosts) > 1:
        hosts = InfoMetricFamily("numoe_host", "A host of the service, by its address", labels=["host"])
        ages = GaugeMetricFamily("numoe_host_told_age_seconds", "Time since the host told of itself", None, ["host"])
        for host in snapshot.hosts:
            hosts.add_metric([host.address], {"name": host.name, "processor": host.processor})
            ages.add_metric([host.address], max(0.0, round(snapshot.now - host.told_at, 1)))
        yield from (hosts, ages)
