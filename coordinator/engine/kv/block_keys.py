"""Names of KV blocks: two blocks of one name hold the same bits.

    key of block n = BLAKE2b(key of block n - 1, the block's token ids), of the first one after what else counts

Keys and values of a position follow from its token, from all before it, and from which experts are run; not from batch,
chunks, workers or hosts. A name of 256 bits is not found twice, by nobody who tries to read what others asked either.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from numoe.protos.expert_reduction import ExpertReduction

KEY_BYTES = 32


class BlockText(NamedTuple):
    """What stands in a block, from its first position on."""

    before: bytes  # the key of the block before it
    tokens: NDArray[np.int32]  # [n]
    asker: str  # whose request has it there

    @property
    def key(self) -> bytes:
        """The block's name; fewer tokens have another one."""
        return blake2b(self.before + self.tokens.tobytes(), digest_size=KEY_BYTES).digest()


class BlockKeys:
    """The names of one sequence's blocks, made as its tokens become known: 1.5 us each."""

    __slots__ = ("_asker", "_keys", "_size", "_tokens")

    def __init__(
        self, experts: ExpertReduction, tokens: NDArray[np.int32], block_positions: int, asker: str = ""
    ) -> None:
        """`tokens`: all that the sequence may ever have; those that are asked for are known."""
        self._keys = [blake2b(repr(experts).encode(), digest_size=KEY_BYTES).digest()]  # the root before the first
        self._tokens, self._size, self._asker = tokens, block_positions, asker

    def between(self, first: int, end: int) -> list[bytes]:
        """Those of blocks `first` to `end` - 1, whose tokens are all known."""
        for block in range(len(self._keys) - 1, end):
            self._keys.append(self._text(block, (block + 1) * self._size).key)
        return self._keys[1 + first : 1 + end]

    def text(self, block: int, end: int) -> BlockText:
        """What stands in a block before position `end` of the sequence; tokens before that are all known."""
        self.between(0, block)
        return self._text(block, min(end, (block + 1) * self._size))

    def _text(self, block: int, end: int) -> BlockText:
        return BlockText(self._keys[block], self._tokens[block * self._size : end], self._asker)
