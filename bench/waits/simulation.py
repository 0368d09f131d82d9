"""A decode step of one worker, event by event: its threads, the cache lines that they write to, and what waiting costs.

A *line* is one of the words of kernels/threads/team.py. Who writes to it has it brought from the core that wrote last,
which takes what that distance takes, and nobody else can meanwhile; who reads it gets a copy, and the next reader can
ask a while later. Threads do what team.py and its like did before and do now (`Scheme`): they claim runs of items, work
on them, come to the barrier, and look for the word that lets them go.

*Not simulated*: what workers exchange, caches that are too small, and other programs.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Latencies:
    """Seconds of a line between two cores, and of an atomic operation on a line that a core has."""

    near: float  # both share the last-level cache
    far: float
    own: float = 5e-9
    copy_share: float = 0.25  # of the way, after which the next reader is served


@dataclass(frozen=True, slots=True)
class Scheme:
    """How threads wait and share work out."""

    together: int  # threads of a group with words of its own; 0: one word for all
    own_first: bool  # half of a phase's items are every thread's own
    tickets: bool  # runs are drawn, each once; else taken by comparing and swapping, which may fail
    shared_rounding: bool  # by all threads, each of which normalises; else by one
    chosen_by_last: bool  # a lone token's experts, by the last thread that comes to the router's barrier


BEFORE = Scheme(together=0, own_first=False, tickets=False, shared_rounding=False, chosen_by_last=False)
NOW = Scheme(together=8, own_first=True, tickets=True, shared_rounding=True, chosen_by_last=True)


@dataclass(frozen=True, slots=True)
class Phase:
    """Work that all threads share out, and then wait for each other."""

    seconds: float  # of all threads together, if they share it evenly: bytes over the bandwidth of all
    alone: float  # of one thread, while the others do nothing
    items: int  # claims; 0: none
    serial: float = 0.0  # seconds by one thread before, while all others wait: a phase with one item
    last: float = 0.0  # seconds by the last thread to come, before it lets the others go


class Line:
    """One cache line."""

    def __init__(self, step: SimulatedTeam) -> None:
        self._step, self._free = step, 0.0
        self._owner, self._readers = -1, {-1}
        self.value = 0

    def write(self, thread: int, now: float) -> float:
        """When a thread that asks for the line now has written to it."""
        start = max(now, self._free)
        alone = self._owner == thread and self._readers <= {thread}
        self._free = start + (self._step.latencies.own if alone else self._step.distance(self._owner, thread))
        self._owner, self._readers = thread, {thread}
        return self._free

    def read(self, thread: int, now: float) -> float:
        """When a thread that asks for the line now knows what is in it."""
        if thread in self._readers:
            return now
        start, way = max(now, self._free), self._step.distance(self._owner, thread)
        self._free = start + way * self._step.latencies.copy_share
        self._readers.add(thread)
        return start + way


@dataclass(slots=True)
class Lost:
    """Seconds of a step in which threads did not work, mean of all threads."""

    waiting: float = 0.0  # for others to come, or to be let go
    claiming: float = 0.0


class SimulatedTeam:
    """The threads of one worker: their clocks and their lines."""

    def __init__(self, threads: int, latencies: Latencies, scheme: Scheme, cache_threads: int) -> None:
        self.threads, self.latencies, self.scheme = threads, latencies, scheme
        self.cache_threads = cache_threads  # that share a last-level cache
        self.clocks, self.lost, self.worked = [0.0] * threads, Lost(), 0
        size = self.scheme.together or self.threads
        inside = min(size, self.cache_threads) if self.scheme.together else size
        self._group = [thread // inside for thread in range(self.threads)]
        groups = self._group[-1] + 1
        self._arrived, self._let_go = [Line(self) for _ in range(groups)], [Line(self) for _ in range(groups)]
        self._team, self._claim = Line(self), Line(self)

    def distance(self, one: int, other: int) -> float:
        """Seconds of a line between two threads; nobody's is in a cache near everyone."""
        near = one < 0 or one // self.cache_threads == other // self.cache_threads
        return self.latencies.near if near else self.latencies.far

    def run(self, phase: Phase) -> None:
        """One phase, and the barrier at its end."""
        if phase.serial:
            self._run_items(Phase(0.0, phase.serial, 1))
            self._barrier(0.0)
        if phase.items:
            self._run_items(phase)
        self._barrier(phase.last)

    def _run_items(self, phase: Phase) -> None:
        each = max(phase.seconds * min(self.threads, phase.items), phase.alone) / phase.items
        own = max(phase.items // (2 * self.threads), 1) if self.scheme.own_first else 0
        for thread in range(self.threads):
            count = max(0, min(own * (thread + 1), phase.items) - own * thread)
            self.clocks[thread] += count * each
            self.worked += count
        shared = max(0, phase.items - own * self.threads)
        self._claim.value = 0
        if not shared:
            return
        runs = list(self._runs(shared)) if self.scheme.tickets else []
        # Who looks at the claim word, and who writes to it what he saw there, in the order of time.
        coming = [(clock, thread, -1) for thread, clock in enumerate(self.clocks)]
        heapq.heapify(coming)
        while coming:
            now, thread, seen = heapq.heappop(coming)
            if seen < 0:
                known = self._claim.read(thread, now)
                self.lost.claiming += (known - now) / self.threads
                if self._claim.value < (len(runs) if self.scheme.tickets else shared):
                    heapq.heappush(coming, (known, thread, self._claim.value))
                else:
                    self.clocks[thread] = known
                continue
            done, size = self._claim.write(thread, now), 0
            self.lost.claiming += (done - now) / self.threads
            if self.scheme.tickets:
                size = runs[self._claim.value] if self._claim.value < len(runs) else 0
                self._claim.value += 1
            elif self._claim.value == seen:
                size = max((shared - seen) // (2 * self.threads), 1)
                self._claim.value += size
            self.worked += size
            heapq.heappush(coming, (done + size * each, thread, -1))

    def _runs(self, shared: int) -> Iterator[int]:
        """How many items each ticket is for."""
        while shared > 0:
            size = max(shared // (2 * self.threads), 1)
            for _ in range(min(self.threads, -(-shared // size))):
                yield min(size, shared)
                shared -= min(size, shared)

    def _barrier(self, last: float) -> None:
        came = list(self.clocks)
        arrivals: dict[int, list[tuple[float, int]]] = {}
        for now, thread in sorted((clock, thread) for thread, clock in enumerate(came)):
            done = self._arrived[self._group[thread]].write(thread, now)
            arrivals.setdefault(self._group[thread], []).append((done, thread))
        over, releaser = 0.0, 0
        for done, thread in sorted(max(one) for one in arrivals.values()):
            over, releaser = (self._team.write(thread, done) if len(arrivals) > 1 else done), thread
        over += last
        written = []
        for line in self._let_go:
            over = line.write(releaser, over)
            written.append(over)
        for thread in sorted(range(self.threads), key=lambda one: (written[self._group[one]], one)):
            group = self._group[thread]
            self.clocks[thread] = over if thread == releaser else self._let_go[group].read(thread, written[group])
        waited = sum(now - then for now, then in zip(self.clocks, came, strict=True)) - last
        self.lost.waiting += waited / self.threads


def simulate(phases: Iterator[Phase] | list[Phase], team: SimulatedTeam) -> float:
    """Seconds of a step."""
    for phase in phases:
        team.run(phase)
    return max(team.clocks)
