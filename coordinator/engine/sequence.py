"""One request in work: its tokens, its blocks, how it ends, and the text it still owes the client.

Where workers are lost, `rewind` lets it begin anew with what it knows, and so does `preempt` where others need its
blocks: all its tokens, drawn ones too, are run again as a prompt is. Nothing of them is taken or delivered twice, as
only a token that follows the last known one is drawn. What stands in blocks of others is passed over (`reuse_blocks`),
but for the last known token, after which one is drawn, and behind which there may be guesses (drafting/drafter.py).

The engine's thread alone calls these methods, but for `status` and `describe_end`. `take` decides everything the next
step depends on; `deliver` does the rest, while the workers already compute. Stop strings are the exception: with them
the text is made in `take`, because a step run in vain costs 10,000 times what looking at the text first does.
"""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray

from numoe.coordinator.engine.counts import EngineCounts
from numoe.coordinator.engine.drafting.draft_price import DraftPrice
from numoe.coordinator.engine.drafting.drafter import Drafter, guesses_of
from numoe.coordinator.engine.drawing import Drawing
from numoe.coordinator.engine.kv.block_pool import BlockTable
from numoe.coordinator.engine.kv.sequence_blocks import SequenceBlocks
from numoe.coordinator.engine.kv.slots import Left
from numoe.coordinator.engine.owed import Owed
from numoe.coordinator.engine.routed_experts import RoutedExperts
from numoe.coordinator.engine.state import RequestPhase, RequestStatus
from numoe.coordinator.requests.answer_text import AnswerText
from numoe.coordinator.requests.constraint import FIELD, Guide
from numoe.coordinator.requests.events import Failed, Finished, FinishReason, Resumed, Timings, Usage
from numoe.coordinator.requests.generation import Generation
from numoe.coordinator.requests.request import GenerationRequest, Priority
from numoe.coordinator.requests.request_end import RequestEnd, asker_of, failure_of, outcome_of
from numoe.model.text.tokenizer import Tokenizer
from numoe.protos.errors import InvalidRequest, LogitsNotFinite
from numoe.protos.expert_reduction import ALL_EXPERTS
from numoe.protos.messages import NOT_DRAWN, Chunk, Draw

ANSWER_TOKENS = 512  # that an answer counts as at most while it waits: how long it becomes nobody knows

_OTHER = "or send another prompt: a file's numbers may overflow for some prompts only"


