"""A siege from beginning to end: the service, the honest client alone and beside the hostile ones, and what is left."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import psutil  # type: ignore[import-untyped]

from tests.system.clients import connected
from tests.system.serve_process import PATIENCE_SECONDS, ServeProcess, end_well
from tests.system.siege import http_attacks  # noqa: F401  registers its attacks
from tests.system.siege.attacks import ATTACKS
from tests.system.siege.honest import Diary, HonestClient, percentile

ALONE_SECONDS = 20.0  # before the siege, and again after it
MOST_GROWTH = 512 << 20  # bytes of the coordinator's memory: messages of 15 MB leave arenas of the allocator behind
MOST_SLOWDOWN = 2.0
MOST_NEW_DESCRIPTORS = 20  # of the coordinator, from before to after: gRPC keeps some of its own


@dataclass(frozen=True, slots=True)
class Campaign:
    """What is done."""

    seconds: float  # at least; each attack is over once, however slow the machine
    seed: int = 0
    attacks: tuple[str, ...] = ()  # names; none: all


@dataclass(slots=True)
class Report:
    """What was measured, and what should not have been."""

    alone: Diary
    besieged: Diary
    after: Diary
    outcomes: dict[str, dict[str, int]]
    descriptors: tuple[int, int]  # before and after
    memory: tuple[int, int]  # bytes, before and after
    faults: list[str] = field(default_factory=list)

    @property
    def slowdown(self) -> float:
        """The median time between tokens beside the hostile clients, in units of that alone."""
        return median(self.besieged.gaps) / median(self.alone.gaps)

    def __str__(self) -> str:
        columns = (
            "answers",
            "refusals",
            "gap p50 ms",
            "p99",
            "longest",
            "first s p50",
            "p99",
            "health p50 ms",
            "longest",
            "HTTP p50 ms",
            "longest",
        )
        lines = [f"{'':10}" + "".join(f"{name:>14}" for name in (*columns, "late"))]
        for name in ("alone", "besieged", "after"):
            diary: Diary = getattr(self, name)
            gap = [1e3 * percentile(diary.gaps, share) for share in (0.5, 0.99, 1.0)]
            first = [percentile(diary.first, share) for share in (0.5, 0.99)]
            health = [1e3 * percentile(times, share) for times in (diary.health, diary.http) for share in (0.5, 1.0)]
            counts = f"{diary.answers:14}{diary.refusals:14}"
            times = f"{gap[0]:14.2f}{gap[1]:14.0f}{gap[2]:14.0f}{first[0]:14.2f}{first[1]:14.2f}"
            probes = "".join(f"{one:14.1f}" for one in health)
            lines.append(f"{name:10}{counts}{times}{probes}{diary.late:14}")
        lines.append(
            f"coordinator: descriptors {self.descriptors}, memory {[value >> 20 for value in self.memory]} MiB"
        )
        lines += [f"{name:18} {counts}" for name, counts in self.outcomes.items()]
        lines.append(f"median gap besieged / alone: {self.slowdown:.2f}, must be less than {MOST_SLOWDOWN}")
        return "\n".join([*lines, *(f"FAULT: {fault}" for fault in self.faults or ["none"])])


async def besiege(log: Path, campaign: Campaign) -> Report:
    """Serve the demo model, and do all of it."""
    server = await asyncio.to_thread(ServeProcess, log, "--address", "127.0.0.1:0")
    try:
        report = await _besiege(server, campaign)
    finally:
        faults = await asyncio.to_thread(end_well, server)
    report.faults += faults
    return report


async def _besiege(server: ServeProcess, campaign: Campaign) -> Report:
    coordinator = psutil.Process(server.process.pid)
    async with connected(server.address) as client:
        honest = HonestClient(client.channel, server.address, server.http)
        await honest.learn()
        alone = await honest.live(ALONE_SECONDS)
        before = coordinator.num_fds(), coordinator.memory_info().rss
        async with _hostile_clients(server, campaign) as hostile:
            besieged = await honest.live(campaign.seconds, hostile.each_over)
        after = await honest.live(ALONE_SECONDS)
        descriptors, memory = coordinator.num_fds(), coordinator.memory_info().rss
    report = Report(alone, besieged, after, hostile.outcomes, (before[0], descriptors), (before[1], memory))
    report.faults += _faults(report)
    return report


@dataclass(slots=True)
class _Hostile:
    """The process of the hostile clients."""

    each_over: asyncio.Task[bytes]  # ends once each attack was over, or the process is
    outcomes: dict[str, dict[str, int]] = field(default_factory=dict)  # of their attacks, known after their end


@asynccontextmanager
async def _hostile_clients(server: ServeProcess, campaign: Campaign) -> AsyncIterator[_Hostile]:
    """Their process, for the length of a block."""
    command = [sys.executable, "-m", "tests.system.siege.hostile", server.address, server.http, str(campaign.seed)]
    process = await asyncio.create_subprocess_exec(
        *command, *campaign.attacks, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdin is not None
    assert await process.stdout.readline() == b"begun\n"
    hostile = _Hostile(asyncio.create_task(process.stdout.readline()))
    try:
        yield hostile
    finally:
        process.stdin.close()
        hostile.each_over.cancel()
        hostile.outcomes = json.loads(await asyncio.wait_for(process.stdout.read(), PATIENCE_SECONDS))
        await process.wait()


def _faults(report: Report) -> list[str]:
    """What was measured and should not have been."""
    faults = [
        f"{name}: {outcome} ({count} times)"
        for name, counts in report.outcomes.items()
        for outcome, count in counts.items()
        if outcome not in ATTACKS[name][1]
    ]
    faults += [f"{name} was never over" for name, counts in report.outcomes.items() if not counts]
    for name, diary in (("alone", report.alone), ("besieged", report.besieged), ("after", report.after)):
        faults += [f"{name}: {told}" for told in (*diary.different, *diary.failures)]
        faults += [f"{name}: no answer"] * (diary.answers == 0)
    faults += [f"descriptors went from {report.descriptors[0]} to {report.descriptors[1]}"] * (
        report.descriptors[1] - report.descriptors[0] > MOST_NEW_DESCRIPTORS
    )
    growth = report.memory[1] - report.memory[0]
    faults += [f"the coordinator's memory grew by {growth >> 20} MiB"] * (growth > MOST_GROWTH)
    return faults
