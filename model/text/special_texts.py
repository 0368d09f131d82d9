"""Finds special tokens that stand in a text: the longest first, wherever it stands, and each kind from the left.

So does llama.cpp. It looks through the text once for each token, which a text that holds hundreds of them makes slow (a
megabyte with Mistral's 771: 6.7 s); so vocabularies whose special tokens cannot overlap, as Mistral's and Llama's, are
looked through once.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence

_HEAD = 2  # characters by which most places are told from those where a token may begin


class SpecialTexts:
    """Special tokens to be found. Thread-safe."""

    __slots__ = ("_begin", "_ids", "_lengths", "_tokens")

    def __init__(self, tokens: Sequence[tuple[str, int]]) -> None:
        """Take texts, none of them empty, with their ids."""
        self._tokens = sorted(tokens, key=lambda token: -len(token[0].encode()))
        self._ids = dict(tokens)
        self._lengths: defaultdict[str, list[int]] = defaultdict(list)  # by head, the longest first
        heads = {text[:_HEAD] for text, _ in tokens}
        for length in sorted({len(text) for text, _ in tokens}, reverse=True):
            stems = {text[:_HEAD] for text, _ in tokens if len(text) == length}
            for head in heads:
                if not stems.isdisjoint((head, head[:length])):
                    self._lengths[head].append(length)
        first = {text[0] for text, _ in tokens}
        overlap = any(not first.isdisjoint(text[1:]) for text, _ in tokens)
        self._begin = None if overlap or not first else re.compile(f"[{re.escape(''.join(sorted(first)))}]")

    def split(self, text: str) -> list[str | int]:
        """The text with ids in place of special tokens; what lies between is never empty."""
        return self._split_by_each(text) if self._begin is None else list(self._split_at_once(text, self._begin))

    def _split_at_once(self, text: str, begin: re.Pattern[str]) -> Iterator[str | int]:
        start = 0
        for match in begin.finditer(text):
            place = match.start()
            lengths = self._lengths.get(text[place : place + _HEAD]) or self._lengths.get(text[place], [])
            for length in lengths:
                token_id = self._ids.get(text[place : place + length])
                if token_id is not None:
                    if start < place:
                        yield text[start:place]
                    yield token_id
                    start = place + length
                    break
        if start < len(text):
            yield text[start:]

    def _split_by_each(self, text: str) -> list[str | int]:
        fragments: list[str | int] = [text] if text else []
        for token, token_id in self._tokens:
            if token in text:
                fragments = [piece for fragment in fragments for piece in _cut_out(fragment, token, token_id)]
        return fragments


def _cut_out(fragment: str | int, token: str, token_id: int) -> Iterator[str | int]:
    if isinstance(fragment, int):
        yield fragment
        return
    for number, piece in enumerate(fragment.split(token)):
        if number:
            yield token_id
        if piece:
            yield piece
