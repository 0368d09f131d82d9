"""The parts of a snapshot that are worked out of what was counted: workers, flow, requests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from numoe.coordinator.engine.state import RequestPhase, RequestStatus
from numoe.coordinator.machine.machine_look import MachineFacts, Threads
from numoe.coordinator.operations.history import Sample, decode_rate, prefill_rate, short, worker_change
from numoe.coordinator.operations.snapshot import Flow, HostFinding, RequestNow, WorkerNow
from numoe.coordinator.workers.placement import Placement, WorkerPlacement
from numoe.model.machine.id_lists import format_id_list
from numoe.model.planning.plan import Range
from numoe.protos.locality import total

MOST_REQUESTS = 100  # 20 kB of JSON


def workers_now(
    placement: Placement, now: Sample, before: Sample, machines: Sequence[MachineFacts]
) -> tuple[WorkerNow, ...]:
    """Every worker, each on one of the machines; rates of what it did since `before`."""
    hosts = {facts.host.address: number for number, facts in enumerate(machines) if number}
    places = [hosts.get(worker.host, 0) for worker in placement.workers]
    on_nodes = Counter(
        (host, node)
        for host, worker in zip(places, placement.workers, strict=True)
        for node in worker.shard.memory_nodes
    )
    found = []
    for worker, host in zip(placement.workers, places, strict=True):
        facts = machines[host]
        peak = sum(facts.peak(node) / on_nodes[host, node] for node in worker.shard.memory_nodes)
        threads = facts.threads.get(worker.shard.worker) if worker.pid is not None else None
        found.append(_worker_now(worker, placement.ready_at, now, before, host, peak, threads))
    return tuple(found)


def findings_now(machines: Sequence[MachineFacts]) -> tuple[HostFinding, ...]:
    """What the doctor says of all machines."""
    return tuple(
        HostFinding(host, one.level, one.subject, one.found, one.cost, one.remedy)
        for host, facts in enumerate(machines)
        for one in facts.findings
    )


def _worker_now(
    worker: WorkerPlacement,
    ready_at: float | None,
    now: Sample,
    before: Sample,
    host: int,
    peak: float,
    threads: Threads | None,
) -> WorkerNow:
    shard, number = worker.shard, worker.shard.worker
    known = number < len(now.workers)
    counted = now.workers[number] if known else dict.fromkeys(("loaded_bytes", "total_bytes", "steps", "tokens"), 0)
    change = worker_change(now, before, number) if known else {"steps": 0, "step_ns": 0}
    seconds, steps = change["step_ns"] / 1e9, change["steps"]
    seen_ns, layers = counted.get("seen_ns"), worker.layers or Range(0, now.hits.shape[0])
    rate = change["bytes_read"] / seconds if seconds else None
    on_node, off_node = _bytes_by_place(worker)
    blocks = now.engine.kv_blocks
    return WorkerNow(
        worker=number,
        host=host,
        first_layer=layers.start,
        layers=layers.size,
        node=shard.node,
        pid=worker.pid,
        state=worker.state,
        cpus=format_id_list(shard.allowed_cpus),
        threads=len(shard.cpus),
        process_threads=threads.all if threads else None,
        threads_off=threads.off if threads else None,
        loaded_bytes=counted["loaded_bytes"],
        to_load_bytes=counted["total_bytes"],
        weight_bytes=worker.weight_bytes,
        kv_bytes=worker.kv_bytes,
        kv_used_bytes=None if worker.kv_bytes is None else worker.kv_bytes * now.engine.kv_blocks_used // blocks,
        on_node_bytes=on_node,
        off_node_bytes=off_node,
        problem=worker.locality.problem if worker.locality else "",
        fill=short(rate / peak) if rate is not None and peak else None,
        read_rate=None if rate is None else short(rate),
        peak=short(peak),
        busy=short(min(1.0, seconds / max(now.at - before.at, 1e-9))),
        step_seconds=short(seconds / steps) if steps else None,
        wait_share=short(change["wait_ns"] / change["step_ns"]) if seconds else None,
        steps=counted["steps"],
        tokens=counted["tokens"],
        seen_ago=max(0.0, round(now.at - seen_ns / 1e9, 2)) if seen_ns else None,
        restarts=now.engine.restarts,
        ready_at=None if ready_at is None else round(ready_at, 1),
    )


def _bytes_by_place(worker: WorkerPlacement) -> tuple[int | None, int | None]:
    """Bytes on the worker's node, or nodes, and elsewhere; None where the kernel does not tell."""
    found = worker.locality
    if found is None or not found.verified:
        return None, None
    places = total((found.weights, found.kv, found.arena))
    on_node = sum(places.get(node, 0) for node in worker.shard.memory_nodes)
    return on_node, sum(places.values()) - on_node


def flow_now(now: Sample, before: Sample, ended: Mapping[str, int], requests: Sequence[RequestStatus]) -> Flow:
    """Requests and tokens; rates and times since `before`."""
    engine = now.engine
    waiting = [request.submitted_at for request in requests if request.phase is RequestPhase.QUEUED]
    first_token = now.first_token.mean_since(before.first_token)
    between = now.between_tokens.mean_since(before.between_tokens)
    return Flow(
        running=engine.running,
        queued=engine.queued,
        oldest_queued_seconds=round(now.at - min(waiting, default=now.at), 1),
        rejected=engine.rejected,
        ended=dict(ended),
        kv_blocks_used=engine.kv_blocks_used,
        kv_blocks_reserved=engine.kv_blocks_reserved,
        kv_blocks=engine.kv_blocks,
        kv_blocks_cached=engine.sharing.cached_blocks,
        cached_tokens=engine.sharing.cached_tokens,
        preemptions=engine.sharing.preemptions,
        prompt_tokens=engine.prompt_tokens,
        generated_tokens=engine.generated_tokens,
        prefill_rate=prefill_rate(now, before),
        decode_rate=decode_rate(now, before),
        first_token_seconds=None if first_token is None else short(first_token),
        between_tokens_seconds=None if between is None else short(between),
        step_age=None if engine.step_began_at is None else round(max(0.0, now.at - engine.step_began_at), 1),
    )


def requests_now(requests: Sequence[RequestStatus], at: float) -> tuple[RequestNow, ...]:
    """The first open requests; `at` in time.monotonic()."""
    return tuple(_request_now(request, at) for request in requests[:MOST_REQUESTS])


def _request_now(request: RequestStatus, at: float) -> RequestNow:
    seconds = request.last_token_at - request.first_token_at
    return RequestNow(
        id=request.request_id,
        client=request.client,
        phase=request.phase.value,
        prompt_tokens=request.prompt_tokens,
        prompt_done=request.prompt_done,
        tokens=request.drawn,
        most_tokens=request.most_drawn,
        rate=short((request.drawn - 1) / seconds) if seconds > 0 else None,
        age=round(max(0.0, at - request.submitted_at), 1),
    )
