"""The end of a thought that takes too long: tokens that close it are put in place of those that are drawn.

Which token is put where follows from the tokens before alone, so that the same request gives the same answer, and one
that is run again after a loss too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from sys import maxsize

from numoe.model.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class ThoughtLimit:
    """How long a thought may be, and how it is told and ended."""

    tokens: int  # at most, what opens and closes it not counted
    opening: int  # the token that opens a thought
    closing: int  # the one that closes it
    ending: tuple[int, ...]  # what is put at its end; `closing` is one of these
    opened: bool  # whether the prompt has opened it


class _Stage(Enum):
    BEFORE = auto()  # only blanks were drawn
    WITHIN = auto()
    ENDING = auto()
    AFTER = auto()


class LimitedThought:
    """Where in its thought an answer is."""

    __slots__ = ("_left", "_limit", "_stage", "_tokenizer", "_within")

    def __init__(self, limit: ThoughtLimit, tokenizer: Tokenizer) -> None:
        self._limit = limit
        self._tokenizer = tokenizer
        self._stage = _Stage.WITHIN if limit.opened else _Stage.BEFORE
        self._within = 0
        self._left: Sequence[int] = limit.ending

    @property
    def free(self) -> int:
        """How many of the tokens that are drawn next stay, whatever they are."""
        match self._stage:
            case _Stage.BEFORE:
                return 1 + self._limit.tokens
            case _Stage.WITHIN:
                return self._limit.tokens - self._within
            case _Stage.ENDING:
                return 0
            case _Stage.AFTER:
                return maxsize

    def follow(self, drawn: int) -> int | None:
        """The token that is put in place of the one that was drawn; None: that one stays."""
        match self._stage:
            case _Stage.BEFORE:
                if drawn == self._limit.opening:
                    self._stage = _Stage.WITHIN
                elif self._tokenizer.token_bytes(drawn).strip():
                    self._stage = _Stage.AFTER
            case _Stage.WITHIN if drawn == self._limit.closing:
                self._stage = _Stage.AFTER
            case _Stage.WITHIN if self._within < self._limit.tokens:
                self._within += 1
            case _Stage.WITHIN | _Stage.ENDING:
                first, *self._left = self._left
                self._stage = _Stage.ENDING if self._left else _Stage.AFTER
                return first
        return None
