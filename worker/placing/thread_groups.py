"""Which threads of a worker wait for each other first, see kernels/threads/team.py."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from numoe.kernels.threads.team import GROUP_BYTES, NEAR_BYTES, NEIGHBOURS, TEAM_BYTES, write_members
from numoe.model.machine.topology import Cache
from numoe.model.machine.topology_reading import read_caches

MOST_TOGETHER = 8  # threads that come to one word: each passes its line on, some 40 ns a time


def thread_groups(cpus: Sequence[int], caches: Iterable[Cache] | None = None) -> list[int]:
    """[threads] the number of each thread's group: those that share the last cache, in equal parts of a few.

    Args:
        cpus: [threads] the CPU of each.
        caches: Those of the machine; None: as it is.
    """
    shared = [cache for cache in (read_caches(set(cpus)) if caches is None else caches) if cache.kind != "Instruction"]
    last = max((cache.level for cache in shared), default=0)
    lying = {cpu: number for number, one in enumerate(shared) if one.level == last for cpu in one.cpus}
    threads = sorted(range(len(cpus)), key=lambda thread: (lying.get(cpus[thread], -1), thread))
    groups, first = [0] * len(cpus), 0
    for _, near in groupby(threads, key=lambda thread: lying.get(cpus[thread], -1)):
        members = list(near)
        parts = -(-len(members) // MOST_TOGETHER)
        for place, thread in enumerate(members):
            groups[thread] = first + place * parts // len(members)
        first += parts
    return groups


def team_words(groups: Sequence[int]) -> NDArray[np.uint8]:
    """The words of a team whose threads are in these groups, on cache lines of their own."""
    count = len(set(groups))
    room = np.zeros(TEAM_BYTES + GROUP_BYTES * count + NEAR_BYTES * -(-count // NEIGHBOURS) + 64, np.uint8)
    words = room[-room.ctypes.data % 64 :]
    write_members(words, groups)
    return words


def membership(words: NDArray[np.uint8], groups: Sequence[int], thread: int) -> dict[str, int]:
    """The fields of Team that say where a thread stands among the others, and where its words are."""
    own, count = groups[thread], len(set(groups))
    first = own // NEIGHBOURS * NEIGHBOURS
    return {
        "words": words.ctypes.data,
        "group": words.ctypes.data + TEAM_BYTES + GROUP_BYTES * own,
        "near": words.ctypes.data + TEAM_BYTES + GROUP_BYTES * count + NEAR_BYTES * (own // NEIGHBOURS),
        "threads": len(groups),
        "group_threads": groups.count(own),
        "near_groups": min(NEIGHBOURS, count - first),
        "groups": count,
        "rank": groups[:thread].count(own),
        "thread": thread,
    }
