"""Thousands of malformed bodies to all routes: none is a failure of ours, none is answered late."""

from __future__ import annotations

import json
import os
import random
import time
from collections import Counter
from dataclasses import dataclass, field

from tests.coordinator.api.http.http_client import Kept, Reply
from tests.coordinator.api.http.malformed_bodies import ACTIONS, GRAMMAR_FIELDS, VALID, malformed
from tests.system.endurance.asking import DOORS, Told, asking, pool
from tests.system.endurance.report import spread, table, verdict
from tests.system.endurance.service import Service

# A body that lost its limit is answered with as many tokens as the context holds; one so short is full in no time.
SERVE_FLAGS = ("--context-tokens", "256")
PATHS = VALID | ACTIONS
GENERATING = ("/v1/chat/completions", "/v1/completions", "/v1/messages")
MOST_SECONDS = 0.25  # to an answer, beside what its tokens and a grammar may take
# Some ten times what a token takes on two cores with nothing else to do, by where it stands: in a prompt, in an answer,
# in what /tokenize tells, up to a million of them.
TOKEN_SECONDS = {"prompt": 0.01, "answer": 0.05, "told": 5e-6}
COMPILE_SECONDS = 1.0  # that a grammar may take, which harms nobody else: constraints/guides.py
_TOKENS = {
    "prompt_tokens": "prompt",
    "completion_tokens": "answer",
    "input_tokens": "prompt",
    "output_tokens": "answer",
}
TRIES = 10  # of a body that was answered late: it is the body's fault if each of them is late, else the machine's
HONEST_EVERY = 500  # bodies
STATUSES = {200, 202, 400, 404, 409, 413}
PATIENCE_SECONDS = 120.0
SAID_BYTES = 300  # of a body at fault


@dataclass(frozen=True, slots=True)
class Late:
    """A body that was answered late."""

    path: str
    body: bytes
    status: int
    seconds: tuple[float, ...]  # of all tries, beside what tokens and a grammar may take
    load: float  # processes at work on the machine, over the last minute

    @property
    def always(self) -> bool:
        return min(self.seconds) > MOST_SECONDS

    def __str__(self) -> str:
        tries = ", ".join(f"{1e3 * one:.0f}" for one in self.seconds)
        return f"{tries} ms, {self.status}, load {self.load:.0f}: {_said(self.path, self.body)}"


@dataclass(slots=True)
class Tally:
    """What came of the bodies to one path."""

    seconds: list[float] = field(default_factory=list)  # to each answer, with all its work
    tokens: int = 0
    statuses: Counter[int] = field(default_factory=Counter)


@dataclass(slots=True)
class Report:
    """What was measured, and what should not have been."""

    tallies: dict[str, Tally] = field(default_factory=lambda: {path: Tally() for path in PATHS})
    late: list[Late] = field(default_factory=list)
    honest: int = 0  # answers in between, all of them right
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        rows = [self._row(path, [one]) for path, one in self.tallies.items()]
        late = [f"{'always' if one.always else 'not always'} late: {one}" for one in self.late]
        return "\n".join(
            (
                table(
                    ("path", "bodies", "p50 ms", "p99", "p99.9", "longest", "drawn", "statuses"),
                    [*rows, self._row("all", list(self.tallies.values()))],
                ),
                *late,
                f"{len(late)} answers later than {1e3 * MOST_SECONDS:.0f} ms; {self.honest} honest answers in between",
                verdict(self.faults),
            )
        )

    @staticmethod
    def _row(name: str, tallies: list[Tally]) -> list[object]:
        seconds = [one for tally in tallies for one in tally.seconds]
        statuses: Counter[int] = sum((tally.statuses for tally in tallies), Counter())
        told = " ".join(f"{status}: {count}" for status, count in sorted(statuses.items()))
        shares = spread(seconds, (0.5, 0.99, 0.999, 1.0))
        return [name, len(seconds), *shares, sum(tally.tokens for tally in tallies), told]


async def malform(service: Service, count: int, seed: int = 0) -> Report:
    """Send so many bodies in all, path by path in turn."""
    report, chosen = Report(), random.Random(seed)
    paths = list(PATHS)
    client = Kept(service.server.http, PATIENCE_SECONDS)
    expected = await _honest(service)
    for number in range(count):
        path = paths[number % len(paths)]
        await _send(client, path, malformed(PATHS[path], chosen), report)
        if number % HONEST_EVERY == 0:
            report.faults += ["an honest answer was another"] * (await _honest(service) != expected)
            report.honest += 1
    client.close()
    report.faults += await service.idle_faults()
    report.faults += [f"always late: {one}" for one in report.late if one.always]
    return report


async def _send(client: Kept, path: str, body: bytes, report: Report) -> None:
    tally, seconds, first, status = report.tallies[path], list[float](), 0.0, 0
    while not seconds or (len(seconds) < TRIES and seconds[-1] > MOST_SECONDS):
        began = time.monotonic()
        try:
            reply = await client.ask(path, "POST", body, content_type="application/json")
        except Exception as error:  # whatever it is: there was no answer
            report.faults.append(f"not answered, {error!r}: {_said(path, body)}")
            return
        took, status = time.monotonic() - began, reply.status
        first = first or took
        tokens = _tokens_of(reply)
        work = sum(count * TOKEN_SECONDS[place] for place, count in tokens.items())
        seconds.append(took - work - COMPILE_SECONDS * _has_grammar(path, body, reply))
        if status not in STATUSES or b"incident" in reply.body:
            report.faults.append(f"{status} {reply.body[:SAID_BYTES]!r}: {_said(path, body)}")
    tally.seconds.append(first)
    tally.tokens += tokens["answer"]
    tally.statuses[status] += 1
    if len(seconds) > 1:
        report.late.append(Late(path, body, status, tuple(seconds), os.getloadavg()[0]))


def _tokens_of(reply: Reply) -> Counter[str]:
    """That took their time, by TOKEN_SECONDS; of an answer in pieces they are as many as these, at most."""
    if reply.headers.get("content-type", "").startswith("text/event-stream"):
        return Counter(answer=reply.body.count(b"\n\n"))
    if reply.status != 200:
        return Counter()
    said = json.loads(reply.body)
    counted = Counter(told=len(said.get("tokens", ())))
    for name, count in said.get("usage", {}).items():
        if name in _TOKENS:
            counted[_TOKENS[name]] += count
    return counted


def _has_grammar(path: str, body: bytes, reply: Reply) -> bool:
    """Whether one was compiled: where text is generated, and the answer has its form or tells what is wrong with it."""
    named = any(f'"{name}"'.encode() in body for name in GRAMMAR_FIELDS)
    return path in GENERATING and named and (reply.status == 200 or b"grammar" in reply.body)


async def _honest(service: Service) -> list[Told]:
    """What the shortest questions of the pool are answered, over each door."""
    question = min(pool(), key=lambda one: len(one.prompt))
    told = []
    for door in DOORS:
        async with asking(service, door) as ask:
            told.append(await ask(question))
    return told


def _said(path: str, body: bytes) -> str:
    return f"{path} {body[:SAID_BYTES]!r} of {len(body)} bytes"
