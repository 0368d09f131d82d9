"""One request in work: its tokens, its blocks, how it ends, and the text it still owes the client.

Where workers are lost, `rewind` lets it begin anew with what it knows: all its tokens, drawn ones too, are run again
as a prompt is. Nothing of them is taken or delivered twice, as only a token that follows the last known one is drawn.

The engine's thread alone calls these methods, but for `status` and `describe_end`. `take` decides everything the next
step depends on; `deliver` does the rest, while the workers already compute. Stop strings are the exception: with them
the text is made in `take`, because a step run in vain costs 10,000 times what looking at the text first does.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from numoe.coordinator.engine.counts import EngineCounts
from numoe.coordinator.engine.kv_blocks import BlockTable
from numoe.coordinator.engine.routed_experts import RoutedExperts
from numoe.coordinator.engine.state import RequestPhase, RequestStatus
from numoe.coordinator.requests.answer_text import AnswerText
from numoe.coordinator.requests.events import Failed, Finished, FinishReason, Resumed, Timings, Usage
from numoe.coordinator.requests.generation import Generation, wake_consumers
from numoe.coordinator.requests.request import GenerationRequest
from numoe.coordinator.requests.request_end import RequestEnd, asker_of, failure_of, outcome_of
from numoe.coordinator.requests.seen_tokens import SeenTokens
from numoe.model.text.tokenizer import Tokenizer
from numoe.protos.errors import LogitsNotFinite, ServiceError
from numoe.protos.expert_reduction import ALL_EXPERTS
from numoe.protos.messages import NO_TOKENS, Chunk

_OTHER = "or send another prompt: a file's numbers may overflow for some prompts only"


@dataclass(slots=True)
class _Owed:
    """A token that was drawn and not delivered yet."""

    token_id: int
    logprob: float
    text: str | None = None  # None: not made yet


class Sequence:
    """A request from its arrival to its terminal event."""

    def __init__(
        self,
        request: GenerationRequest,
        budget: int,
        deadline: float,
        generation: Generation,
        tokenizer: Tokenizer,
        experts: RoutedExperts | None = None,  # None: the model has none
    ) -> None:
        self.request = request
        self.generation = generation
        self.deadline = deadline  # monotonic; infinity: none
        self.prompt = len(request.prompt)
        self.positions = self.prompt + budget - 1  # the last token drawn is never run
        self.known = self.prompt  # tokens of prompt and answer so far
        self.run = 0  # of these, run through the model
        self.sent = 0  # of these, run or under way
        self.most_run = 0  # as `run`, but before workers were lost: the most there ever were
        self.not_finite = False  # whether its last step drew nothing, and it is not known yet where numbers overflow
        self.losses = 0  # of workers, in a row, while tokens of this request were run for the first time
        self.outcome: Finished | Failed | None = None
        self.submitted_at = 0.0
        self.started_at = 0.0  # 0: still in the queue
        self.first_token_at = 0.0  # 0: none drawn yet
        self.last_token_at = 0.0
        self.table: BlockTable | None = None  # None: still in the queue, or closed
        self._tokens = np.empty(self.prompt + budget, np.int32)
        self._tokens[: self.prompt] = request.prompt
        self._seen = SeenTokens(request.prompt, budget) if request.sampling.penalises else None
        self._tokenizer = tokenizer
        self._text = AnswerText(tokenizer, request.stop, request.include_stop)
        self._reduction = ALL_EXPERTS if request.experts is None else request.experts
        self._owed: _Owed | None = None
        self._owes_progress = False
        self._lost: tuple[str, float] | None = None  # what was lost and when, until it is as far again as it was then
        self._again = 0  # tokens run again since
        self._resumed: Resumed | None = None  # not delivered yet
        self._experts, self._experts_run = experts, 0

    @property
    def drawn(self) -> int:
        return self.known - self.prompt

    @property
    def pending(self) -> int:
        """Known tokens that are neither run nor under way."""
        return self.known - self.sent

    @property
    def under_way(self) -> bool:
        """Whether workers run tokens of it, and so read and write its blocks."""
        return self.sent > self.run

    @property
    def is_over(self) -> bool:
        """Whether it ended, or its client no longer wants it."""
        return self.outcome is not None or self.generation.mailbox.closed

    def status(self) -> RequestStatus:
        """How far it is; by any thread."""
        drawn = self.drawn
        phase = RequestPhase.DECODE if drawn else RequestPhase.PREFILL if self.started_at else RequestPhase.QUEUED
        if self.run < self.most_run:
            phase = RequestPhase.RESUMING
        return RequestStatus(
            request_id=self.request.request_id,
            client=self.request.key or self.request.client,
            phase=phase,
            prompt_tokens=self.prompt,
            prompt_done=min(self.run, self.prompt),
            drawn=drawn,
            most_drawn=len(self._tokens) - self.prompt,
            submitted_at=self.submitted_at,
            first_token_at=self.first_token_at,
            last_token_at=self.last_token_at,
        )

    def describe_end(self, event: Finished | Failed, now: float) -> RequestEnd:
        """What the log and traces are told of the request once it is over; by any thread."""
        request, usage = self.request, self._usage()
        return RequestEnd(
            asker=asker_of(request),
            outcome=outcome_of(event),
            ended_at=time.time(),
            seconds=now - self.submitted_at,
            error=failure_of(event),
            prompt_tokens=usage.prompt_tokens,
            generated_tokens=usage.completion_tokens,
            mean_experts=usage.mean_experts,
            saved_bytes=usage.saved_bytes,
            timings=event.timings if isinstance(event, Finished) else self._timings(now),
            parts=3 if self.drawn else 2 if self.started_at else 1,
            max_tokens=request.max_tokens,
            sampling=request.sampling,
        )

    def admit(self, table: BlockTable, now: float) -> None:
        """Takes a slot, with blocks for all that it may ever hold."""
        self.table = table
        self.started_at = now

    def close(self) -> None:
        """Gives the blocks back."""
        if self.table is not None:
            self.table.close()
            self.table = None

    def send(self, tokens: int) -> Chunk:
        """The next `tokens` pending tokens, as the workers get them; from now on they are under way."""
        assert self.table is not None
        start, end = self.sent, self.sent + tokens
        self.sent, blocks = end, self.table.grow(end)
        if end < self.known:
            return Chunk(start, self._tokens[start:end], blocks, experts=self._reduction)
        seen, counts = (NO_TOKENS, NO_TOKENS) if self._seen is None else self._seen.arrays()
        sampling = self.request.sampling
        return Chunk(start, self._tokens[start:end], blocks, sampling, seen, counts, self._reduction)

    def new_prompt_tokens(self, tokens: int) -> int:
        """How many of the next `tokens` are the prompt's, and were never run before."""
        return max(0, min(self.run + tokens, self.prompt) - self.most_run)

    def tokens_again(self, tokens: int) -> int:
        """How many of the next `tokens` were run before workers were lost."""
        return max(0, min(self.run + tokens, self.most_run) - self.run)

    def ran(self, tokens: int, experts_run: int, now: float) -> None:
        """The chunk of so many tokens has gone through the model, and through so many experts."""
        self._again += self.tokens_again(tokens)
        self.run += tokens
        self._experts_run += experts_run
        if self.run > self.most_run:
            self._owes_progress = self.most_run < self.prompt
            self.most_run = self.run
            self.losses = 0
            if self._lost is not None:
                why, at = self._lost
                self._resumed, self._lost, self._again = Resumed(why, now - at, self._again), None, 0

    def rewind(self, why: str, now: float) -> None:
        """The workers were lost, and with them what was run: all of it is to be run again."""
        self.losses += self.sent > self.most_run or self.not_finite
        self.not_finite = False
        if self._lost is None:
            self._lost = why, now
        self.run = self.sent = self._experts_run = 0

    def count_draw(self, counts: EngineCounts, now: float) -> None:
        """Count the times of a token that is about to be taken."""
        if self.drawn:
            counts.between_tokens_seconds.observe(now - self.last_token_at)
        else:
            counts.first_token_seconds.observe(now - self.submitted_at)
            counts.prefill_rate.observe(self.prompt / max(now - self.started_at, 1e-9))

    def take(self, token_id: int, logprob: float, now: float) -> None:
        """One more token was drawn; `outcome` is set if it is the last."""
        self._tokens[self.known] = token_id
        if self.drawn == 0:
            self.first_token_at = now
        self.last_token_at = now
        self.known += 1  # after the times, which other threads look at once a token is drawn
        if self._seen is not None:
            self._seen.add(token_id)
        self._owed = _Owed(token_id, logprob)
        reason, match = self._end(self._owed)
        if reason is not None:
            self.outcome = Finished(reason, match, self._usage(), self._timings(now))

    def fail_not_finite(self, place: str) -> None:
        """No token could be drawn, as numbers stop to be finite in that part of the model: the request ends."""
        problem = f"the model computed no finite logits for position {self.known}, after {self.drawn} tokens generated"
        problem += f": numbers stop to be finite in {place}"
        self.outcome = Failed(LogitsNotFinite(f"{problem}; tell the operator to check the model's file, {_OTHER}"))

    def deliver(self) -> None:
        """Puts what is owed into the client's mailbox."""
        mailbox = self.generation.mailbox
        if self._resumed is not None:
            mailbox.put_resumed(self._resumed)
            self._resumed = None
        if self._owes_progress:
            self._owes_progress = False
            mailbox.put_progress(min(self.run, self.prompt), self.prompt)
        if self._owed is not None:
            owed, self._owed = self._owed, None
            if owed.text is None:
                owed.text = self._make_text(owed.token_id, ends=isinstance(self.outcome, Finished))
            mailbox.put_delta(owed.text, owed.token_id, owed.logprob)
        if self.outcome is not None:
            mailbox.put_terminal(self.outcome)

    def _end(self, owed: _Owed) -> tuple[FinishReason | None, str | int | None]:
        """Why and by what the request ends with the token drawn last; None and None if it goes on."""
        ends = self._is_end_token(owed.token_id)
        full = self.known == len(self._tokens)
        if self.request.stop:
            owed.text = self._make_text(owed.token_id, ends=ends or full)
            if self._text.stop_match is not None:
                return FinishReason.STOP, self._text.stop_match
        if ends:
            return FinishReason.STOP, owed.token_id
        return (FinishReason.LENGTH, None) if full else (None, None)

    def _is_end_token(self, token_id: int) -> bool:
        request = self.request
        if self.drawn < request.min_tokens:
            return False
        return token_id in request.stop_token_ids or (not request.ignore_eos and token_id in self._tokenizer.end_ids)

    def _make_text(self, token_id: int, *, ends: bool) -> str:
        """What the client sees of one more token, and of all that was held back if the answer `ends` with it."""
        text = ""
        if not self._is_end_token(token_id) or self.request.include_stop:
            text = self._text.push(token_id, may_stop=self.drawn >= self.request.min_tokens)
        return text + self._text.finish() if ends else text

    def _usage(self) -> Usage:
        if self._experts is None or not self.run:
            return Usage(self.prompt, self.drawn)
        counted = self._experts_run, self.run
        return Usage(self.prompt, self.drawn, self._experts.mean(*counted), self._experts.saved_bytes(*counted))

    def _timings(self, now: float) -> Timings:
        """Where the time went until `now`; of an answer, until its last token."""
        started, first = self.started_at or now, self.first_token_at or now
        queue, prefill = started - self.submitted_at, first - started
        decode = self.last_token_at - first if self.drawn else 0.0
        return Timings(
            queue_milliseconds=queue * 1e3,
            prefill_milliseconds=prefill * 1e3,
            decode_milliseconds=decode * 1e3,
            prefill_tokens_per_second=self.prompt / prefill if prefill > 0 and self.drawn else 0.0,
            decode_tokens_per_second=(self.drawn - 1) / decode if decode > 0 else 0.0,
        )


def fail_all(sequences: Collection[Sequence], error: ServiceError) -> None:
    """End the requests of sequences that are out of the batch, by any thread."""
    for sequence in sequences:
        # One exception each: raised in several tasks, a shared one would gather all their tracebacks.
        sequence.generation.mailbox.put_terminal(Failed(type(error)(str(error))))
    wake_consumers(sequence.generation for sequence in sequences)
