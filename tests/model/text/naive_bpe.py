"""Byte-level byte-pair encoding as its definition says, slowly: the twin of numoe's tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import regex  # type: ignore[import-untyped]  # comes with transformers; knows \p{L}, which re does not

from tests.tiny_vocabulary import byte_spellings


def cut(text: str, patterns: Sequence[str]) -> list[str]:
    """Cut a text at the matches of one pattern after the other, keeping all of it."""
    pieces = [text]
    for pattern in patterns:
        pieces = [part for piece in pieces for part in _cut(piece, pattern)]
    return pieces


def _cut(piece: str, pattern: str) -> list[str]:
    parts, end = [], 0
    for match in regex.finditer(pattern, piece):
        parts += [piece[end : match.start()], match.group()]
        end = match.end()
    return [part for part in [*parts, piece[end:]] if part]


def encode(text: str, patterns: Sequence[str], tokens: Sequence[str], merges: Sequence[str]) -> list[int]:
    """Merge the best pair of each word, the leftmost of equals, until none is left."""
    spellings = byte_spellings()
    ids = {token: token_id for token_id, token in enumerate(tokens)}
    ranks = {tuple(merge.split(" ")): rank for rank, merge in reversed(list(enumerate(merges)))}
    encoded = []
    for word in cut(text, patterns):
        symbols = [spellings[byte] for byte in word.encode()]
        while pairs := [(ranks[pair], at) for at, pair in enumerate(pairwise(symbols)) if pair in ranks]:
            _, at = min(pairs)
            symbols[at : at + 2] = ["".join(symbols[at : at + 2])]
        encoded += [ids[symbol] for symbol in symbols if symbol in ids]
    return encoded
