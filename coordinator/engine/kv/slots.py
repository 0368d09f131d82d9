"""Which requests are at work under which slot's number, and what the last one of each has left.

A slot has no memory: what is left in it lies in blocks that all requests share, until somebody needs the room. A
request has the slot that it names. Any other has the free one of which it takes over the most, more than a tenth of its
prompt, or else the one that was left longest ago. Several that name one slot may be at work at once; what is left in it
is then that of who ended last.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from numoe.protos.expert_reduction import ALL_EXPERTS, ExpertReduction

ALIKE = 0.1  # of a prompt's blocks; llama-server's --slot-prompt-similarity


@dataclass(frozen=True, slots=True)
class Left:
    """Prompt and answer of a request, as far as they fill blocks."""

    tokens: NDArray[np.int32]  # [n * positions of a block]
    experts: ExpertReduction
    keys: Sequence[bytes]  # [n] names of the blocks
    end: bytes = b""  # the name of the block behind them, which was not full; none: it is not told of

    def first(self, blocks: int) -> Left:
        """The same, of so many blocks."""
        positions = len(self.tokens) // max(1, len(self.keys))
        return replace(self, tokens=self.tokens[: blocks * positions], keys=self.keys[:blocks], end=b"")


NOTHING = Left(np.zeros(0, np.int32), ALL_EXPERTS, ())


class Slots:
    """All slots. Not safe for threads: the engine's lock guards it."""

    def __init__(self, count: int) -> None:
        self.left = [NOTHING] * count
        self._at_work: dict[Hashable, int] = {}
        self._unused = list(range(count))  # the one that was left longest ago first

    def number_of(self, who: Hashable) -> int | None:
        """The slot of a request; None: it is not at work."""
        return self._at_work.get(who)

    def is_free(self, slot: int) -> bool:
        """Whether nobody is at work in it."""
        return slot not in self._at_work.values()

    def enter(self, who: Hashable, keys: Sequence[bytes], wanted: int | None) -> None:
        """A request is at work from now on, whose prompt fills the blocks of these names."""
        self._at_work[who] = self._choose(keys) if wanted is None else wanted

    def leave(self, who: Hashable, left: Left | None = None) -> None:
        """A request is no longer at work; None: it has left nothing."""
        slot = self._at_work.pop(who, None)
        if slot is None:
            return
        self._unused.remove(slot)
        self._unused.append(slot)
        if left is not None:
            self.left[slot] = left

    def forget(self) -> None:
        """What all blocks held is lost."""
        self.left = [NOTHING] * len(self.left)

    def _choose(self, keys: Sequence[bytes]) -> int:
        free = [slot for slot in self._unused if self.is_free(slot)]
        alike = {slot: _common(keys, self.left[slot].keys) for slot in free}
        best = max(free, key=alike.__getitem__)  # the first of equal ones
        return best if alike[best] > ALIKE * len(keys) else free[0]


def _common(some: Sequence[bytes], others: Sequence[bytes]) -> int:
    """How many names they begin with are the same."""
    pairs = enumerate(zip(some, others, strict=False))
    return next((place for place, (one, other) in pairs if one != other), min(len(some), len(others)))
