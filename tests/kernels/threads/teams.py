"""Teams of threads for tests: their words in ordinary memory or in a shared block, and work for them to claim."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from numoe.kernels.cpu.jit import kernel
from numoe.kernels.threads.atomics import atomic_add, atomic_load, long_load
from numoe.kernels.threads.profile import STATE_BYTES
from numoe.kernels.threads.team import (
    GROUP_BYTES,
    NEAR_BYTES,
    NEIGHBOURS,
    SHARED_BYTES,
    TEAM_BYTES,
    Team,
    abort_all,
    arrive,
    barrier,
    claimed,
    gather,
    release,
    write_members,
)

ABORT_BYTES = 64
CELL_BYTES = 64
SIGN_BYTES = 64
MOST_GROUPS = 9
SECOND_NS = 1_000_000_000
_WORDS_BYTES = TEAM_BYTES + MOST_GROUPS * (GROUP_BYTES + NEAR_BYTES)


class TeamWords:
    """The abort word and the shared words, then the words and signs of each team, cache line by cache line."""

    def __init__(self, teams: int, memory: NDArray[np.uint8] | None = None) -> None:
        self.bytes = ABORT_BYTES + SHARED_BYTES + teams * (_WORDS_BYTES + SIGN_BYTES)
        self.profile = np.zeros(STATE_BYTES, np.uint8)  # level 0: nothing is noted
        room = np.zeros(self.bytes + 64, np.uint8) if memory is None else memory
        self._memory = room[-room.ctypes.data % 64 :]
        self.teams = teams

    @property
    def abort(self) -> int:
        """Address of the abort word."""
        return self._memory.ctypes.data

    @property
    def shared(self) -> int:
        """Address of the shared words."""
        return self._memory.ctypes.data + ABORT_BYTES

    @contextmanager
    def waiting(self) -> Iterator[ThreadPoolExecutor]:
        """Threads that wait; at the end, however it comes, nobody is left waiting."""
        with ThreadPoolExecutor() as pool:
            try:
                yield pool
            finally:
                abort_all(self.abort, self.abort, self.shared)

    def team(
        self,
        worker: int,
        thread: int,
        threads: int,
        spins: int = 50,
        timeout_ns: int = 20 * SECOND_NS,
        profile: int | None = None,  # address of the thread's state
        groups: int = 1,
    ) -> Team:
        """As thread `thread` of worker `worker` sees it."""
        words = self.shared + SHARED_BYTES + worker * (_WORDS_BYTES + SIGN_BYTES)
        own = thread * groups // threads
        of_all = [one * groups // threads for one in range(threads)]
        start = words - self._memory.ctypes.data
        write_members(self._memory[start : start + _WORDS_BYTES], of_all)
        return Team(
            words=words,
            group=words + TEAM_BYTES + GROUP_BYTES * own,
            near=words + TEAM_BYTES + GROUP_BYTES * groups + NEAR_BYTES * (own // NEIGHBOURS),
            shared=self.shared,
            abort=self.abort,
            signs=words + _WORDS_BYTES,
            profile=self.profile.ctypes.data if profile is None else profile,
            threads=threads,
            group_threads=of_all.count(own),
            near_groups=min(NEIGHBOURS, groups - own // NEIGHBOURS * NEIGHBOURS),
            groups=groups,
            rank=of_all[:thread].count(own),
            workers=self.teams,
            spins=spins,
            timeout_ns=timeout_ns,
            thread=thread,
        )


@kernel
def add_to(address: int, value: int) -> int:
    """atomic_add, callable from Python."""
    before: int = atomic_add(address, value)
    return before


@kernel
def load_from(address: int) -> int:
    """atomic_load, callable from Python."""
    value: int = atomic_load(address)
    return value


@kernel
def long_from(address: int) -> int:
    """long_load, callable from Python."""
    value: int = long_load(address)
    return value


@kernel
def count_claims(team: Team, counts: NDArray[np.int32], phases: int) -> None:
    """In each phase every piece of `counts` [phases, pieces] is to be counted up once, by whoever claims it."""
    for phase in range(phases):
        for piece in claimed(team, counts.shape[1]):
            atomic_add(counts.ctypes.data + 4 * (phase * counts.shape[1] + piece), 1)
        barrier(team)


@kernel
def note_claims(team: Team, order: NDArray[np.int32]) -> None:
    """The pieces in the order they are claimed; last, how many they were."""
    count = 0
    for piece in claimed(team, order.size - 1):
        order[count] = piece
        count += 1
    order[order.size - 1] = count


@kernel
def count_serial_work(team: Team, total: NDArray[np.int64], phases: int) -> None:
    """In each phase one thread adds one, by plain memory operations, while the others wait."""
    for _ in range(phases):
        if arrive(team):
            total[0] += 1
            release(team)


@kernel
def cross_check(team: Team, cells: int, worker: int, phases: int) -> int:
    """In each phase thread 0 of every team writes its cell; after the gather all read all. Returns stale cells read."""
    stale = 0
    for phase in range(1, phases + 1):
        if team.thread == 0:
            atomic_add(cells + 64 * worker, 1)
        gather(team)
        for other in range(team.workers):
            if atomic_load(cells + 64 * other) != phase:
                stale += 1
        gather(team)
    return stale
