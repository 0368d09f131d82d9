"""A thousand requests given up at any moment of their life, beside an honest client who must not notice."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from numoe.v1.operations_pb2 import Status
from tests.system.clients import ask
from tests.system.endurance.report import spread, table, verdict
from tests.system.endurance.service import BACK_SECONDS, LOOK_SECONDS, Service
from tests.system.endurance.victims import Victim, give_up, make_victim
from tests.system.serve_process import PATIENCE_SECONDS

SEQUENCES = 4  # so that half of a round waits in the queue
MOST_AT_ONCE = 8
START_SECONDS = 0.1  # in which a round begins
SERVE_FLAGS = (
    *("--workers", "1", "--threads-per-worker", "1", "--sequences", str(SEQUENCES)),
    *("--context-tokens", "8192", "--kv-tokens", "65536"),
)
BLOCK_TOKENS = 64
HONEST_TOKENS = 200
HONEST_BLOCKS = -(-(3 + HONEST_TOKENS) // BLOCK_TOKENS)  # that an honest request holds at most
OUTCOMES = {"cancelled", "aborted", "deadline_exceeded"}
MOST_SAID = 1000  # characters of a fault
PHASES = ("unheard", "queue", "prefill", "decode")


@dataclass(slots=True)
class Honest:
    """The client who must not notice, and by whose tokens the service's steps can be told."""

    answers: int = 0
    different: list[str] = field(default_factory=list)
    gaps: list[tuple[float, float]] = field(default_factory=list)  # Unix time of a token, and seconds since the last
    last_at: float = 0.0

    async def live(self, service: Service, over: asyncio.Event) -> None:
        """Ask the same again and again."""
        expected = await service.client.tokens(ask(HONEST_TOKENS))
        while not over.is_set():
            stream = service.client.stream(ask(HONEST_TOKENS))
            self.last_at = time.time()
            while len(stream.tokens) < HONEST_TOKENS:
                await stream.first_tokens(len(stream.tokens) + 1)
                now = time.time()
                self.gaps.append((now, now - self.last_at))
                self.last_at = now
            if (told := await stream.finish()) != expected:
                self.different.append(f"the honest client was told {told}, not {expected}")
            self.answers += 1

    def longest_since(self, at: float) -> float:
        """The longest wait for a token that was not over then: where others are at work, a step may take that long."""
        waits = [time.time() - self.last_at]
        for ended, gap in reversed(self.gaps):
            if ended < at:
                break
            waits.append(gap)
        return min(max(waits), PATIENCE_SECONDS)


@dataclass(slots=True)
class Report:
    """What was measured, and what should not have been."""

    ended: dict[tuple[str, str], list[float]] = field(default_factory=dict)  # seconds until, by way and phase
    slots: list[float] = field(default_factory=list)  # seconds from a round's last end to all slots free
    blocks: list[float] = field(default_factory=list)  # the same of KV blocks, by what is told once a second
    honest: Honest = field(default_factory=lambda: Honest())
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        ways = sorted({way for way, _ in self.ended})
        rows = []
        for way in ways:
            by_phase = {phase: self.ended.get((way, phase), []) for phase in PHASES}
            every = [seconds for name, found in by_phase.items() for seconds in found if name != "unheard"]
            rows.append([way, *map(len, by_phase.values()), *spread(every)])
        after = [["slots free", *spread(self.slots)], ["KV blocks free or cached", *spread(self.blocks)]]
        gaps = ["honest client's tokens", *spread([gap for _, gap in self.honest.gaps])]
        return "\n".join(
            (
                table(("given up", *PHASES, "ended after p50 ms", "p99", "longest"), rows),
                table(("after a round", "p50 ms", "p99", "longest"), [*after, gaps]),
                f"{self.honest.answers} answers to the honest client",
                verdict(self.faults),
            )
        )


async def cancel(service: Service, count: int, seed: int = 0) -> Report:
    """Have so many requests given up."""
    report, chosen = Report(), random.Random(seed)
    given_up: dict[str, tuple[Victim, float]] = {}
    over = asyncio.Event()
    honest = asyncio.create_task(report.honest.live(service, over))
    while len(given_up) < count:
        numbers = range(len(given_up), min(count, len(given_up) + chosen.randint(1, MOST_AT_ONCE)))
        await _round(service, [make_victim(number, chosen) for number in numbers], chosen, given_up, report)
    over.set()
    await honest
    report.faults += report.honest.different + await service.idle_faults()
    _read_ends(service.server.log, given_up, report)
    return report


async def _round(
    service: Service,
    victims: list[Victim],
    chosen: random.Random,
    given_up: dict[str, tuple[Victim, float]],
    report: Report,
) -> None:
    async def begin(victim: Victim, after_seconds: float) -> float:
        await asyncio.sleep(after_seconds)
        at = await give_up(service, victim)
        given_up[victim.id] = victim, at
        return at

    at = max(await asyncio.gather(*[begin(victim, chosen.uniform(0.0, START_SECONDS)) for victim in victims]))

    def is_late(now: float) -> bool:
        return now > at + BACK_SECONDS + report.honest.longest_since(at)

    while await service.working() > 1:
        if is_late(time.time()):
            report.faults.append(f"slots were taken {time.time() - at:.2f} s after {victims}"[:MOST_SAID])
            return
        await asyncio.sleep(LOOK_SECONDS / 10)
    report.slots.append(time.time() - at)
    while (status := await service.status()).now < at or (held := list(_held_beside_honest(status))):
        if is_late(status.now):
            report.faults.append(f"{held} {status.now - at:.2f} s after {victims}"[:MOST_SAID])
            return
        await asyncio.sleep(LOOK_SECONDS)
    report.blocks.append(status.now - at)


def _held_beside_honest(status: Status) -> Iterator[str]:
    """What is held beyond what one honest request may hold."""
    flow = status.flow
    if flow.running > 1:
        yield f"{flow.running} requests run"
    if flow.queued:
        yield f"{flow.queued} requests wait"
    if flow.kv_blocks_used > HONEST_BLOCKS:
        yield f"{flow.kv_blocks_used} KV blocks are used"


def _read_ends(log: str, given_up: dict[str, tuple[Victim, float]], report: Report) -> None:
    """How each ended and when, by the service's log; it knows nothing of those that it never heard of."""
    ends: dict[str, list[dict[str, Any]]] = {id: [] for id in given_up}
    for line in log.splitlines():
        told = json.loads(line)
        if told["event"] == "request_ended" and told["request"] in ends:
            ends[told["request"]].append(told)
    for id, found in ends.items():
        victim, at = given_up[id]
        phase = _phase(found[0]) if found else "unheard"
        seconds = datetime.fromisoformat(found[0]["timestamp"]).timestamp() - at if found else 0.0
        report.ended.setdefault((victim.way, phase), []).append(seconds)
        if len(found) > 1 or (found and found[0]["outcome"] not in OUTCOMES):
            report.faults.append(f"{victim.way} ended so: {found}")
        if seconds > BACK_SECONDS:
            report.faults.append(f"{victim.way} in {phase} ended {seconds:.2f} s after it was given up")


def _phase(end: dict[str, Any]) -> str:
    if end["generated_tokens"]:
        return "decode"
    return "prefill" if end["prefill_seconds"] else "queue"
