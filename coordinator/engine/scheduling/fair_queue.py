"""Who of those that wait is next, where several clients ask: deficit round robin over their keys.

Each key has a queue of its own, first come first served, and a deficit in tokens. Round after round every key that has
somebody waiting gets a quantum when its turn comes, which lasts as long as the deficit pays for who is first in its
queue. So keys get equal shares of tokens, whatever sizes their requests have and however many of them wait.

*Guarantees*: first come first served within a key; of two keys that always have somebody waiting, neither gets more
than a quantum and its largest request ahead of the other; nobody starves. `head` shows what `take` then takes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from copy import copy
from itertools import chain, islice
from typing import Generic, TypeVar

QUANTUM_TOKENS = 256  # as small as most requests, so that keys take turns

Item = TypeVar("Item")


class FairQueue(Generic[Item]):
    """Items with keys and costs. Not safe for threads."""

    def __init__(self, key_of: Callable[[Item], str], cost_of: Callable[[Item], int]) -> None:
        self._key_of, self._cost_of = key_of, cost_of
        self._returned: deque[Item] = deque()  # that were taken before, and have paid
        self._waiting: dict[str, deque[Item]] = {}  # of each key; the one whose turn it is first
        self._deficits: dict[str, int] = {}
        self._turn: str | None = None  # the key that has got the quantum of its turn, which goes on

    def __len__(self) -> int:
        return len(self._returned) + sum(map(len, self._waiting.values()))

    def __iter__(self) -> Iterator[Item]:
        """All of them, as they came by key."""
        return chain(self._returned, *self._waiting.values())

    def append(self, item: Item) -> None:
        """Adds one at the end of its key's queue."""
        self._waiting.setdefault(self._key_of(item), deque()).append(item)

    def put_back(self, item: Item) -> None:
        """Adds one before all others, that was taken too early."""
        self._returned.appendleft(item)

    def head(self, count: int) -> list[Item]:
        """The next `count`, or as many as there are."""
        trial: FairQueue[Item] = FairQueue(self._key_of, self._cost_of)
        trial._returned = copy(self._returned)
        trial._waiting = {key: deque(islice(queue, count)) for key, queue in self._waiting.items()}
        trial._deficits, trial._turn = copy(self._deficits), self._turn
        return [trial.take() for _ in range(min(count, len(trial)))]

    def take(self) -> Item:
        """Takes the next one out."""
        if self._returned:
            return self._returned.popleft()
        self._skip_rounds()
        while True:
            key, queue = next(iter(self._waiting.items()))
            if self._turn != key:
                self._turn = key
                self._deficits[key] = self._deficits.get(key, 0) + QUANTUM_TOKENS
            if (cost := self._cost_of(queue[0])) <= self._deficits[key]:
                self._deficits[key] -= cost
                item = queue.popleft()
                if not queue:  # who asks for nothing saves nothing up
                    self._turn = None
                    del self._waiting[key], self._deficits[key]
                return item
            self._turn = None
            self._waiting[key] = self._waiting.pop(key)

    def _skip_rounds(self) -> None:
        """Makes all rounds but the last one at once, in which nobody could pay."""
        short = (self._cost_of(queue[0]) - self._deficits.get(key, 0) for key, queue in self._waiting.items())
        rounds = max(0, -(-min(short) // QUANTUM_TOKENS) - 1)
        for key in self._waiting:
            self._deficits[key] = self._deficits.get(key, 0) + rounds * QUANTUM_TOKENS

    def keep(self, wanted: Callable[[Item], bool]) -> None:
        """Takes out all that are not wanted."""
        if all(map(wanted, self)):
            return
        self._returned = deque(filter(wanted, self._returned))
        kept = {key: deque(filter(wanted, queue)) for key, queue in self._waiting.items()}
        self._waiting = {key: queue for key, queue in kept.items() if queue}
        self._deficits = {key: deficit for key, deficit in self._deficits.items() if key in self._waiting}
        self._turn = self._turn if self._turn in self._waiting else None
