"""Which KV block holds which positions of which sequences, and which of them may be taken over by others.

    free --grow--> held by one table --full and run: named--> held by any number --close--> cached
      ^                   |                                          ^                         | |
      +-------close-------+                                          +---------reuse-----------+ |
      ^                                                                                          |
      +------ the longest unused, where no free one is left: its name is forgotten --------------+

The workers keep keys and values in a pool of equal blocks; a sequence's block table lists those it holds, in order of
position. A block that is full is never written again, so it needs no copy to be shared; one that is not full has one
holder. Blocks that nobody holds stay in memory under their names (block_keys.py) until somebody needs the room; of a
text that ended, the last one too, which is not full.

Where a text goes on as another one for a part of a block only, it gets a block of its own that begins as a copy: of any
block that has a name, as nobody writes these. Workers make it at the beginning of the step that is sent next, before
they write anything; so what is copied may go to somebody else at once. Only what the same client asked is copied
(block_texts.py).

*Guarantees*: a block is free, cached or held; whoever writes a block is its only holder; a closed table holds nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from numoe.coordinator.engine.kv.block_keys import BlockKeys, BlockText
from numoe.coordinator.engine.kv.block_texts import BlockTexts
from numoe.protos.messages import NO_BLOCK


class BlockPool:
    """All block ids of the workers' KV cache."""

    def __init__(self, blocks: int, block_positions: int, *, caches: bool = True) -> None:
        """Without `caches` no block is ever named, and so none shared."""
        self.blocks = blocks
        self.block_positions = block_positions
        self.evicted = 0  # blocks whose names were forgotten for want of room, since the start
        self.caches = caches
        self._free = list(range(blocks - 1, -1, -1))  # a stack: the block used last is the warmest in memory
        self._holders = [0] * blocks
        self._versions = [0] * blocks
        self._named: dict[bytes, int] = {}
        self._names: dict[int, bytes] = {}
        self._cached: dict[int, None] = {}  # the longest unused first
        self._texts = BlockTexts()  # of blocks that have names

    @property
    def available(self) -> int:
        """Blocks that nobody holds."""
        return len(self._free) + len(self._cached)

    @property
    def used(self) -> int:
        """Blocks that hold positions of some sequence."""
        return self.blocks - self.available

    @property
    def cached(self) -> int:
        """Blocks that nobody holds, and anybody may take over."""
        return len(self._cached)

    def version(self, block: int) -> int:
        """A number that changes before a block is written anew; by any thread."""
        return self._versions[block]

    def blocks_for(self, positions: int) -> int:
        return -(-positions // self.block_positions)

    def find(self, keys: Sequence[bytes]) -> tuple[int, int]:
        """How many of these blocks, from the first on, are there; and how many of them somebody holds."""
        found = held = 0
        for key in keys:
            if (block := self._named.get(key)) is None:
                break
            found += 1
            held += self._holders[block] > 0
        return found, held

    def blocks_of(self, keys: Sequence[bytes]) -> list[int]:
        """The blocks of these names, from the first on, as far as they are there."""
        return [self._named[key] for key in keys[: self.find(keys)[0]]]

    def drop(self, key: bytes) -> bool:
        """Have a block hold nothing any more; False: it has a holder, and stays."""
        block = self._named.get(key)
        if block is None or self._holders[block]:
            return block is None
        self._forget(block)
        self._versions[block] += 1
        self._free.append(block)
        return True

    def open(self, positions: int) -> BlockTable:
        """A table that may grow to `positions`; it holds nothing yet."""
        return BlockTable(self, self.blocks_for(positions))

    def forget(self) -> None:
        """What the blocks held is lost: nothing of it may be taken over. No table may hold any."""
        assert not any(self._holders)
        self._versions = [version + 1 for version in self._versions]
        self._free.extend(self._cached)
        for of_all in (self._cached, self._named, self._names):
            of_all.clear()
        self._texts.clear()

    def _take(self) -> int:
        if self._free:
            block = self._free.pop()
        else:
            block = next(iter(self._cached))
            self._forget(block)
            self.evicted += 1
        self._holders[block] = 1
        self._versions[block] += 1
        return block

    def _forget(self, block: int) -> None:
        """A cached block has no name any more."""
        del self._named[self._names.pop(block)], self._cached[block]
        self._texts.forget(block)

    def _find_alike(self, text: BlockText) -> tuple[int, int]:
        """As `BlockTexts.find`, of which the block counts as used."""
        found, block = self._texts.find(text)
        if found and block in self._cached:
            self._cached[block] = self._cached.pop(block)
        return found, block

    def _reuse(self, key: bytes) -> int | None:
        block = self._named.get(key)
        if block is not None:
            self._holders[block] += 1
            self._cached.pop(block, None)
        return block

    def _name(self, block: int, key: bytes, text: BlockText | None = None) -> None:
        """The first block of a name has it; another one, that was run at the same time, stays its holder's own."""
        if not self.caches:
            return
        if key not in self._named:
            self._named[key] = block
            self._names[block] = key
        if text is not None:
            self._texts.note(self._named[key], text)

    def _give_back(self, block_ids: list[int]) -> None:
        for block in reversed(block_ids):  # the last is of use only to who has those before: so it goes first
            self._holders[block] -= 1
            if self._holders[block]:
                continue
            if block in self._names:
                self._cached[block] = None
            else:
                self._free.append(block)


class BlockTable:
    """The blocks of one sequence; `BlockPool.open` makes it, `close` gives its blocks back."""

    __slots__ = ("_held", "_ids", "_named", "_pool")

    def __init__(self, pool: BlockPool, most: int) -> None:
        self._pool = pool
        self._ids = np.zeros(most, np.int32)
        self._held = 0
        self._named = 0  # of them, from the first on, that have names

    @property
    def ids(self) -> NDArray[np.int32]:
        """[n] all that it holds, in order of position."""
        return self._ids[: self._held]

    @property
    def most(self) -> int:
        """Blocks that it may ever hold."""
        return len(self._ids)

    def grow(self, positions: int) -> NDArray[np.int32]:
        """The ids [n] of the blocks that hold positions 0 .. positions - 1, allotted where still missing.

        The answer is a view that stays valid: an entry, once written, does not change before `close`.
        """
        needed = self._pool.blocks_for(positions)
        assert needed <= self.most, f"{positions} positions need {needed} blocks, {self.most} is the most it may hold"
        while self._held < needed:
            self._ids[self._held] = self._pool._take()
            self._held += 1
        return self._ids[:needed]

    def reuse(self, keys: Sequence[bytes]) -> int:
        """Take over the next blocks, of these names, as far as they are there; returns how many they were."""
        before = self._held
        for key in keys:
            if (block := self._pool._reuse(key)) is None:
                break
            self._ids[self._held] = block
            self._held += 1
        self._named = self._held
        return self._held - before

    def begin_alike(self, text: BlockText) -> tuple[int, int]:
        """Take a next block that is to begin as another one which holds the first of these tokens, if there is any.

        Returns how many tokens they are, and the block to copy from at the beginning of the step that is sent next:
        NO_BLOCK where nothing is to be copied, as the other block itself was what came next.
        """
        found, source = self._pool._find_alike(text)
        if not found:
            return 0, NO_BLOCK
        self._ids[self._held] = own = self._pool._take()
        self._held += 1
        return found, NO_BLOCK if own == source else source

    def name(self, keys: Sequence[bytes]) -> None:
        """Let others take over its first blocks, which are full, under these names."""
        for index in range(self._named, len(keys)):
            self._pool._name(int(self._ids[index]), keys[index])
        self._named = max(self._named, len(keys))

    def name_run(self, keys: BlockKeys, positions: int) -> None:
        """As `name`, of all blocks that so many positions fill, which were run; others may copy a part, too."""
        full = positions // self._pool.block_positions
        for index in range(self._named, full):
            text = keys.text(index, positions)
            self._pool._name(int(self._ids[index]), keys.between(index, index + 1)[0], text)
        self._named = max(self._named, full)

    def name_end(self, keys: BlockKeys, positions: int) -> None:
        """Let others copy what was run of the last block, which so many positions do not fill; before `close`."""
        index, rest = divmod(positions, self._pool.block_positions)
        if rest:
            text = keys.text(index, positions)
            self._pool._name(int(self._ids[index]), text.key, text)

    def close(self) -> None:
        """Gives everything back; closing twice is harmless."""
        self._pool._give_back(self.ids.tolist())
        self._held = self._named = 0


def fill(pool: BlockPool, keys: Sequence[bytes], read: Callable[[Sequence[tuple[int, bytes]]], int]) -> int:
    """Have blocks of these names read that are not there, as far as nobody holds what they take.

    `read` returns how many it has read, from the first on. Returns how many there are now, from the first on, of all.
    """
    table = pool.open(len(keys) * pool.block_positions)
    try:
        found = table.reuse(keys)
        missing = keys[found : found + pool.available]
        ids = table.grow((found + len(missing)) * pool.block_positions).tolist()
        there = found + read(list(zip(ids[found:], missing, strict=True)))
        table.name(keys[:there])
        return there
    finally:
        table.close()
