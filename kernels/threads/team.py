"""How the threads of a step wait for each other and share work out: barriers of a team and of all teams, and claims.

A *team* is the pinned threads of one worker process; its words lie in the worker's own memory. Those of its threads
that share a cache are a *group*, of a few at most, with words of its own. All teams of a host share one more set of
words in the arena. Each word has a cache line to itself:

    team words     0 arrived    64 came                                        (int32, int64)
    group words    0 arrived    64 generation 128 sleepers  192 claim          (int32 each), of each group, behind them
                   256 members: threads of the groups before, and of this one  (int32 each), written before the start
    near words     0 arrived                              (int32), of NEIGHBOURS groups each, behind those of the groups
    shared words   0 arrived    64 generation 128 sleepers
    signs          0 waited ns  8 seen ns                                      (int64 each, for others to look at)

A barrier: each thread notes its group's generation and adds one to the group's `arrived`. The last one of a group does
so for some neighbouring groups, their last one for the team, and the last of all sets the words of arrival and `claim`
back to zero, then raises each group's generation, which lets the others go. A line that n threads write to moves n
times from core to core, and one that n wait for is fetched n times: both is so for the threads of a group, who are
near, for a few groups, and for the runs of those. A gather is the same with one step in between: the last thread of
each team does the same dance on the shared words. Who waits, waits for a generation word (waiting.py); `sleepers` says
whether anybody must be woken.

Signs tell of a team how long all its threads together waited for other teams, and when one of them last came to a
gather or looked up from a wait for other teams, in the clock's nanoseconds.

`came` says when the last thread of the team came to the last gather: who reads it after a wait knows how long it waited
for its own team and how long for others (profile.py).

Work inside a phase is shared out to the groups by their threads. Half of a group's is every thread's own from the
start, neighbouring items, the same in each step, and costs no word; the rest is claimed by tickets of the group's word
`claim`, so that a slow or stolen core does not hold up the others, and what is left then by those of the next groups.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

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

ARRIVED, CAME, TEAM_BYTES = 0, 64, 128
GROUP_ARRIVED, GROUP_GENERATION, GROUP_SLEEPERS, GROUP_CLAIM, GROUP_MEMBERS, GROUP_BYTES = 0, 64, 128, 192, 256, 320
NEIGHBOURS = 4  # groups that come to one word before the team's: 16 pass lines on 8 times, 0.1 us each, and not 16
REACH = 2  # groups whose work a thread takes, too: a look at a word of another cache costs 0.1 us, and ends each phase
NEAR_BYTES = 64
SHARED_ARRIVED, SHARED_GENERATION, SHARED_SLEEPERS, SHARED_BYTES = 0, 64, 128, 192
WAITED, SEEN = 0, 8


class Team(NamedTuple):
    """Where a thread finds the words above, and how long it waits."""

    words: int  # address of the team words; those of the groups lie behind them
    group: int  # address of the words of the thread's group
    near: int  # address of the word of the group's neighbours
    shared: int  # address of the shared words
    abort: int  # address of the abort word (int32, 0 = go on)
    signs: int  # address of the signs
    profile: int  # address of the thread's state, see profile.py
    threads: int  # in this team
    group_threads: int  # in the thread's group
    near_groups: int  # that come to the word of neighbours
    groups: int  # in this team
    rank: int  # of the thread in its group
    workers: int  # teams
    spins: int  # looks at a word before sleeping
    timeout_ns: int  # the deadline of a wait inside a step
    thread: int  # own number, 0 .. threads - 1


LONE = Team(0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 0, 1, 0, 0, 0)  # a thread without words, to compile for


@kernel
def _advance(generation: int, sleepers: int) -> None:
    atomic_add(generation, 1)
    if atomic_load(sleepers) > 0:
        futex_wake(generation)


@kernel
def _nears(team: Team) -> int:
    """How many words neighbouring groups come to."""
    return (team.groups + NEIGHBOURS - 1) // NEIGHBOURS


@kernel
def _let_go(team: Team) -> None:
    """Only who came last runs this, and so stores generations: stores need not wait for each other's lines."""
    first = team.words + TEAM_BYTES
    atomic_store(team.words + ARRIVED, 0)
    for index in range(_nears(team)):
        atomic_store(first + GROUP_BYTES * team.groups + NEAR_BYTES * index, 0)
    for index in range(team.groups):
        atomic_store(first + GROUP_BYTES * index + GROUP_ARRIVED, 0)
        atomic_store(first + GROUP_BYTES * index + GROUP_CLAIM, 0)
    for index in range(team.groups):
        generation = first + GROUP_BYTES * index + GROUP_GENERATION
        atomic_store(generation, np.int32(atomic_load(generation) + 1))
    atomic_add(team.words + ARRIVED, 0)  # all that is written before what is read: a sleeper that is missed then wakes
    for index in range(team.groups):
        if atomic_load(first + GROUP_BYTES * index + GROUP_SLEEPERS) > 0:
            futex_wake(first + GROUP_BYTES * index + GROUP_GENERATION)


