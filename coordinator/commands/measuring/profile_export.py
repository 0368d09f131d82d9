"""A profile as a page that needs nothing else, and its last step in Chrome's trace format."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from numoe.coordinator.commands.measuring.profile_tables import place_of, profile_facts
from numoe.protos.profile import GROUPS, PHASES, Profile

PAGE = Path(__file__).with_name("profile.html")
DATA = "{}<!-- data -->"  # in the page, where the profile goes
WAIT_KINDS = ("waiting for threads", "waiting for workers")
_GROUP_OF = {phase: group for group, phases in GROUPS.items() for phase in phases}


class Span(NamedTuple):
    """What one thread does for a while."""

    worker: int
    thread: int
    phase: str
    layer: int | None  # None: of no layer
    kind: str  # the phase's group, or one of WAIT_KINDS, then after the phase
    start: int  # nanoseconds from the step's first moment
    end: int


def spans_of(profile: Profile) -> Iterator[Span]:
    """The time line of the last step: every thread's spans in order, those of no length left out."""
    first = min((int(worker.events[:, 2].min()) for worker in profile.workers if len(worker.events)), default=0)
    for worker in profile.workers:
        for thread, cell, *times in worker.events.tolist():
            layer, phase = divmod(cell, len(PHASES))
            kinds = (_GROUP_OF[PHASES[phase]], *WAIT_KINDS)
            for kind, start, end in zip(kinds, times, times[1:], strict=False):
                if end > start:
                    own = layer if layer < profile.layers else None
                    yield Span(worker.worker, thread, PHASES[phase], own, kind, start - first, end - first)


def trace_of(title: str, profile: Profile) -> str:
    """The time line as trace events: a process for each worker, times in microseconds."""
    events: list[dict[str, Any]] = []
    for worker in profile.workers:
        named = {"name": place_of(worker)}
        events.append({"ph": "M", "name": "process_name", "pid": worker.worker, "args": named})
        for thread in range(len(worker.inside)):
            name = {"name": f"thread {thread}"}
            events.append({"ph": "M", "name": "thread_name", "pid": worker.worker, "tid": thread, "args": name})
    for span in spans_of(profile):
        events.append(
            {
                "ph": "X",
                "name": span.kind if span.kind in WAIT_KINDS else span.phase,
                "cat": span.kind,
                "pid": span.worker,
                "tid": span.thread,
                "ts": span.start / 1e3,
                "dur": (span.end - span.start) / 1e3,
                "args": {"layer": span.layer, "phase": span.phase},
            }
        )
    return json.dumps({"traceEvents": events, "displayTimeUnit": "ns", "otherData": {"title": title}})


def page_of(title: str, profile: Profile) -> str:
    """The page, with the profile in it; text of the model's file cannot become markup there."""
    kinds = [*GROUPS, *WAIT_KINDS]
    threads = [[worker.worker, thread] for worker in profile.workers for thread in range(len(worker.inside))]
    rows = {(worker, thread): number for number, (worker, thread) in enumerate(threads)}
    data = {
        **profile_facts(title, profile),
        "phases": PHASES,
        "kinds": kinds,
        "rows": threads,
        "spans": [
            [
                rows[span.worker, span.thread],
                kinds.index(span.kind),
                PHASES.index(span.phase),
                -1 if span.layer is None else span.layer,
                span.start,
                span.end,
            ]
            for span in spans_of(profile)
        ],
    }
    return PAGE.read_text(encoding="utf-8").replace(DATA, json.dumps(data).replace("<", "\\u003c"))
