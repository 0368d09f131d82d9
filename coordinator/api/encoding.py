"""Encoding and decoding apart from the event loop, so that no text holds up a step, a health check or another text.

*Guarantees*: long texts have a thread of their own, behind which no short one waits. A text that cannot fit the context
is refused by its bytes before any of it is encoded, and by its tokens as soon as there are too many. Between two pieces
the work looks whether anybody still wants it: its client may be gone, its deadline past. No piece takes longer than
some tenths of a second: a text that would have one, 15 MB of one letter for example, is refused.

The tokenizer computes without the GIL, so pieces are about ending early, not about other threads. *Rejected*: a process
for it, which would have to copy texts in and tokens out, and holds up short texts just as a thread would.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from numoe.model.text.part import UNCUT_CHARACTERS, Part, Uncuttable
from numoe.model.text.tokenizer import Tokenizer
from numoe.protos.errors import DeadlineExceeded, InvalidRequest, PromptTooLong, RequestCancelled

Result = TypeVar("Result")
Checkpoint = Callable[[], None]  # raises where the work is not wanted any more

SHORT_CHARACTERS = 1 << 16  # encoded in a tenth of a second
TOKENIZED_BYTES = 1 << 20  # of a text that is only tokenized: half a second
DETOKENIZED_IDS = 1 << 20  # as many tokens as such a text can have

_SHORT = ThreadPoolExecutor(4, "numoe-short-text")
_LONG = ThreadPoolExecutor(1, "numoe-long-text")  # one, as the longest piece takes 65 to 260 MB while it is encoded


def never_stop() -> None:
    """The checkpoint of work that is always wanted."""


@dataclass(frozen=True, slots=True)
class Encoder:
    """A tokenizer for one request: looks between pieces whether to go on, and at no more than fits."""

    tokenizer: Tokenizer
    checkpoint: Checkpoint = never_stop
    most_tokens: int | None = None  # that the text may have; None: any number

    def encode(self, text: str, *, special: bool) -> list[int]:
        """The token ids of a text. Raises InvalidRequest, of the field "prompt", for one that does not fit."""
        return self.encode_parts([Part(text, special)])

    def encode_parts(self, parts: Sequence[Part]) -> list[int]:
        """The token ids of a text in parts. Raises InvalidRequest as encode() does."""
        for part in parts:
            self.refuse_too_long(part.text)
        self.checkpoint()
        token_ids: list[int] = []
        with _refuse_uncuttable():
            for run in self.tokenizer.encode_parts(parts):
                token_ids += run
                self.refuse_too_many(len(token_ids))
                self.checkpoint()
        return token_ids

    def pieces(self, text: str) -> Iterator[str]:
        """Pieces of a text that are to be worked on one by one, after a look at each whether to go on.

        Raises InvalidRequest, of the field "prompt", where one would be so long that it could not be ended in time.
        """
        with _refuse_uncuttable():
            for piece in self.tokenizer.pieces(text):
                self.checkpoint()
                yield piece

    def refuse_too_long(self, text: str) -> None:
        """Raise PromptTooLong for a text whose bytes are more than the context's tokens can spell."""
        if self.most_tokens is None:
            return
        most = self.most_tokens * self.tokenizer.longest_token_bytes
        if (size := byte_length(text)) > most:
            problem = f"takes {size} bytes; no text of more than {most} fits {self.most_tokens} tokens of context"
            least = -(-size // self.tokenizer.longest_token_bytes)
            raise PromptTooLong("prompt", problem, least, self.most_tokens)

    def refuse_too_many(self, tokens: int) -> None:
        """Raise PromptTooLong for more tokens than fit."""
        if self.most_tokens is not None and tokens > self.most_tokens:
            problem = f"has more than {self.most_tokens} tokens, which is all that the context holds"
            raise PromptTooLong("prompt", problem, tokens, self.most_tokens)


@contextmanager
def _refuse_uncuttable() -> Iterator[None]:
    try:
        yield
    except Uncuttable as error:
        problem = f"has more than {UNCUT_CHARACTERS} characters in a row without the end of a word or number"
        raise InvalidRequest("prompt", f"{problem}; break them up, with blanks or lines") from error


def byte_length(text: str) -> int:
    """The bytes of a text in UTF-8."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


async def work_apart(work: Callable[[Checkpoint], Result], characters: int, deadline: float | None) -> Result:
    """Run `work` in a thread that is right for a text of so many characters.

    Its checkpoint raises RequestCancelled once whoever awaits it is cancelled, and DeadlineExceeded from `deadline` on,
    in time.monotonic().
    """
    gone = threading.Event()

    def checkpoint() -> None:
        if gone.is_set():
            raise RequestCancelled("the client cancelled the request")
        if deadline is not None and time.monotonic() >= deadline:
            raise DeadlineExceeded("the deadline passed while the text was being encoded or decoded")
        time.sleep(0)  # lets go of the GIL, for which others otherwise wait 5 ms

    lane = _SHORT if characters <= SHORT_CHARACTERS else _LONG
    try:
        return await asyncio.get_running_loop().run_in_executor(lane, work, checkpoint)
    finally:
        gone.set()
