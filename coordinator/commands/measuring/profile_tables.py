"""A profile as tables for a terminal, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from numoe.coordinator.commands.tables.figures import human_count, human_time, ruled_table
from numoe.coordinator.profiling.figures import (
    PhaseShare,
    accounted,
    accounted_of_all,
    grouped_phases,
    hosts_at_work,
    layer_times,
    outside_steps,
    peak_of,
    phase_shares,
    read_rate,
    single_phases,
    step_seconds,
    thread_imbalance,
)
from numoe.protos.foreign_text import harmless
from numoe.protos.profile import FOR_THREADS, FOR_WORKERS, GROUPS, WORK, Profile, WorkerProfile

TIMES = "ms a step of work, waiting for its threads, and for other workers"
SHOWN_LAYERS = 8  # of those in which threads differ most
SHOWN_THREADS = 16  # of a worker; of more, those that work least and most


def describe_profile(title: str, profile: Profile) -> RenderableType:
    """All of it, for a terminal."""
    parts: list[RenderableType] = [Text(line) for line in _headlines(title, profile)]
    parts += [_phase_table(worker, profile) for worker in profile.workers]
    parts += [_thread_table(profile), _layer_table(profile)]
    parts += [Text(line) for line in _remarks(profile)]
    return Group(*parts)


def _headlines(title: str, profile: Profile) -> Iterator[str]:
    rate, peak = read_rate(profile), peak_of(profile)
    step = profile.seconds / profile.steps
    yield harmless(title)
    size = f"{human_count(profile.steps, 'step')} of {profile.tokens / profile.steps:.1f} tokens"
    yield f"{size}, {human_time(step)} each: {profile.tokens / profile.seconds:.1f} tokens/s"
    fill = f", {rate / peak:.0%} of {peak / 1e9:.1f} GB/s ({harmless(profile.peak_source)})" if peak else ""
    at_once, hosts = hosts_at_work(profile)
    if hosts > 1:
        yield f"hosts at work at once: {at_once:.2f} of {hosts}, as a mean"
    yield f"read {rate / 1e9:.1f} GB/s{fill}; phases and waits are {accounted_of_all(profile):.1%} of steps' time"


def _phase_table(worker: WorkerProfile, profile: Profile) -> Table:
    threads = human_count(len(worker.inside), "thread")
    title = f"{place_of(worker)}, mean of {threads}: {TIMES}"
    headings = ("phase", "work", "threads", "workers", "share", "GB/s", "fill", "skew")
    table = ruled_table(title, *headings, named_rows=True)
    table.pad_edge = False  # so that it fits into 80 columns
    total = profile.seconds / profile.steps
    groups = phase_shares(worker, profile.steps, grouped_phases())
    for group in groups:
        if group.seconds:
            table.add_row(*_cells(group.name, group, total, worker.peak), style="bold")
            singles = phase_shares(worker, profile.steps, single_phases(GROUPS[group.name]))
            if len(singles) > 1:
                for single in singles:
                    if single.seconds:
                        table.add_row(*_cells(f" {single.name}", single, total, worker.peak))
    table.add_section()
    whole = phase_shares(worker, profile.steps, [("step", tuple(one for group in GROUPS.values() for one in group))])[0]
    table.add_row(*_cells("step", whole, total, worker.peak), style="bold")
    pause = outside_steps(worker, profile)
    table.add_row("between steps", "", "", _milliseconds(pause), f"{pause / total:.0%}", "", "", "")
    return table


def place_of(worker: WorkerProfile) -> str:
    """Which worker it is, and where it runs."""
    host = f", {harmless(worker.host)}" if worker.host else ""
    return f"worker {worker.worker}{host}, node {worker.node}"


def _cells(name: str, share: PhaseShare, total: float, peak: float) -> tuple[str, ...]:
    rate = share.read_rate
    return (
        name,
        _milliseconds(share.work),
        _milliseconds(share.for_threads),
        _milliseconds(share.for_workers),
        f"{share.seconds / total:.0%}",
        "" if rate is None else f"{rate / 1e9:.1f}",
        "" if rate is None or not peak else f"{rate / peak:.0%}",
        f"{share.imbalance:.0%}",
    )


def _thread_table(profile: Profile) -> Table:
    headings = ("thread", "work", "threads", "workers", "accounted")
    table = ruled_table(f"threads: {TIMES}", *headings, named_rows=True)
    for worker in profile.workers:
        sums, shares = worker.cells.sum(axis=(1, 2)) / 1e6 / profile.steps, accounted(worker)
        order = sums[:, WORK].argsort().tolist()
        half = SHOWN_THREADS // 2
        shown = range(len(order)) if len(order) <= SHOWN_THREADS else [*order[:half], *order[-half:]]
        for thread in shown:
            times = (f"{sums[thread, kind]:.3f}" for kind in (WORK, FOR_THREADS, FOR_WORKERS))
            table.add_row(f"{worker.worker}.{thread}", *times, f"{shares[thread]:.1%}")
    return table


def _layer_table(profile: Profile) -> Table:
    times = layer_times(profile)
    over = times[:, 1] / times[:, 0].clip(min=1e-12) - 1
    title = f"layers in which threads differ most, of {profile.layers}, ms a step"
    table = ruled_table(title, "layer", "mean work", "longest work", "skew", "mean waiting", named_rows=True)
    for layer in (-over).argsort(kind="stable")[:SHOWN_LAYERS].tolist():
        mean, longest, waiting = times[layer].tolist()
        table.add_row(
            str(layer), _milliseconds(mean), _milliseconds(longest), f"{over[layer]:.0%}", _milliseconds(waiting)
        )
    mean, longest, waiting = times.mean(axis=0).tolist()
    table.add_section()
    table.add_row("mean", _milliseconds(mean), _milliseconds(longest), f"{over.mean():.0%}", _milliseconds(waiting))
    return table


def _remarks(profile: Profile) -> Iterator[str]:
    for worker in profile.workers:
        if worker.instructions is not None and worker.cycles:
            yield f"worker {worker.worker}: {worker.instructions / worker.cycles:.2f} instructions per cycle"
        if worker.remote_loads is not None and worker.local_loads is not None:
            loads = max(1, worker.remote_loads + worker.local_loads)
            yield f"worker {worker.worker}: {worker.remote_loads / loads:.1%} of its loads from memory are other nodes'"
    for cache in profile.traffic:
        local, remote = (one / 1e9 / profile.seconds for one in (cache.local, cache.remote))
        yield f"{harmless(cache.domain)}, all programs: {local:.1f} GB/s of its own node, {remote:.1f} GB/s of others"
    yield from map(harmless, profile.remarks)


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.3f}"


def profile_json(title: str, profile: Profile) -> str:
    """All of it as JSON: seconds of a step, bytes per second, shares of 1."""
    return json.dumps(profile_facts(title, profile), indent=2, ensure_ascii=False) + "\n"


def profile_facts(title: str, profile: Profile) -> dict[str, Any]:
    """The figures by name."""
    rate, peak = read_rate(profile), peak_of(profile)
    return {
        "title": title,
        "steps": profile.steps,
        "tokens": profile.tokens,
        "seconds": profile.seconds,
        "tokens_per_second": profile.tokens / profile.seconds,
        "bytes_per_second": rate,
        "peak_bytes_per_second": peak,
        "fill": rate / peak if peak else None,
        "peak_source": profile.peak_source,
        "accounted": accounted_of_all(profile),
        "hosts_at_work": hosts_at_work(profile)[0],
        "workers": [_worker_facts(worker, profile) for worker in profile.workers],
        "layers": [
            dict(zip(("mean_work", "longest_work", "mean_waiting"), times, strict=True))
            for times in layer_times(profile).tolist()
        ],
        "traffic": [{"domain": one.domain, "local": one.local, "remote": one.remote} for one in profile.traffic],
        "remarks": list(profile.remarks),
    }


def _worker_facts(worker: WorkerProfile, profile: Profile) -> dict[str, Any]:
    steps = profile.steps
    sums, shares = worker.cells.sum(axis=(1, 2)) / 1e9 / steps, accounted(worker)
    return {
        "worker": worker.worker,
        "host": worker.host,
        "node": worker.node,
        "step_seconds": step_seconds(worker, steps),
        "between_steps": outside_steps(worker, profile),
        "peak_bytes_per_second": worker.peak,
        "imbalance": thread_imbalance(worker),
        "instructions": worker.instructions,
        "cycles": worker.cycles,
        "local_loads": worker.local_loads,
        "remote_loads": worker.remote_loads,
        "groups": [_share_facts(share) for share in phase_shares(worker, steps, grouped_phases())],
        "phases": [
            {**_share_facts(share), "group": group}
            for group, phases in GROUPS.items()
            for share in phase_shares(worker, steps, single_phases(phases))
        ],
        "threads": [
            {
                "work": sums[thread, WORK],
                "waiting_for_threads": sums[thread, FOR_THREADS],
                "waiting_for_workers": sums[thread, FOR_WORKERS],
                "accounted": float(shares[thread]),
            }
            for thread in range(len(sums))
        ],
    }


def _share_facts(share: PhaseShare) -> dict[str, Any]:
    return {
        "name": share.name,
        "work": share.work,
        "waiting_for_threads": share.for_threads,
        "waiting_for_workers": share.for_workers,
        "weight_bytes": share.weight_bytes,
        "kv_bytes": share.kv_bytes,
        "bytes_per_second": share.read_rate,
        "imbalance": share.imbalance,
    }
