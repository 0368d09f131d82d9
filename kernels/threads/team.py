"""How the threads of a step wait for each other and share work out: barriers of a team and of all teams, and claims.

A *team* is the pinned threads of one worker process; its words lie in the worker's own memory. Those of its threads
that share a cache are a *group*, of a few at most, with words of its own. All teams of a host share one more set of
words in the arena. Each word has a cache line to itself:

    team words     0 arrived    64 claim      128 came                         (int32, int32, int64)
    group words    0 arrived    64 generation 128 sleepers                     (int32 each), of each group, behind them
    shared words   0 arrived    64 generation 128 sleepers
    signs          0 waited ns  8 seen ns                                      (int64 each, for others to look at)

A barrier: each thread notes its group's generation and adds one to the group's `arrived`. The last one of a group does
so for the team, and the last of all sets the words of arrival and `claim` back to zero, then adds one to each group's
generation, which lets the others go. A line that n threads write to moves n times from core to core, and one that n
wait for is fetched n times: both is so for the threads of a group, who are near, and for the groups. A gather is the
same with one step in between: the last thread of each team does the same dance on the shared words. Who waits, waits
for a generation word (waiting.py); `sleepers` says whether anybody must be woken.

Signs tell of a team how long all its threads together waited for other teams, and when one of them last came to a
gather or looked up from a wait for other teams, in the clock's nanoseconds.

`came` says when the last thread of the team came to the last gather: who reads it after a wait knows how long it waited
for its own team and how long for others (profile.py).

Work inside a phase: half of it is every thread's own from the start, neighbouring items, the same in each step, and
costs no word; the rest is claimed by tickets of the word `claim`, so that a slow or stolen core does not hold up the
others.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from numoe.kernels.cpu.jit import generator, kernel
from numoe.kernels.threads.atomics import (
    atomic_add,
    atomic_load,
    atomic_store,
    long_load,
    long_store,
)
from numoe.kernels.threads.profile import LEVEL, beat, note_wait
from numoe.kernels.threads.system_calls import clock_ns, futex_wake
from numoe.kernels.threads.waiting import wait_while

ARRIVED, CLAIM, CAME, TEAM_BYTES = 0, 64, 128, 192
GROUP_ARRIVED, GROUP_GENERATION, GROUP_SLEEPERS, GROUP_BYTES = 0, 64, 128, 192
SHARED_ARRIVED, SHARED_GENERATION, SHARED_SLEEPERS, SHARED_BYTES = 0, 64, 128, 192
WAITED, SEEN = 0, 8


class Team(NamedTuple):
    """Where a thread finds the words above, and how long it waits."""

    words: int  # address of the team words; those of the groups lie behind them
    group: int  # address of the words of the thread's group
    shared: int  # address of the shared words
    abort: int  # address of the abort word (int32, 0 = go on)
    signs: int  # address of the signs
    profile: int  # address of the thread's state, see profile.py
    threads: int  # in this team
    group_threads: int  # in the thread's group
    groups: int  # in this team
    workers: int  # teams
    spins: int  # looks at a word before sleeping
    timeout_ns: int  # the deadline of a wait inside a step
    thread: int  # own number, 0 .. threads - 1


@kernel
def _advance(generation: int, sleepers: int) -> None:
    atomic_add(generation, 1)
    if atomic_load(sleepers) > 0:
        futex_wake(generation)


@kernel
def _let_go(team: Team) -> None:
    atomic_store(team.words + ARRIVED, 0)
    atomic_store(team.words + CLAIM, 0)
    for index in range(team.groups):
        group = team.words + TEAM_BYTES + GROUP_BYTES * index
        atomic_store(group + GROUP_ARRIVED, 0)
        _advance(group + GROUP_GENERATION, group + GROUP_SLEEPERS)


@kernel
def _is_last(team: Team) -> bool:
    """Note that a thread has come; whether all have."""
    if atomic_add(team.group + GROUP_ARRIVED, 1) < team.group_threads - 1:
        return False
    return team.groups == 1 or atomic_add(team.words + ARRIVED, 1) == team.groups - 1


@kernel
def release(team: Team) -> None:
    """Let the others go on to the next phase; called by the thread for which `arrive` was true."""
    noted, now = long_load(team.profile + LEVEL) != 0, 0
    if noted:
        now = clock_ns()
    _let_go(team)
    if noted:
        note_wait(team.profile, now, now, now)


@kernel
def arrive(team: Team) -> bool:
    """Wait for the team. True for the last thread to come: it may do serial work, and must then call `release`."""
    noted, now = long_load(team.profile + LEVEL) != 0, 0
    if noted:
        now = clock_ns()
    seen = atomic_load(team.group + GROUP_GENERATION)
    if _is_last(team):
        return True
    wait_while(
        team.group + GROUP_GENERATION,
        seen,
        team.group + GROUP_SLEEPERS,
        team.abort,
        team.spins,
        team.timeout_ns,
        0,
        team.profile,
    )
    if noted:
        released, came = clock_ns(), long_load(team.words + CAME)
        if came < now or team.workers == 1:  # the gather before, so this was none: the wait was for threads only
            came = released
        note_wait(team.profile, now, came, released)
    return False


@kernel
def barrier(team: Team) -> None:
    """Wait until all threads of this team have come here."""
    if arrive(team):
        release(team)


@kernel
def gather(team: Team) -> None:
    """Wait until all threads of all teams have come here: what they wrote to the arena can be read."""
    if arrive(team):
        came = clock_ns()
        over = came
        long_store(team.signs + SEEN, came)
        long_store(team.words + CAME, came)
        seen = atomic_load(team.shared + SHARED_GENERATION)
        if atomic_add(team.shared + SHARED_ARRIVED, 1) == team.workers - 1:
            atomic_store(team.shared + SHARED_ARRIVED, 0)
            _advance(team.shared + SHARED_GENERATION, team.shared + SHARED_SLEEPERS)
        else:
            wait_while(
                team.shared + SHARED_GENERATION,
                seen,
                team.shared + SHARED_SLEEPERS,
                team.abort,
                team.spins,
                team.timeout_ns,
                team.signs + SEEN,
                team.profile,
            )
            over = clock_ns()
            long_store(team.signs + WAITED, long_load(team.signs + WAITED) + over - came)
        _let_go(team)
        if long_load(team.profile + LEVEL) != 0:
            note_wait(team.profile, came, came, over)


@generator
def claimed(team: Team, count: int) -> Iterator[int]:
    """Yield items 0 .. count - 1 of this phase, each to one thread of the team.

    A thread takes a run of items at once: first its own, then those of tickets that it draws. There are rounds of a
    ticket for each thread, and in each round runs are so long that half of what is left is taken. So a thread streams
    neighbouring weights as long as there are many, and takes single ones at the end, so that all threads end together.
    Drawing never fails, as comparing and swapping would where many threads come at once; and who finds that no ticket
    is left writes nothing.
    """
    own = max(count // (2 * team.threads), 1)
    for item in range(own * team.thread, min(own * (team.thread + 1), count)):
        beat(team.profile)
        yield item
    first, left, before = own * team.threads, count - own * team.threads, 0  # of this round; tickets of those before
    ticket, drawn = atomic_load(team.words + CLAIM), False
    while left > 0:
        size = max(left // (2 * team.threads), 1)
        tickets = min((left + size - 1) // size, team.threads)
        if ticket - before >= tickets:
            first, left, before = first + size * tickets, left - size * tickets, before + tickets
        elif not drawn:
            ticket, drawn = atomic_add(team.words + CLAIM, 1), True
        else:
            start = first + size * (ticket - before)
            for item in range(start, min(start + size, first + left)):
                beat(team.profile)
                yield item
            ticket, drawn = atomic_load(team.words + CLAIM), False


@kernel
def abort_all(abort: int, step: int, shared: int) -> None:
    """Set the abort word and wake whoever sleeps on the step word or a gather; others look within 0.1 s."""
    atomic_store(abort, 1)
    futex_wake(step)
    futex_wake(shared + SHARED_GENERATION)
