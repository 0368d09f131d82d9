"""Sets of a vocabulary's tokens as bits, in which is said what may be drawn: [V / 32, rounded up] words."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

TokenMask = NDArray[np.uint32]


def mask_of(allowed: NDArray[np.bool_]) -> TokenMask:  # [V]
    """The tokens for which it is true."""
    bits = np.zeros(-(-len(allowed) // 32) * 32, np.uint8)
    bits[: len(allowed)] = allowed
    return np.packbits(bits, bitorder="little").view(np.uint32)


def with_tokens(mask: TokenMask, token_ids: Iterable[int]) -> TokenMask:
    """The same and these; a mask of its own."""
    more = mask.copy()
    for token_id in token_ids:
        more[token_id // 32] |= np.uint32(1 << token_id % 32)
    return more
