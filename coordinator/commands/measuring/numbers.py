"""Reads lists of numbers as llama-bench's users write them: "512,1024", "0-4096+1024", "1-32*2"."""

from __future__ import annotations

import re
from collections.abc import Iterable

from numoe.protos.errors import SetupError

_RANGE = re.compile(r"(\d{1,9})(?:-(\d{1,9})(?:([+*])(\d{1,9}))?)?")
MOST_NUMBERS = 1000


def read_numbers(flag: str, texts: Iterable[str], least: int = 0) -> tuple[int, ...]:
    """The numbers that a flag was given, each once, in order. Raises SetupError."""
    found = [number for text in texts for part in text.split(",") for number in _read_range(flag, part.strip(), least)]
    if len(found) > MOST_NUMBERS:
        raise SetupError(f"{flag} names {len(found)} numbers, expected at most {MOST_NUMBERS}")
    return tuple(dict.fromkeys(found))


def read_pairs(flag: str, texts: Iterable[str]) -> tuple[tuple[int, int], ...]:
    """Pairs of numbers, one to a text. Raises SetupError."""
    pairs = []
    for text in texts:
        parts = [part.strip() for part in text.split(",")]
        if len(parts) != 2 or not all(re.fullmatch(r"\d{1,9}", part) for part in parts):
            raise SetupError(f"{flag} is {text!r}, expected tokens of prompt and answer with a comma between: 512,128")
        pairs.append((int(parts[0]), int(parts[1])))
    return tuple(pairs)


def _read_range(flag: str, text: str, least: int) -> list[int]:
    match = _RANGE.fullmatch(text)
    if match is None:
        raise SetupError(
            f"{flag} is {text!r}, expected numbers with commas between, or a range: 512,1024 or 0-4096+1024"
        )
    first, last = int(match[1]), int(match[2] or match[1])
    multiply, change = match[3] == "*", int(match[4] or 1)
    if first < least:
        raise SetupError(f"{flag} is {text!r}, expected at least {least}")
    if last < first or change < (2 if multiply else 1) or (multiply and not first):
        raise SetupError(
            f"{flag} is {text!r}, a range that goes nowhere: expected first-last+step or first-last*factor"
        )
    found: list[int] = []
    while first <= last and len(found) <= MOST_NUMBERS:
        found.append(first)
        first = first * change if multiply else first + change
    return found
