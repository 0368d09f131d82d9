"""A part of a text that is to be encoded."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of text, and who wrote it."""

    text: str
    special: bool  # whether control tokens that stand in it become their ids; else they are plain text