@kernel
def _is_last(team: Team) -> bool:
    """Note that a thread has come; whether all have."""
    if atomic_add(team.group + GROUP_ARRIVED, 1) < team.group_threads - 1:
        return False
    if team.near_groups > 1 and atomic_add(team.near, 1) < team.near_groups - 1:
        return False
    nears = _nears(team)
    return nears == 1 or atomic_add(team.words + ARRIVED, 1) == nears - 1


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


@kernel
def _share_of(team: Team, items: int, step: int) -> tuple[int, int, int, int]:
    """Of the `step`th group from the thread's own on: its words, its first item, the one past its last, its threads."""
    number = (team.group - team.words - TEAM_BYTES) // GROUP_BYTES
    words = team.words + TEAM_BYTES + GROUP_BYTES * ((number + step) % team.groups)
    before, threads = atomic_load(words + GROUP_MEMBERS), atomic_load(words + GROUP_MEMBERS + 4)
    return words, items * before // team.threads, items * (before + threads) // team.threads, threads


@kernel
def _own_of(first: int, last: int, threads: int) -> int:
    """How many of a group's items each of its threads has from the start."""
    return max((last - first) // (2 * threads), 1)


@kernel
def _next_run(
    team: Team,
    items: int,
    step: int,  # which group's: 0 the thread's own, -1 no more
    first: int,  # item of the round
    left: int,  # items from it on
    earlier: int,  # tickets of the rounds before
) -> tuple[int, int, int, int, int, int]:
    """The next run that the thread claims, from an item to before another, and where it stands then."""
    while True:
        words, start, end, threads = _share_of(team, items, step)
        ticket, drawn = 0, False
        if left > 0:
            ticket = atomic_load(words + GROUP_CLAIM)
        while left > 0:
            size = max(left // (2 * threads), 1)
            tickets = min((left + size - 1) // size, threads)
            if ticket - earlier >= tickets:
                first, left, earlier = first + size * tickets, left - size * tickets, earlier + tickets
            elif not drawn:
                ticket, drawn = atomic_add(words + GROUP_CLAIM, 1), True
            else:
                run = first + size * (ticket - earlier)
                return run, min(run + size, first + left), step, first, left, earlier
        step += 1
        if step >= min(1 + REACH, team.groups):
            return 0, 0, -1, 0, 0, 0
        words, start, end, threads = _share_of(team, items, step)
        own = _own_of(start, end, threads)
        first, left, earlier = start + own * threads, end - start - own * threads, 0


@generator
def claimed(team: Team, count: int) -> Iterator[int]:
    """Yield items 0 .. count - 1 of this phase, each to one thread of the team.

    A thread takes a run of items at once: first its own, then those of tickets that it draws. There are rounds of a
    ticket for each thread of the group, and in each round runs are so long that half of what is left is taken. So a
    thread streams neighbouring weights as long as there are many, and takes single ones at the end, so that all threads
    end together. Drawing never fails, as comparing and swapping would where many threads come at once; and who finds
    that no ticket is left writes nothing.
    """
    items: Any = np.int64(count)  # also where Numba has fewer bits for it
    _, start, end, threads = _share_of(team, items, 0)
    own = _own_of(start, end, threads)
    first, left, earlier, step = start + own * threads, end - start - own * threads, 0, 0
    run, over = start + own * team.rank, min(start + own * (team.rank + 1), end)
    while step >= 0:
        for item in range(run, over):
            beat(team.profile)
            yield item
        run, over, step, first, left, earlier = _next_run(team, items, step, first, left, earlier)


def write_members(words: NDArray[np.uint8], groups: Sequence[int]) -> None:
    """Write into team words how many threads each group has.

    Args:
        words: of the team, zeros.
        groups: [threads] the number of each thread's group, from 0 on.
    """
    for group in sorted(set(groups)):
        place = TEAM_BYTES + GROUP_BYTES * group + GROUP_MEMBERS
        words[place : place + 8].view(np.int32)[:] = (sum(one < group for one in groups), groups.count(group))


@kernel
def abort_all(abort: int, step: int, shared: int) -> None:
    """Set the abort word and wake whoever sleeps on the step word or a gather; others look within 0.1 s."""
    atomic_store(abort, 1)
    futex_wake(step)
    futex_wake(shared + SHARED_GENERATION)
