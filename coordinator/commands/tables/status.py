"""What `numoe status` and `numoe top` show: the service, its hosts, workers, memory, flow and open requests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator

from rich.console import Group, RenderableType
from rich.text import Text

from numoe.coordinator.commands.tables.figures import human_bytes, human_count, human_time, ruled_table
from numoe.protos.foreign_text import harmless
from numoe.v1.operations_pb2 import FlowStatus, RequestStatus, ServiceState, ServiceStatus, Status, WorkerStatus
from numoe.v1.placement_pb2 import WorkerState

SHOWN_REQUESTS = 20
SILENT_SECONDS = 15.0  # of a host that tells of its machine every 5
LONG_STEP_SECONDS = 2.0  # of a step that is told of while it runs; one of a long prompt takes that on a large model
STATE_STYLES = {"serving": "bold green", "restarting": "bold red", "draining": "bold yellow", "stopped": "bold red"}
WORKER_STYLES = {"ready": "green", "lost": "bold red", "stuck": "bold red"}


def describe_status(status: Status) -> RenderableType:
    """All of it, for a terminal."""
    parts: list[RenderableType] = [
        _headline(status),
        _flow(status),
        *_hosts(status),
        *_workers(status),
        *_memory(status),
    ]
    if status.requests:
        parts.append(_requests(status))
    for worker in status.workers:
        if worker.problem:
            parts.append(Text(f"Worker {worker.worker}: {harmless(worker.problem)}.", "yellow"))
    for finding in status.findings:
        if finding.level in ("problem", "warning"):
            where = f"{_host(status, finding.host)}: " if len(status.hosts) > 1 else ""
            told = f"{where}{harmless(finding.subject)}: {harmless(finding.found)}"
            parts.append(Text(f"{finding.level}: {told}", "yellow"))
    return Group(*parts)


def _host(status: Status, number: int) -> str:
    """The address of one of several."""
    return harmless(status.hosts[number].address)


def _hosts(status: Status) -> Iterator[RenderableType]:
    """Who they are, and which layers each runs; nothing of a single one."""
    if len(status.hosts) < 2:
        return
    shown = ruled_table("hosts", "host", "name", "processor", "layers", "workers", "told")
    for number, host in enumerate(status.hosts):
        workers = [worker for worker in status.workers if worker.host == number]
        states = Counter(_state(worker) for worker in workers)
        silent = status.now - host.told_at >= SILENT_SECONDS
        shown.add_row(
            harmless(host.address),
            harmless(host.name),
            harmless(host.processor),
            f"{workers[0].first_layer}-{workers[0].first_layer + workers[0].layers - 1}" if workers else "none",
            Text(", ".join(f"{many} {state}" for state, many in states.items()), _worker_style(states)),
            Text(f"{human_time(max(0.0, status.now - host.told_at))} ago", "bold red" if silent else ""),
        )
    yield shown


def _worker_style(states: Collection[str]) -> str:
    """Of some workers together: that of the first that is not ready."""
    return next((WORKER_STYLES.get(state, "yellow") for state in states if state != "ready"), WORKER_STYLES["ready"])


def _state(worker: WorkerStatus) -> str:
    return WorkerState.Name(worker.state).removeprefix("WORKER_STATE_").lower()


def _headline(status: Status) -> Text:
    service = status.service
    state = ServiceState.Name(service.state).removeprefix("SERVICE_STATE_").lower()
    facts = [harmless(service.model), f"{service.split} split over {human_count(len(status.workers), 'worker')}"]
    facts += [harmless(service.binding), f"up {human_time(status.now - service.started_at)}"]
    if service.restarts:
        ready = [worker.ready_at for worker in status.workers if worker.HasField("ready_at")]
        last = f", the last {human_time(status.now - max(ready))} ago" if ready else ""
        facts.append(human_count(service.restarts, "restart") + last)
    return Text.assemble((state, STATE_STYLES.get(state, "bold")), f"  {', '.join(facts)}", *_rebalance(service))


def _rebalance(service: ServiceStatus) -> Iterator[tuple[str, str]]:
    if service.HasField("rebalance"):
        moving = service.rebalance
        yield f"  {moving.done} of {moving.total} experts moved, to {harmless(moving.phase)}", "cyan"


def _workers(status: Status) -> Iterator[RenderableType]:
    several = len(status.hosts) > 1
    hosts = ["host"] if several else []
    work = ruled_table("workers", "worker", *hosts, "node", "CPUs", "state", "fill", "GB/s", "step", "waiting")
    place = ruled_table("where they are", "worker", "pid", "off node", "threads off", "KV used", "seen")
    for worker in status.workers:
        state = _state(worker)
        work.add_row(
            str(worker.worker),
            *([_host(status, worker.host)] if several else []),
            str(worker.node),
            worker.cpus,
            Text(state, WORKER_STYLES.get(state, "yellow")),
            _share(worker.fill) if worker.HasField("fill") else "-",
            f"{worker.read_rate / 1e9:.1f}" if worker.HasField("read_rate") else "-",
            human_time(worker.step_seconds) if worker.HasField("step_seconds") else "-",
            _share(worker.wait_share) if worker.HasField("wait_share") else "-",
        )
        place.add_row(
            str(worker.worker),
            str(worker.pid) if worker.HasField("pid") else "-",
            *_misplaced(worker),
            _share(worker.kv_used_bytes / worker.kv_bytes) if worker.kv_bytes else "-",
            f"{human_time(worker.seen_ago)} ago" if worker.HasField("seen_ago") else "-",
        )
    yield from (work, place)


def _misplaced(worker: WorkerStatus) -> tuple[str | Text, str | Text]:
    """Bytes on other nodes, and threads that may run elsewhere; loud if there are any."""
    off_node: str | Text = "-"
    if worker.HasField("off_node_bytes"):
        off_node = Text(human_bytes(worker.off_node_bytes), "bold red" if worker.off_node_bytes else "")
    threads: str | Text = "-"
    if worker.HasField("threads_off"):
        threads = Text(f"{worker.threads_off} of {worker.process_threads}", "bold red" if worker.threads_off else "")
    return off_node, threads


def _memory(status: Status) -> Iterator[RenderableType]:
    for host in status.hosts:
        title = f"memory of {harmless(host.address)}" if len(status.hosts) > 1 else "memory"
        shown = ruled_table(title, "node", "all", "weights", "KV", "page cache", "other", "free")
        for node in host.nodes:
            uses = (node.total_bytes, node.weight_bytes, node.kv_bytes, node.page_cache_bytes)
            other = node.arena_bytes + node.other_bytes
            shown.add_row(str(node.node), *map(human_bytes, (*uses, other, node.free_bytes)))
        yield shown


def _flow(status: Status) -> Text:
    flow = status.flow
    facts = [*_step(flow), f"{flow.running} running, {flow.queued} queued, {flow.rejected} rejected"]
    facts.append(f"prompts {flow.prefill_rate:.1f}/s, answers {flow.decode_rate:.1f}/s")
    if flow.HasField("first_token_seconds"):
        facts.append(f"first token {human_time(flow.first_token_seconds)}")
    if flow.HasField("between_tokens_seconds"):
        facts.append(f"between tokens {human_time(flow.between_tokens_seconds)}")
    blocks = f"{flow.kv_blocks_used} of {flow.kv_blocks} KV blocks"
    facts.append(f"{blocks}, {flow.kv_blocks_reserved} reserved, {flow.kv_blocks_cached} cached")
    return Text("; ".join(facts))


def _step(flow: FlowStatus) -> Iterator[str]:
    """Why no step may have ended lately: there is nothing to do, or one takes long."""
    if flow.HasField("step_age") and flow.step_age >= LONG_STEP_SECONDS:
        yield f"step running for {human_time(flow.step_age)}"
    elif not flow.running and not flow.queued:
        yield "idle"


def _requests(status: Status) -> RenderableType:
    left = len(status.requests) - SHOWN_REQUESTS
    title = "open requests" if left <= 0 else f"open requests, {left} more are not shown"
    shown = ruled_table(title, "id", "client", "phase", "prompt", "answer", "speed", "age")
    for request in status.requests[:SHOWN_REQUESTS]:
        shown.add_row(harmless(request.id), harmless(request.client), request.phase, *_progress(request))
    return shown


def _progress(request: RequestStatus) -> tuple[str, ...]:
    return (
        f"{request.prompt_done} of {request.prompt_tokens}",
        f"{request.tokens} of {request.most_tokens}",
        f"{request.rate:.1f}/s" if request.HasField("rate") else "-",
        human_time(request.age),
    )


def _share(value: float) -> str:
    return f"{100 * value:.0f} %"
