"""Merging by scores as its definition says it, in quadratic time: the yardstick for the tokenizer."""

from __future__ import annotations

from collections.abc import Mapping


def merge(text: str, scores: Mapping[str, float]) -> list[str]:
    """Join, again and again, the two neighbours whose token has the highest score; of equal ones the leftmost."""
    symbols = list(text)
    while True:
        pairs = [(scores.get(left + right), place) for place, (left, right) in enumerate(zip(symbols, symbols[1:]))]  # noqa: B905, RUF007
        known = [(score, -place) for score, place in pairs if score is not None]
        if not known:
            return symbols
        place = -max(known)[1]
        symbols[place : place + 2] = [symbols[place] + symbols[place + 1]]


def encode(text: str, tokens: Mapping[str, int], scores: Mapping[str, float]) -> list[int]:
    """Ids of an escaped text; what is no token is spelled in bytes."""
    ids: list[int] = []
    for symbol in merge(text, scores):
        known = tokens.get(symbol)
        ids += [tokens[f"<0x{byte:02X}>"] for byte in symbol.encode()] if known is None else [known]
    return ids