class Sequence:
    """A request from its arrival to its terminal event."""

    def __init__(
        self,
        request: GenerationRequest,
        budget: int,
        deadline: float,
        generation: Generation,
        tokenizer: Tokenizer,
        block_positions: int,  # of a KV block
        experts: RoutedExperts | None = None,  # None: the model has none
        guide: Guide | None = None,  # None: any token may be drawn
        *,
        drafts: bool = False,  # whether guesses of what comes next may be run
    ) -> None:
        self.request = request
        self.generation = generation
        self.deadline = deadline  # monotonic; infinity: none
        self.prompt = len(request.prompt)
        self.positions = self.prompt + budget - 1  # the last token drawn is never run
        self.known = self.prompt  # tokens of prompt and answer so far
        self.run = 0  # of these, run through the model
        self.sent = 0  # of these, run or under way
        self.most_run = 0  # as `run`, but before workers or blocks were lost: the most there ever were
        self.cached = 0  # of the prompt's tokens, that never had to be run, as they stood in blocks of others
        self.not_finite = False  # whether its last step drew nothing, and it is not known yet where numbers overflow
        self.losses = 0  # of workers, in a row, while tokens of this request were run for the first time
        self.share_key = request.key or request.client.rpartition(":")[0]  # without the connection's port
        self.share_tokens = self.prompt + min(budget, ANSWER_TOKENS)  # that it takes of that share
        self.yields = request.priority is Priority.BATCH  # to those that are not batch
        self.outcome: Finished | Failed | None = None
        self.submitted_at = 0.0
        self.started_at = 0.0  # 0: still in the queue
        self.first_token_at = self.last_token_at = 0.0  # 0: none drawn yet
        self._tokens = np.empty(self.prompt + budget, np.int32)
        self._tokens[: self.prompt] = request.prompt
        self._drawing = Drawing(request, budget, tokenizer, guide)
        self._tokenizer = tokenizer
        self._reduction = ALL_EXPERTS if request.experts is None else request.experts
        self._owed = Owed(AnswerText(tokenizer, request.stop, request.include_stop, request.shown_tokens))
        self._told = 1  # tokens of the prompt of which is known how likely they were, the first one apart
        self._lost: tuple[str, float] | None = None  # what was lost and when, until it is as far again as it was then
        self._again = 0  # tokens run again since
        self._experts, self._experts_run, self._tokens_run = experts, 0, 0  # what was run, and for how many tokens
        self._kv = SequenceBlocks(self._reduction, self._tokens, block_positions, self.share_key)
        self._drafter = Drafter(self._tokens, self.prompt, guesses=drafts and not request.prompt_logprobs)

    @property
    def drawn(self) -> int:
        return self.known - self.prompt

    @property
    def pending(self) -> int:
        """Known tokens that are neither run nor under way."""
        return max(0, self.known - self.sent)  # guesses may be under way behind the last one

    @property
    def tells_prompt(self) -> bool:
        """Whether it is still to be told of tokens of the prompt how likely they were."""
        return self.request.prompt_logprobs and self._told < self.prompt

    @property
    def under_way(self) -> bool:
        """Whether workers run tokens of it, and so read and write its blocks."""
        return self.sent > self.run

    @property
    def streams(self) -> bool:
        """Whether it draws a token in every step that runs one of it."""
        return self.drawn > 0 and self.known - self.run <= 1

    @property
    def resumes(self) -> bool:
        """Whether it is not as far again as it was when workers were lost."""
        return self._lost is not None

    @property
    def is_new(self) -> bool:
        """Whether no token of it was ever run."""
        return self.most_run == self.cached

    @property
    def blocks(self) -> NDArray[np.int32]:
        """[n] those that it holds."""
        return self._kv.ids

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
            cached_tokens=usage.cached_tokens,
            drafted_tokens=usage.drafted_tokens,
            accepted_tokens=usage.accepted_tokens,
            timings=event.timings if isinstance(event, Finished) else self._timings(now),
            parts=3 if self.drawn else 2 if self.started_at else 1,
            max_tokens=request.max_tokens,
            sampling=request.sampling,
        )

    def admit(self, table: BlockTable, now: float) -> int:
        """Takes a slot; returns as `reuse_blocks` does."""
        self._kv.open(table)
        self.started_at = self.started_at or now
        return self.reuse_blocks()

    @property
    def _takes_over(self) -> bool:
        """Whether it stands between two blocks with nothing under way, and so may take the next ones over; no prompt
        of which is to be told how likely its tokens were does, as that is known of what is run."""
        return self._kv.begins_at(self.sent) and not (self.under_way or self.tells_prompt)

    def next_keys(self) -> list[bytes]:
        """As `keys_to_run`, where it may take these blocks over."""
        return self.keys_to_run() if self._takes_over else []

    def keys_to_run(self) -> list[bytes]:
        """Names of the full blocks that it runs or will run, as far as its tokens are known, but for the last one."""
        return self._kv.keys(self.run, self.known)

    def reuse_blocks(self) -> int:
        """Takes over those of its next blocks that are there; returns how many tokens so never have to be run."""
        return self._pass_over(self._kv.reuse(self.next_keys()))

    def copy_block(self) -> int:
        """Copies what another block begins with to the next one, as the step that is sent next runs tokens of it;
        returns as `reuse_blocks` does."""
        return self._pass_over(self._kv.copy(self.run, self.known)) if self._takes_over else 0

    def _pass_over(self, tokens: int) -> int:
        self.run += tokens
        self.sent += tokens
        saved = max(0, self.run - self.most_run)
        self.cached += saved
        self.most_run += saved
        return saved

    def preempt(self) -> None:
        """Gives its slot and its blocks up: all of it is to be run again, once it is admitted anew."""
        self.close()
        self._begin_anew()

    def left(self) -> Left:
        """The blocks that were run."""
        return self._kv.left(self.run)

    def close(self) -> None:
        """Gives the blocks back."""
        self._kv.close(self.run if not self.under_way else 0)

    def draft(self, most: int, price: DraftPrice, streams: int) -> int:
        """Puts up to `most` guesses behind what is known, as many as pay beside so many streams; returns how many.

        Not beyond the answer's end or its last block, as nobody shall lack a block for a guess.
        """
        room = min(self.positions - self.known, self._kv.room(self.known))
        return self._drafter.draft(self.known, min(most, room, self._drawing.alike(self.drawn) - 1), price, streams)

    def send(self, tokens: int) -> Chunk:
        """The next `tokens` pending tokens, and guesses, as the workers get them; from now on they are under way."""
        start, end = self.sent, self.sent + tokens
        self.sent, (blocks, source) = end, self._kv.send(end)
        chunk = Chunk(start, self._tokens[start:end], blocks, experts=self._reduction, source_block=source)
        if end >= self.known:
            asked = self._drawing.ask(chunk, self._tokens[: self.known])
            chunk = replace(asked, draws=1 + end - self.known)
        first = max(start, self._told - 1)
        if self.tells_prompt and first < end:
            chunk = self._drawing.tell(chunk, self._tokens[: self.known], first)
        return chunk

    def new_prompt_tokens(self, tokens: int) -> int:
        """How many of the next `tokens` are the prompt's, and were never run before."""
        return max(0, min(self.run + tokens, self.prompt) - self.most_run)

    def tokens_again(self, tokens: int) -> int:
        """How many of the next `tokens` were run before workers were lost."""
        return max(0, min(self.run + tokens, self.most_run) - self.run)

    def verify(self, chunk: Chunk, draws: tuple[Draw, ...], counts: EngineCounts) -> tuple[Draw, ...]:
        """The draws of a chunk that stand; tokens that were guessed wrong are as if they had not been sent."""
        standing = self._drafter.verify(chunk, draws)
        self.sent -= len(draws) - len(standing)
        counts.drafted_tokens += len(guesses_of(chunk))
        return standing

    def ran(self, tokens: int, experts_run: int, now: float) -> None:
        """The chunk of so many tokens has gone through the model, and through so many experts."""
        self._again += self.tokens_again(tokens)
        self.run += tokens
        self._experts_run += experts_run
        self._tokens_run += tokens
        self._kv.ran(self.run)
        if self.run > self.most_run:
            if self.most_run < self.prompt:
                self._owed.note_progress(min(self.run, self.prompt), self.prompt)
            self.most_run = self.run
            self.losses = 0
            if self._lost is not None:
                why, at = self._lost
                self._owed.note_resumed(Resumed(why, now - at, self._again))
                self._lost, self._again = None, 0

    def rewind(self, why: str, now: float) -> None:
        """The workers were lost, and with them what its blocks held: all of it is to be run again."""
        self.losses += self.sent > self.most_run or self.not_finite
        self.not_finite = False
        if self._lost is None:
            self._lost = why, now
        self._kv.lose()
        self._begin_anew()

    def _begin_anew(self) -> None:
        self.run = self.sent = self._experts_run = self._tokens_run = 0

    def take(self, chunk: Chunk, draws: tuple[Draw, ...], counts: EngineCounts, now: float) -> int:
        """What came of a chunk, of verified draws: told of given tokens, and drawn ones; returns how many of these."""
        if len(chunk.given):
            self._take_given(chunk.first_position + len(chunk.token_ids) - chunk.draws + 1, draws)
            if chunk.given[-1] != NOT_DRAWN:
                return 0
            draws = draws[-1:]
        before, since = self.drawn, self.last_token_at
        for draw, guess in zip_longest(draws, guesses_of(chunk)[: len(draws)]):
            self._drafter.accepted += draw.token_id == guess
            counts.accepted_tokens += draw.token_id == guess
            self._take_drawn(draw, now)
            if self.outcome is not None:
                break
        taken = self.drawn - before
        if not before:
            counts.first_token_seconds.observe(now - self.submitted_at)
            counts.prefill_rate.observe((self.prompt - self.cached) / max(now - self.started_at, 1e-9))
        for _ in range(taken if before else taken - 1):
            counts.between_tokens_seconds.observe((now - since) / taken)
        return taken

    def _take_given(self, first: int, draws: tuple[Draw, ...]) -> None:
        """Of the tokens from number `first` on is known how likely they were; those of the prompt are told once."""
        new = draws[max(0, self._told - first) : max(0, self.prompt - first)]
        self._owed.add_prompt(new)
        self._told += len(new)

    def _take_drawn(self, draw: Draw, now: float) -> None:
        """One more token was drawn; `outcome` is set if it is the last."""
        draw = self._drawing.follow(draw)
        self._tokens[self.known] = draw.token_id
        if self.drawn == 0:
            self.first_token_at = now
        self.last_token_at = now
        self.known += 1  # after the times, which other threads look at once a token is drawn
        self._drafter.follow(self.known)
        reason, match = self._end(draw)
        if reason is not None:
            self.outcome = Finished(reason, match, self._usage(), self._timings(now))

    def ends_without_draw(self) -> bool:
        """Whether no token was drawn as none may be: the request ends with that."""
        if not (why := self._drawing.dead_end(self._tokens[: self.known])):
            return False
        self.outcome = Failed(InvalidRequest(FIELD, f"the grammar came to an end after {self.drawn} tokens: {why}"))
        return True

    def fail_not_finite(self, place: str) -> None:
        """No token could be drawn, as numbers stop to be finite in that part of the model: the request ends."""
        problem = f"the model computed no finite logits for position {self.known}, after {self.drawn} tokens generated"
        problem += f": numbers stop to be finite in {place}"
        self.outcome = Failed(LogitsNotFinite(f"{problem}; tell the operator to check the model's file, {_OTHER}"))

    def deliver(self) -> None:
        """Puts what is owed into the client's mailbox."""
        self._owed.tell(self.generation.mailbox, self.outcome)
        if self.outcome is None:
            self._drafter.learn(min(self.known, self.run + 1))  # of a prompt a piece at a time

    def _end(self, draw: Draw) -> tuple[FinishReason | None, str | int | None]:
        """Why and by what the request ends with the token drawn last, which is owed now; None, None: it goes on."""
        request, token_id, may_stop = self.request, draw.token_id, self.drawn >= self.request.min_tokens
        ends = may_stop and self._is_end_token(token_id)
        complete = not ends and self._drawing.completes(token_id)
        full = self.known == len(self._tokens)
        self._owed.add(draw, shown=not ends or request.include_stop, may_stop=may_stop)
        if request.stop and (match := self._owed.find_stop(ends=ends or complete or full)) is not None:
            return FinishReason.STOP, match
        if ends or complete:
            return FinishReason.STOP, token_id if ends else None
        if self.generation.stopping:
            return FinishReason.STOP, None
        return (FinishReason.LENGTH, None) if full else (None, None)

    def _is_end_token(self, token_id: int) -> bool:
        request = self.request
        return token_id in request.stop_token_ids or (not request.ignore_eos and token_id in self._tokenizer.end_ids)

    def _usage(self) -> Usage:
        usage = Usage(
            self.prompt,
            self.drawn,
            cached_tokens=self.cached,
            drafted_tokens=self._drafter.drafted,
            accepted_tokens=self._drafter.accepted,
        )
        if self._experts is None or not self._tokens_run:
            return usage
        counted = self._experts_run, self._tokens_run
        mean, saved = self._experts.mean(*counted), self._experts.saved_bytes(*counted)
        return replace(usage, mean_experts=mean, saved_bytes=saved)

    def _timings(self, now: float) -> Timings:
        """Where the time went until `now`; of an answer, until its last token."""
        started, first = self.started_at or now, self.first_token_at or now
        queue, prefill = started - self.submitted_at, first - started
        decode = self.last_token_at - first if self.drawn else 0.0
        return Timings(
            queue_milliseconds=queue * 1e3,
            prefill_milliseconds=prefill * 1e3,
            decode_milliseconds=decode * 1e3,
            prefill_tokens_per_second=(self.prompt - self.cached) / prefill if prefill > 0 and self.drawn else 0.0,
            decode_tokens_per_second=(self.drawn - 1) / decode if decode > 0 else 0.0,
        )
