"""Which tokens stand in blocks, so that one who needs some of them finds the block that begins most alike.

A block is told of with the key of the one before it, as its keys and values follow from all that is before. And it is
found by whoever asked for what stands in it only: how much of a prompt had not to be run tells how far it is like what
was asked before, and token by token a prompt can be guessed that whole blocks do not give away.
"""

from __future__ import annotations

from itertools import islice

import numpy as np
from numpy.typing import NDArray

from numoe.coordinator.engine.kv.block_keys import BlockText

_LOOKED_AT = 16  # blocks behind one, the last told of first: 2 us each

Place = tuple[str, bytes]  # who asked, and the key before


class BlockTexts:
    """What was told of blocks, until it is forgotten."""

    def __init__(self) -> None:
        self._behind: dict[Place, dict[int, NDArray[np.int32]]] = {}  # blocks and their tokens
        self._places: dict[int, list[Place]] = {}  # of each block

    def note(self, block: int, text: BlockText) -> None:
        """A block holds these tokens, and nothing else until it is forgotten."""
        place = text.asker, text.before
        behind = self._behind.setdefault(place, {})
        if block not in behind:
            behind[block] = text.tokens.copy()  # a view would keep all of a request's
            self._places.setdefault(block, []).append(place)

    def forget(self, block: int) -> None:
        """A block holds something else; harmless where nothing is known of it."""
        for place in self._places.pop(block, ()):
            del self._behind[place][block]
            if not self._behind[place]:
                del self._behind[place]

    def clear(self) -> None:
        """No block holds anything."""
        self._behind.clear()
        self._places.clear()

    def find(self, text: BlockText) -> tuple[int, int]:
        """How many of these tokens a block begins with, which is the most of those looked at; and that block."""
        blocks = islice(reversed(self._behind.get((text.asker, text.before), {}).items()), _LOOKED_AT)
        return max(((_common(tokens, text.tokens), block) for block, tokens in blocks), default=(0, 0))


def _common(some: NDArray[np.int32], others: NDArray[np.int32]) -> int:
    """How many tokens they begin with are the same."""
    most = min(len(some), len(others))
    alike = some[:most] == others[:most]
    return most if alike.all() else int(alike.argmin())
