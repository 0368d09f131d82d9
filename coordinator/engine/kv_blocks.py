"""Which KV block holds which positions of which sequence.

The workers keep keys and values in a pool of equal blocks; a sequence's block table lists those it owns, in order of
position. A sequence reserves all it may ever need when it is admitted, so that it never has to be stopped for want of
a block, and is allotted them one by one as it grows.

*Guarantees*: a block has at most one owner; a closed table owns nothing; a reservation is never overdrawn.
*Rejected*: allotting without reserving, and preempting when the pool runs dry: more sequences at once, but a request
that has begun to stream would stall and be run again.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class BlockPool:
    """All block ids of the workers' KV cache: free, or owned by a table."""

    def __init__(self, blocks: int, block_positions: int) -> None:
        self.blocks = blocks
        self.block_positions = block_positions
        self._free = list(range(blocks - 1, -1, -1))  # a stack: the block used last is the warmest in memory
        self._reserved = 0

    @property
    def unreserved(self) -> int:
        """Blocks promised to nobody."""
        return self.blocks - self._reserved

    @property
    def reserved(self) -> int:
        """Blocks promised to admitted sequences, those in use among them."""
        return self._reserved

    @property
    def used(self) -> int:
        """Blocks that hold positions of some sequence."""
        return self.blocks - len(self._free)

    def blocks_for(self, positions: int) -> int:
        return -(-positions // self.block_positions)

    def open(self, positions: int) -> BlockTable:
        """A table that may grow to `positions`; the caller has checked that `unreserved` suffices."""
        count = self.blocks_for(positions)
        assert count <= self.unreserved, f"{count} blocks asked, {self.unreserved} unreserved"
        self._reserved += count
        return BlockTable(self, count)

    def _take(self) -> int:
        return self._free.pop()

    def _give_back(self, block_ids: list[int], reserved: int) -> None:
        self._free.extend(reversed(block_ids))
        self._reserved -= reserved


class BlockTable:
    """The blocks of one sequence; `BlockPool.open` makes it, `close` gives its blocks back."""

    __slots__ = ("_ids", "_owned", "_pool")

    def __init__(self, pool: BlockPool, reserved: int) -> None:
        self._pool = pool
        self._ids = np.zeros(reserved, np.int32)
        self._owned = 0

    def grow(self, positions: int) -> NDArray[np.int32]:
        """The ids [n] of the blocks that hold positions 0 .. positions - 1, allotted where still missing.

        The answer is a view that stays valid: an entry, once written, does not change before `close`.
        """
        needed = self._pool.blocks_for(positions)
        assert needed <= len(self._ids), f"{positions} positions need {needed} blocks, {len(self._ids)} are reserved"
        while self._owned < needed:
            self._ids[self._owned] = self._pool._take()
            self._owned += 1
        return self._ids[:needed]

    def close(self) -> None:
        """Gives everything back; closing twice is harmless."""
        self._pool._give_back(self._ids[: self._owned].tolist(), len(self._ids))
        self._ids = self._ids[:0]
        self._owned = 0
