"""Many streams for long: every answer that of an undisturbed service, and nothing that grows."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field

from tests.system.endurance.asking import DOORS, Question, Told, asking, pool
from tests.system.endurance.report import spread, table, verdict
from tests.system.endurance.service import Holdings, Service

# Fewer blocks than 32 requests want: some give theirs back and are run again, and cached ones are taken over.
SERVE_FLAGS = ("--context-tokens", "4096", "--kv-tokens", "8192")
FIRST_SHARE = 1 / 3  # of the time, after which memory is looked at first: what is made once has been made then
# Bytes. Of thousands of answers a leak of some KB each passes them. Arenas of an allocator that threads share by chance
# come and go with 2 to 10 MiB, as measured from one look to the next.
MOST_GROWTH = {"coordinator": 32 << 20, "workers": 16 << 20}
MOST_SAID = 1000  # characters of a fault
MOST_NEW_DESCRIPTORS = 4  # of the coordinator: gRPC polls with more as more threads of it are at work at once


@dataclass(slots=True)
class Counts:
    """What came through one door."""

    answers: int = 0
    tokens: int = 0
    seconds: list[float] = field(default_factory=list)  # of each answer
    faults: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Report:
    """What was measured, and what should not have been."""

    streams: int
    seconds: float = 0.0
    doors: dict[str, Counts] = field(default_factory=dict)
    looks: list[Holdings] = field(default_factory=list)  # while nothing was asked: after the first part, and at last
    preemptions: int = 0
    cached_tokens: int = 0
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        rows = [[name, one.answers, one.tokens, *spread(one.seconds)] for name, one in self.doors.items()]
        tokens = sum(one.tokens for one in self.doors.values())
        held = [[place, *(getattr(look, place) >> 20 for look in self.looks)] for place in MOST_GROWTH]
        return "\n".join(
            (
                f"{self.streams} streams for {self.seconds:.0f} s: {tokens / self.seconds:.0f} tokens/s",
                f"{self.preemptions} preemptions, {self.cached_tokens} tokens of prompts were cached",
                table(("door", "answers", "tokens", "p50 ms", "p99", "longest"), rows),
                table(("MiB", "after a third", "after all"), held),
                f"descriptors of the coordinator: {[look.descriptors for look in self.looks]}",
                verdict(self.faults),
            )
        )


async def soak(service: Service, streams: int, seconds: float, seed: int = 0) -> Report:
    """So many streams, half of them through each door."""
    report, questions = Report(streams), pool(seed)
    expected = await _learn(service, questions)
    report.doors = {door: Counts() for door in DOORS}
    clients = [(DOORS[number % 2], random.Random(f"{seed} {number}")) for number in range(streams)]
    began = time.monotonic()
    for until in (FIRST_SHARE * seconds, seconds):
        lives = [
            _live(service, door, questions, expected[door], began + until, chosen, report.doors[door])
            for door, chosen in clients
        ]
        await asyncio.gather(*lives)
        report.faults += await service.idle_faults()
        report.looks.append(service.holdings())
    report.seconds = time.monotonic() - began
    flow = (await service.status()).flow
    report.preemptions, report.cached_tokens = flow.preemptions, flow.cached_tokens
    report.faults += [fault for one in report.doors.values() for fault in one.faults] + _grown(report)
    return report


async def _learn(service: Service, questions: list[Question]) -> dict[str, list[Told]]:
    """What each question is answered through each door while nothing else is asked."""
    told = {}
    for door in DOORS:
        async with asking(service, door) as ask:
            told[door] = [await ask(question) for question in questions]
    of_grpc, of_http = ([(one.text, one.logprobs) for one in answers] for answers in told.values())
    assert of_grpc == of_http, "the doors tell different answers"
    return told


async def _live(
    service: Service,
    door: str,
    questions: list[Question],
    expected: list[Told],
    end: float,
    chosen: random.Random,
    counts: Counts,
) -> None:
    """One stream after the other until the time is over; the last that has begun is read to its end."""
    async with asking(service, door) as ask:
        while (asked := time.monotonic()) < end:
            number = chosen.randrange(len(questions))
            try:
                told = await ask(questions[number])
            except Exception as error:  # whatever it is: an honest request failed
                counts.faults.append(f"question {number} failed: {error!r}"[:MOST_SAID])
                continue
            counts.seconds.append(time.monotonic() - asked)
            counts.answers += 1
            counts.tokens += len(told.tokens)
            if told != expected[number]:
                counts.faults.append(f"question {number} was answered {told}, not {expected[number]}"[:MOST_SAID])


def _grown(report: Report) -> list[str]:
    first, last = report.looks[0], report.looks[-1]
    faults = [
        f"the memory of {place} grew by {growth >> 20} MiB"
        for place, most in MOST_GROWTH.items()
        if (growth := getattr(last, place) - getattr(first, place)) > most
    ]
    if last.descriptors > first.descriptors + MOST_NEW_DESCRIPTORS:
        faults.append(f"descriptors went from {first.descriptors} to {last.descriptors}")
    return faults + [f"nobody was answered over {door}" for door, one in report.doors.items() if not one.answers]
