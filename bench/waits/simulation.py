"""A decode step of one worker, event by event: its threads, the cache lines that they write to, and what waiting costs.

A *line* is one of the words of kernels/threads/team.py. Who writes to it has it brought from the core that wrote last,
which takes what that distance takes, and nobody else can meanwhile; who reads it gets a copy, and the next reader can
ask a while later. Threads do what team.py and its like did before and do now (`Scheme`): they claim runs of items, work
on them, come to the barrier, and look for the word that lets them go.

*Not simulated*: what workers exchange, caches that are too small, and other programs.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from numoe.kernels.experts.router import PARTS as ROUTER_PARTS
from numoe.kernels.threads.team import NEIGHBOURS, REACH
from numoe.model.machine.waits import Apart
from numoe.worker.placing.thread_groups import MOST_TOGETHER


@dataclass(frozen=True, slots=True)
class Latencies:
    """Seconds of a line between two cores, and of an atomic operation on a line that a core has."""

    near: float  # both share the last-level cache
    far: float
    own: float = 5e-9
    copy_share: float = 0.25  # of the way, after which the next reader is served


PUBLISHED = Latencies(near=25e-9, far=110e-9)  # of EPYCs: core to core, inside a cache and between two
CACHE_THREADS = 8  # that share a last-level cache, as on an EPYC


def latencies_of(passes: Mapping[Apart, float]) -> Latencies:
    """As a machine passes lines on, see model/machine/waits.py; what was not measured is as published, or as near."""
    near = passes.get("cache", PUBLISHED.near)
    return Latencies(near, passes.get("package", near))


@dataclass(frozen=True, slots=True)
class Scheme:
    """How threads wait and share work out; at first as they did before any of it."""

    together: int = 0  # threads of a group with words of its own; 0: one word for all
    own_first: bool = False  # half of a phase's items are every thread's own
    tickets: bool = False  # runs are drawn, each once; else taken by comparing and swapping, which may fail
    near_claims: bool = False  # each group has a claim word and items of its own
    reach: int = 0  # groups whose items a thread takes, too, once those of its own are gone
    stored: bool = False  # the words that let go are stored; else added to, one after the other
    shared_rounding: bool = False  # by all threads, each of which normalises; else by one
    chosen_by_last: bool = False  # a lone token's experts, by the last thread that comes to the router's barrier
    router_parts: int = 1  # of the router's inputs, which are shared out, too
    neighbours: int = 0  # groups that come to one word before the team's; 0: all come to the team's at once


BEFORE = Scheme()
NOW = Scheme(MOST_TOGETHER, True, True, True, REACH, True, True, True, ROUTER_PARTS, NEIGHBOURS)


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
        self.clocks, self.lost, self.worked, self.claims = [0.0] * threads, Lost(), 0, 0
        size = self.scheme.together or self.threads
        inside = min(size, self.cache_threads) if self.scheme.together else size
        self._group = [thread // inside for thread in range(self.threads)]
        groups = self._group[-1] + 1
        self._arrived, self._let_go = [Line(self) for _ in range(groups)], [Line(self) for _ in range(groups)]
        self._team, self._claim = Line(self), Line(self)
        self._near = [Line(self) for _ in range(-(-groups // (scheme.neighbours or groups)))]
        self._claims = [Line(self) for _ in range(groups)]

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
        if self.scheme.near_claims:
            self._run_by_groups(phase.items, each)
            return
        own = max(phase.items // (2 * self.threads), 1) if self.scheme.own_first else 0
        for thread in range(self.threads):
            count = max(0, min(own * (thread + 1), phase.items) - own * thread)
            self.clocks[thread] += count * each
            self.worked += count
        shared = max(0, phase.items - own * self.threads)
        self._claim.value = 0
        if shared:
            self._claim_runs(shared, each)

    def _run_by_groups(self, items: int, each: float) -> None:
        """Items are shared out to groups, whose threads draw from a word of theirs, and then from the next groups'."""
        groups = self._group[-1] + 1
        runs: list[list[int]] = []
        for group, line in enumerate(self._claims):
            members = [thread for thread in range(self.threads) if self._group[thread] == group]
            first, last = items * members[0] // self.threads, items * (members[-1] + 1) // self.threads
            own = max((last - first) // (2 * len(members)), 1)
            for rank, thread in enumerate(members):
                count = max(0, min(own * (rank + 1), last - first) - own * rank)
                self.clocks[thread] += count * each
                self.worked += count
            runs.append(list(_runs(last - first - own * len(members), len(members))))
            line.value = 0
        coming = [(clock, thread, 0, False) for thread, clock in enumerate(self.clocks)]
        heapq.heapify(coming)
        while coming:
            now, thread, step, seen = heapq.heappop(coming)
            group = (self._group[thread] + step) % groups
            line = self._claims[group]
            if not runs[group] and step == 0 and not seen:
                known = now
            elif not seen:
                known = line.read(thread, now)
            else:
                known = line.write(thread, now)
            self.lost.claiming += (known - now) / self.threads
            if line.value >= len(runs[group]):
                if step < min(self.scheme.reach, groups - 1):
                    heapq.heappush(coming, (known, thread, step + 1, False))
                else:
                    self.clocks[thread] = known
            elif not seen:
                heapq.heappush(coming, (known, thread, step, True))
            else:
                size = runs[group][line.value]
                line.value += 1
                self.claims += 1
                self.worked += size
                heapq.heappush(coming, (known + size * each, thread, step, False))

    def _claim_runs(self, shared: int, each: float) -> None:
        runs = list(_runs(shared, self.threads)) if self.scheme.tickets else []
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
            self.claims += size > 0
            heapq.heappush(coming, (done + size * each, thread, -1))

    def _barrier(self, last: float) -> None:
        came = list(self.clocks)
        arrivals: dict[int, list[tuple[float, int]]] = {}
        for now, thread in sorted((clock, thread) for thread, clock in enumerate(came)):
            done = self._arrived[self._group[thread]].write(thread, now)
            arrivals.setdefault(self._group[thread], []).append((done, thread))
        over, releaser = self._last_of(arrivals)
        over += last
        written = []
        for line in self._let_go:
            done = line.write(releaser, over)
            # A store need not wait for the line of the one before, as adding does.
            over += (done - over) * (self.latencies.copy_share if self.scheme.stored else 1.0)
            written.append(done)
        over = max([over, *written])
        for thread in sorted(range(self.threads), key=lambda one: (written[self._group[one]], one)):
            group = self._group[thread]
            self.clocks[thread] = over if thread == releaser else self._let_go[group].read(thread, written[group])
        waited = sum(now - then for now, then in zip(self.clocks, came, strict=True)) - last
        self.lost.waiting += waited / self.threads

    def _last_of(self, arrivals: dict[int, list[tuple[float, int]]]) -> tuple[float, int]:
        """When the last of all groups has come, and which thread that was."""
        lasts = sorted(max(one) for one in arrivals.values())
        if len(self._near) > 1:
            near: dict[int, tuple[float, int]] = {}
            for done, thread in lasts:
                number = self._group[thread] // self.scheme.neighbours
                near[number] = self._near[number].write(thread, done), thread
            lasts = sorted(near.values())
        if len(lasts) == 1:
            return lasts[0]
        over, releaser = 0.0, 0
        for done, thread in lasts:
            over, releaser = self._team.write(thread, done), thread
        return over, releaser


def _runs(items: int, threads: int) -> Iterator[int]:
    """How many items each ticket is for."""
    while items > 0:
        size = max(items // (2 * threads), 1)
        for _ in range(min(threads, -(-items // size))):
            yield min(size, items)
            items -= min(size, items)


def simulate(phases: Iterator[Phase] | list[Phase], team: SimulatedTeam) -> float:
    """Seconds of a step."""
    for phase in phases:
        team.run(phase)
    return max(team.clocks)
