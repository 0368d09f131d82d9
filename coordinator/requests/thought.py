"""Where in its thought an answer is, and the end of a thought that takes too long.

Tokens that close such a thought are put in place of those that are drawn. Which token is put where follows from the
tokens before alone, so that the same request gives the same answer, and one that is run again after a loss too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from sys import maxsize

from numoe.model.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class ThoughtTokens:
    """How a thought is told and ended, and how long it may be."""

    opening: int  # the token that opens a thought
    closing: int  # the one that closes it
    opened: bool  # whether the prompt has opened it
    most: int | None = None  # tokens of it, what opens and closes it not counted; None: as many as the model likes
    ending: tuple[int, ...] = ()  # what is put behind so many; `closing` is one of these


class _Stage(Enum):
    BEFORE = auto()  # only blanks were drawn
    WITHIN = auto()
    ENDING = auto()
    AFTER = auto()


class FollowedThought:
    """Where in its thought an answer is."""

    __slots__ = ("_left", "_length", "_stage", "_tokenizer", "_tokens")

    def __init__(self, tokens: ThoughtTokens, tokenizer: Tokenizer) -> None:
        self._tokens = tokens
        self._tokenizer = tokenizer
        self._stage = _Stage.WITHIN if tokens.opened else _Stage.BEFORE
        self._length = 0
        self._left: Sequence[int] = tokens.ending

    @property
    def under_way(self) -> bool:
        """Whether the next token is part of it, be it one that closes it."""
        return self._stage in (_Stage.WITHIN, _Stage.ENDING)

    @property
    def free(self) -> int:
        """How many of the tokens that are drawn next stay, whatever they are."""
        if self._stage is _Stage.ENDING:
            return 0
        if self._stage is _Stage.AFTER or self._tokens.most is None:
            return maxsize
        return self._tokens.most - self._length  # where no thought is open yet, one may be at once

    def follow(self, drawn: int) -> int | None:
        """The token that is put in place of the one that was drawn; None: that one stays."""
        tokens = self._tokens
        match self._stage:
            case _Stage.BEFORE:
                if drawn == tokens.opening:
                    self._stage = _Stage.WITHIN
                elif self._tokenizer.token_bytes(drawn).strip():
                    self._stage = _Stage.AFTER
            case _Stage.WITHIN if drawn == tokens.closing:
                self._stage = _Stage.AFTER
            case _Stage.WITHIN if tokens.most is None or self._length < tokens.most:
                self._length += 1
            case _Stage.WITHIN | _Stage.ENDING:
                first, *self._left = self._left
                self._stage = _Stage.ENDING if self._left else _Stage.AFTER
                return first
        return None
