"""What `numoe status` and `numoe top` show: the service in a line, its workers, memory, flow and open requests."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.text import Text

from numoe.coordinator.commands.tables.figures import human_bytes, human_count, human_time, ruled_table
from numoe.protos.foreign_text import harmless
from numoe.v1.operations_pb2 import FlowStatus, RequestStatus, ServiceState, ServiceStatus, Status, WorkerStatus
from numoe.v1.placement_pb2 import WorkerState

SHOWN_REQUESTS = 20
LONG_STEP_SECONDS = 2.0  # of a step that is told of while it runs; one of a long prompt takes that on a large model
STATE_STYLES = {"serving": "bold green", "restarting": "bold red", "draining": "bold yellow", "stopped": "bold red"}
WORKER_STYLES = {"ready": "green", "lost": "bold red"}


def describe_status(status: Status) -> RenderableType:
    """All of it, for a terminal."""
    parts: list[RenderableType] = [_headline(status), _flow(status), *_workers(status), _memory(status)]
    if status.requests:
        parts.append(_requests(status))
    for worker in status.workers:
        if worker.problem:
            parts.append(Text(f"Worker {worker.worker}: {harmless(worker.problem)}.", "yellow"))
    for finding in status.findings:
        if finding.level in ("problem", "warning"):
            parts.append(Text(f"{finding.level}: {harmless(finding.subject)}: {harmless(finding.found)}", "yellow"))
    return Group(*parts)


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
    work = ruled_table("workers", "worker", "node", "CPUs", "state", "fill", "GB/s", "step", "waiting")
    place = ruled_table("where they are", "worker", "pid", "off node", "threads off", "KV used", "seen")
    for worker in status.workers:
        state = WorkerState.Name(worker.state).removeprefix("WORKER_STATE_").lower()
        work.add_row(
            str(worker.worker),
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


def _memory(status: Status) -> RenderableType:
    shown = ruled_table("memory", "node", "all", "weights", "KV", "page cache", "other", "free")
    for host in status.hosts:
        for node in host.nodes:
            uses = (node.total_bytes, node.weight_bytes, node.kv_bytes, node.page_cache_bytes)
            other = node.arena_bytes + node.other_bytes
            shown.add_row(str(node.node), *map(human_bytes, (*uses, other, node.free_bytes)))
    return shown


def _flow(status: Status) -> Text:
    flow = status.flow
    facts = [*_step(flow), f"{flow.running} running, {flow.queued} queued, {flow.rejected} rejected"]
    facts.append(f"prompts {flow.prefill_rate:.1f}/s, answers {flow.decode_rate:.1f}/s")
    if flow.HasField("first_token_seconds"):
        facts.append(f"first token {human_time(flow.first_token_seconds)}")
    if flow.HasField("between_tokens_seconds"):
        facts.append(f"between tokens {human_time(flow.between_tokens_seconds)}")
    facts.append(f"{flow.kv_blocks_used} of {flow.kv_blocks} KV blocks, {flow.kv_blocks_reserved} reserved")
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
