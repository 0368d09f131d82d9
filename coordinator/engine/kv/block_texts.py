"""Which tokens stand in blocks, so that one who needs some of them finds the block that begins most alike.

A block is told of with the key of the one before it, as its keys and values follow from all that is before.
"""

from __future__ import annotations

from itertools import islice

import numpy as np
from numpy.typing import NDArray

from numoe.coordinator.engine.kv.block_keys import BlockText

_LOOKED_AT = 16  # blocks behind one, the last told of first: 2 us each


class BlockTexts:
    """What was told of blocks, until it is forgotten."""

    def __init__(self) -> None:
        self._behind: dict[bytes, dict[int, NDArray[np.int32]]] = {}  # by the key before: blocks and their tokens
        self._before: dict[int, bytes] = {}

    def note(self, block: int, text: BlockText) -> None:
        """A block of which nothing is known holds these tokens."""
        self._behind.setdefault(text.before, {})[block] = text.tokens.copy()  # a view would keep all of a request's
        self._before[block] = text.before

    def forget(self, block: int) -> None:
        """A block holds something else; harmless where nothing is known of it."""
        if (before := self._before.pop(block, None)) is None:
            return
        del self._behind[before][block]
        if not self._behind[before]:
            del self._behind[before]

    def clear(self) -> None:
        """No block holds anything."""
        self._behind.clear()
        self._before.clear()

    def find(self, text: BlockText) -> tuple[int, int]:
        """How many of these tokens a block begins with, which is the most of those looked at; and that block."""
        blocks = islice(reversed(self._behind.get(text.before, {}).items()), _LOOKED_AT)
        return max(((_common(tokens, text.tokens), block) for block, tokens in blocks), default=(0, 0))


def _common(some: NDArray[np.int32], others: NDArray[np.int32]) -> int:
    """How many tokens they begin with are the same."""
    most = min(len(some), len(others))
    alike = some[:most] == others[:most]
    return most if alike.all() else int(alike.argmin())
