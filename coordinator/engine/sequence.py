"""One request in work: its tokens, its blocks, how it ends, and the text it still owes the client.

The engine's thread alone calls these methods. `take` decides everything the next step depends on; `deliver` does the
rest, while the workers already compute. Stop strings are the exception: with them the text is made in `take`, because
a step run in vain costs 10,000 times what looking at the text first does.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from numoe.coordinator.engine.answer_text import AnswerText
from numoe.coordinator.engine.generation import Generation
from numoe.coordinator.engine.kv_blocks import BlockTable
from numoe.coordinator.engine.requests import Failed, Finished, FinishReason, GenerationRequest, Timings, Usage
from numoe.model.text.tokenizer import Tokenizer
from numoe.protos.messages import NO_TOKENS, Chunk


class SeenTokens:
    """The distinct tokens of a prompt and its answer, with how often each was drawn: what penalties need."""

    __slots__ = ("_counts", "_distinct", "_index_of", "_tokens")

    def __init__(self, prompt: tuple[int, ...], budget: int) -> None:
        self._index_of = {token_id: index for index, token_id in enumerate(dict.fromkeys(prompt))}
        self._distinct = len(self._index_of)
        self._tokens = np.zeros(self._distinct + budget, np.int32)
        self._tokens[: self._distinct] = list(self._index_of)
        self._counts = np.zeros(self._distinct + budget, np.int32)

    def add(self, token_id: int) -> None:
        index = self._index_of.setdefault(token_id, self._distinct)
        if index == self._distinct:
            self._tokens[index] = token_id
            self._distinct += 1
        self._counts[index] += 1

    def arrays(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Ids and counts, [n] each; views that hold until the next `add`."""
        return self._tokens[: self._distinct], self._counts[: self._distinct]


class Sequence:
    """A request from its arrival to its terminal event."""

    def __init__(
        self, request: GenerationRequest, budget: int, deadline: float, generation: Generation, tokenizer: Tokenizer
    ) -> None:
        self.request = request
        self.generation = generation
        self.deadline = deadline  # monotonic; infinity: none
        self.prompt = len(request.prompt)
        self.positions = self.prompt + budget - 1  # the last token drawn is never run
        self.known = self.prompt  # tokens of prompt and answer so far
        self.run = 0  # of these, run through the model
        self.outcome: Finished | Failed | None = None
        self.submitted_at = 0.0
        self.started_at = 0.0  # 0: still in the queue
        self.table: BlockTable | None = None  # None: still in the queue, or closed
        self._tokens = np.empty(self.prompt + budget, np.int32)
        self._tokens[: self.prompt] = request.prompt
        self._seen = SeenTokens(request.prompt, budget) if request.sampling.penalises else None
        self._tokenizer = tokenizer
        self._text = AnswerText(tokenizer, request.stop, request.include_stop)
        self._owed: tuple[int, float] | None = None  # token and logprob drawn, not delivered yet
        self._owed_text: str | None = None  # None: not made yet
        self._owes_progress = False
        self._first_token_at = 0.0
        self._last_token_at = 0.0

    @property
    def drawn(self) -> int:
        return self.known - self.prompt

    @property
    def pending(self) -> int:
        """Known tokens still to run."""
        return self.known - self.run

    def admit(self, table: BlockTable, now: float) -> None:
        self.table = table
        self.started_at = now

    def close(self) -> None:
        """Gives the blocks back."""
        if self.table is not None:
            self.table.close()
            self.table = None

    def chunk(self, tokens: int) -> Chunk:
        """The next `tokens` pending tokens, as the workers get them."""
        assert self.table is not None
        end = self.run + tokens
        blocks = self.table.grow(end)
        if end < self.known:
            return Chunk(self.run, self._tokens[self.run : end], blocks)
        seen, counts = (NO_TOKENS, NO_TOKENS) if self._seen is None else self._seen.arrays()
        return Chunk(self.run, self._tokens[self.run : end], blocks, self.request.sampling, seen, counts)

    def ran(self, tokens: int) -> None:
        """The chunk of so many tokens has gone through the model."""
        self._owes_progress = self.run < self.prompt
        self.run += tokens

    def take(self, token_id: int, logprob: float, now: float) -> None:
        """One more token was drawn; `outcome` is set if it is the last."""
        self._tokens[self.known] = token_id
        self.known += 1
        if self._seen is not None:
            self._seen.add(token_id)
        if self.drawn == 1:
            self._first_token_at = now
        self._last_token_at = now
        self._owed = (token_id, logprob)
        reason, match = self._end(token_id)
        if reason is not None:
            self.outcome = Finished(reason, match, Usage(self.prompt, self.drawn), self._timings())

    def deliver(self) -> None:
        """Puts what is owed into the client's mailbox."""
        mailbox = self.generation.mailbox
        if self._owes_progress:
            self._owes_progress = False
            mailbox.put_progress(min(self.run, self.prompt), self.prompt)
        if self._owed is not None:
            token_id, logprob = self._owed
            if self._owed_text is None:
                self._make_text(token_id, ends=isinstance(self.outcome, Finished))
            mailbox.put_delta(self._owed_text or "", token_id, logprob)
            self._owed = self._owed_text = None
        if self.outcome is not None:
            mailbox.put_terminal(self.outcome)

    def _end(self, token_id: int) -> tuple[FinishReason | None, str | int | None]:
        ends = self._is_end_token(token_id)
        full = self.known == len(self._tokens)
        if self.request.stop:
            self._make_text(token_id, ends=ends or full)
            if self._text.stop_match is not None:
                return FinishReason.STOP, self._text.stop_match
        if ends:
            return FinishReason.STOP, token_id
        return (FinishReason.LENGTH, None) if full else (None, None)

    def _is_end_token(self, token_id: int) -> bool:
        request = self.request
        if self.drawn < request.min_tokens:
            return False
        return token_id in request.stop_token_ids or (not request.ignore_eos and token_id in self._tokenizer.end_ids)

    def _make_text(self, token_id: int, *, ends: bool) -> None:
        text = ""
        if not self._is_end_token(token_id) or self.request.include_stop:
            text = self._text.push(token_id, may_stop=self.drawn >= self.request.min_tokens)
        self._owed_text = text + self._text.finish() if ends else text

    def _timings(self) -> Timings:
        queue = self.started_at - self.submitted_at
        prefill = self._first_token_at - self.started_at
        decode = self._last_token_at - self._first_token_at
        return Timings(
            queue_milliseconds=queue * 1e3,
            prefill_milliseconds=prefill * 1e3,
            decode_milliseconds=decode * 1e3,
            prefill_tokens_per_second=self.prompt / prefill if prefill > 0 else 0.0,
            decode_tokens_per_second=(self.drawn - 1) / decode if decode > 0 else 0.0,
        )
