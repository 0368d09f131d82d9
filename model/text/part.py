"""A part of a text that is to be encoded, and how long a part may be that must be encoded in one go."""

from __future__ import annotations

from dataclasses import dataclass

UNCUT_CHARACTERS = 1 << 18  # that are searched for a place to cut; so many letters take 0.1 s to encode, and 65 MB


class Uncuttable(ValueError):
    """A text has more than UNCUT_CHARACTERS in a row without a place to cut it: encoding them could not be ended."""


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of text, and who wrote it."""

    text: str
    special: bool  # whether control tokens that stand in it become their ids; else they are plain text
