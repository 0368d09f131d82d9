"""A completion's text, and where its tokens start in it, in characters of the text.

A token that starts within a character starts where that character does. What has no text has no length: a control token
that was drawn, and what was put into a prompt to encode it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from numoe.coordinator.api.answering import Text, TokenIds
from numoe.coordinator.api.prompts import decode
from numoe.model.text.tokenizer import Detokenizer, Tokenizer

LOST_BYTES = 64  # of a text that a vocabulary cannot spell; behind so many in a row the next token is looked for
_CONTINUATIONS = bytes(range(0x80, 0xC0))  # all bytes of a character in UTF-8 but its first


class Offsets(Protocol):
    """Where the tokens of a text start."""

    def place(self, token_id: int) -> int:
        """Where the next token starts; to be called with each, in order."""


@dataclass(frozen=True, slots=True)
class Echo:
    """A prompt as its answers repeat it."""

    text: str
    new_offsets: Callable[[], Offsets]


def echo_of(prompt: Text | TokenIds, tokenizer: Tokenizer) -> Echo:
    """A text as it came; of token ids, which have to be valid, the text with their control tokens."""
    if isinstance(prompt, Text):
        return Echo(prompt.text, partial(WrittenOffsets, prompt.text, tokenizer))
    text = decode(tokenizer, prompt.ids, control=True)
    return Echo(text, partial(DecodedOffsets, tokenizer, frozenset(prompt.ids)))


class DecodedOffsets:
    """Of tokens from which a text is made."""

    def __init__(self, tokenizer: Tokenizer, shown: frozenset[int] = frozenset(), start: int = 0) -> None:
        """`shown`: control tokens that give their names; `start`: where the first token starts."""
        self._detokenizer = Detokenizer(tokenizer, shown)
        self._end = start

    def place(self, token_id: int) -> int:
        """Where the next token starts."""
        start = self._end + self._detokenizer.count_broken(token_id)
        self._end += len(self._detokenizer.push(token_id))
        return start


class WrittenOffsets:
    """Of the tokens that a text was encoded to.

    The text is looked at, as not all tokens are in it, nor all of it in tokens: a token that begins texts and the blank
    before a text are put in, and bytes that the vocabulary lacks are left out.
    """

    def __init__(self, text: str, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._text = self._as_compared(text.encode())
        self._end = 0  # of the last token, in bytes
        self._characters = 0  # that begin before it
        self._begins = True  # whether plain text begins there

    def place(self, token_id: int) -> int:
        """Where the next token starts."""
        begin, end = self._find(token_id)
        self._pass(begin)
        within = begin < len(self._text) and self._text[begin] in _CONTINUATIONS
        start = self._characters - within
        self._pass(end)
        return start

    def _find(self, token_id: int) -> tuple[int, int]:
        """From where to where the token stands in the text, in bytes; at once its end, if it does not."""
        at, text = self._end, self._text
        spelled = self._as_compared(self._tokenizer.token_bytes(token_id, control=True))
        without_blank = spelled.removeprefix(b" ") if self._tokenizer.leading_blank else spelled
        likelier = (without_blank, spelled) if self._begins else (spelled, without_blank)
        self._begins = not self._tokenizer.token_bytes(token_id)
        for one in likelier:
            if text.startswith(one, at):
                return at, at + len(one)
        found = -1 if self._begins else text.find(spelled, at, at + LOST_BYTES + len(spelled))
        return (at, at) if found < 0 else (found, found + len(spelled))

    def _pass(self, end: int) -> None:
        self._characters += len(self._text[self._end : end].translate(None, _CONTINUATIONS))
        self._end = end

    def _as_compared(self, spelled: bytes) -> bytes:
        """With the blank for each mark of one, where these are the same, and as many characters."""
        return spelled.replace("\u2581".encode(), b" ") if self._tokenizer.marks_blanks else spelled
