"""Workers in one object: tokens drawn from a hash of all a sequence has seen, read back from a real block table.

Each position's hash is kept in the cell its block table names, so a block that is shared, lost or reused too early
changes the tokens; `expected_tokens` says what they must be. Only what is allowed, and has no bias of minus infinity,
is drawn. Every step is checked against the executor's limits.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Sequence
from itertools import count

import numpy as np

from numoe.coordinator.engine.batch import MOST_LOSSES
from numoe.coordinator.engine.executor import BlockStore, SlotStore
from numoe.protos.errors import WorkerLost
from numoe.protos.messages import NO_BLOCK, NOT_DRAWN, Chunk, Sampling, Step, StepLimits, StepResult

MASK = 2**64 - 1
EXPERTS_RUN = 3  # for each token, all layers together
LIMITS = StepLimits(step_tokens=32, sequences=8, context_tokens=256, kv_blocks=64, block_positions=16)


def absorb(digest: int, token_id: int) -> int:
    """The hash after one more token."""
    digest = ((digest ^ token_id) * 0xBF58476D1CE4E5B9 + 0x9E3779B97F4A7C15) & MASK
    return digest ^ (digest >> 29)


def draw(digest: int, sampling: Sampling, position: int, alphabet: Sequence[int]) -> tuple[int, float]:
    """The token at `position` after a prefix with this hash, and its log-probability."""
    if sampling.temperature > 0:
        digest = absorb(absorb(digest, sampling.seed), position)
    return alphabet[digest % len(alphabet)], logprob_of(digest)


def logprob_of(digest: int) -> float:
    """Of whatever token follows a prefix with this hash; exact in float32."""
    return -float(digest % 1024) / 64


def expected_tokens(
    prompt: Sequence[int], count: int, alphabet: Sequence[int], sampling: Sampling | None = None
) -> list[tuple[int, float]]:
    """The first `count` tokens with their log-probabilities, without blocks, chunks or batches."""
    digest = 0
    for token_id in prompt:
        digest = absorb(digest, token_id)
    drawn: list[tuple[int, float]] = []
    for position in range(len(prompt), len(prompt) + count):
        drawn.append(draw(digest, sampling or Sampling(), position, alphabet))
        digest = absorb(digest, drawn[-1][0])
    return drawn


class FakeExecutor:
    """Implements StepExecutor; `before_collect` runs in the engine's thread while a step is in flight."""

    def __init__(
        self,
        alphabet: Sequence[int],
        limits: StepLimits = LIMITS,
        before_collect: Callable[[Step], None] = lambda step: None,
        before_restart: Callable[[], None] = lambda: None,
        in_check: Callable[[], None] = lambda: None,
        depth: int = 1,
    ) -> None:
        self.alphabet = alphabet
        self.before_collect = before_collect
        self.before_restart = before_restart
        self.in_check = in_check
        self.seconds_of: Callable[[Step], float] = lambda step: 0.001
        self.steps: list[Step] = []
        self.restarts = 0
        self.closed = 0
        self._limits = limits
        self._cells: dict[tuple[int, int], int] = {}  # (block, offset) -> hash of the sequence up to there
        self.depth = depth
        self.store: BlockStore | None = None
        self.slot_files: SlotStore | None = None
        self._in_flight: deque[tuple[Step, StepResult]] = deque()

    @property
    def limits(self) -> StepLimits:
        return self._limits

    def submit(self, step: Step) -> None:
        assert len(self._in_flight) < self.depth, "the oldest step was not collected"
        check_step(step, self._limits, self.steps)
        check_apart(step, [other for other, _ in self._in_flight])
        self.steps.append(step)
        for chunk in step.chunks:
            self._copy(chunk)
        drawn = [self._run(chunk) for chunk in step.chunks]
        tokens = [pair for pairs in drawn for pair in pairs]
        tops = [chunk.top for chunk, pairs in zip(step.chunks, drawn, strict=True) for _ in pairs]
        most = max(tops, default=0)
        likeliest = np.array([range(most)] * len(tops), np.int32).reshape(len(tops), most)
        result = StepResult(
            step.number,
            np.array([token_id for token_id, _ in tokens], np.int32),
            np.array([logprob for _, logprob in tokens], np.float32),
            np.array([EXPERTS_RUN * len(chunk.token_ids) for chunk in step.chunks]),
            seconds=self.seconds_of(step),
            top_tokens=likeliest,
            top_logprobs=-likeliest.astype(np.float32),
        )
        self._in_flight.append((step, result))

    def collect(self, timeout_seconds: float) -> StepResult:
        assert self._in_flight, "nothing was submitted"
        step, result = self._in_flight.popleft()
        self.before_collect(step)
        return result

    def check(self) -> None:
        self.in_check()

    def restart(self, look: Callable[[], None]) -> None:
        look()
        self._in_flight.clear()
        self._cells.clear()
        self.before_restart()
        self.restarts += 1

    def close(self) -> None:
        self.closed += 1

    def positions_run(self) -> int:
        return sum(len(chunk.token_ids) for step in self.steps for chunk in step.chunks)

    def _copy(self, chunk: Chunk) -> None:
        if chunk.source_block == NO_BLOCK:
            return
        block, copied = divmod(chunk.first_position, self._limits.block_positions)
        assert copied, "nothing of a block is copied"
        for offset in range(copied):
            self._cells[int(chunk.kv_blocks[block]), offset] = self._cells[chunk.source_block, offset]

    def _run(self, chunk: Chunk) -> list[tuple[int, float]]:
        size = self._limits.block_positions
        position = chunk.first_position
        blocks = chunk.kv_blocks.tolist()
        digest = 0 if position == 0 else self._cells[blocks[(position - 1) // size], (position - 1) % size]
        digests = []
        for position, token_id in enumerate(chunk.token_ids.tolist(), chunk.first_position):
            digest = absorb(digest, token_id)
            self._cells[blocks[position // size], position % size] = digest
            digests.append(digest)
        if chunk.sampling is None:
            return []
        possible, told = _possible(chunk, self.alphabet), []
        given, first = chunk.given.tolist() or [NOT_DRAWN] * chunk.draws, position + 2 - chunk.draws
        for at, token_id, before in zip(count(first), given, digests[-chunk.draws :]):
            if token_id != NOT_DRAWN:
                told.append((token_id, logprob_of(before)))
            elif possible:
                told.append(draw(before, chunk.sampling, at, possible))
            else:
                told.append((NOT_DRAWN, math.nan))
        return told


def _possible(chunk: Chunk, alphabet: Sequence[int]) -> Sequence[int]:
    """What of the alphabet a chunk lets be drawn."""
    if chunk.allowed is None and not len(chunk.biases.tokens):
        return alphabet
    impossible = chunk.biases.tokens[np.isneginf(chunk.biases.values)].tolist()
    words = np.full(1 << 8, 2**32 - 1, np.uint32) if chunk.allowed is None else chunk.allowed()
    allowed = np.unpackbits(words.view(np.uint8), bitorder="little")
    return [token_id for token_id in alphabet if allowed[token_id] and token_id not in impossible]


def check_apart(step: Step, others: Sequence[Step]) -> None:
    """Steps under way at once share no sequence, but for the chunks of one prompt, which follow each other.

    A block that is being written is one sequence's own, so the last one of a chunk tells whose it is.
    """
    for chunk in step.chunks:
        blocks = set(chunk.kv_blocks.tolist())
        own = [other for before in others for other in before.chunks if other.kv_blocks[-1] in blocks]
        if own:
            last = own[-1]
            draws = last.sampling is not None and (not len(last.given) or last.given[-1] == NOT_DRAWN)
            assert not draws, "a token is run before the one that it follows was drawn"
            assert chunk.first_position == own[-1].first_position + len(own[-1].token_ids)


def check_step(step: Step, limits: StepLimits, before: Sequence[Step]) -> None:
    """A legal step: within the limits, numbered in order, tables just as long as needed, and no block that a chunk
    writes is in another one's table."""
    assert not before or step.number > before[-1].number
    assert 0 < len(step.chunks) <= limits.sequences
    assert sum(len(chunk.token_ids) for chunk in step.chunks) <= limits.step_tokens
    assert sum(chunk.draws for chunk in step.chunks if chunk.sampling is not None) <= limits.sequences
    held: list[int] = []
    written: list[int] = []
    for chunk in step.chunks:
        end = chunk.first_position + len(chunk.token_ids)
        assert 0 <= chunk.first_position < end <= limits.context_tokens
        assert len(chunk.kv_blocks) == -(-end // limits.block_positions)
        assert chunk.token_ids.dtype == chunk.kv_blocks.dtype == np.int32
        held += chunk.kv_blocks.tolist()
        written += chunk.kv_blocks[chunk.first_position // limits.block_positions :].tolist()
        seen = chunk.seen_tokens.tolist()
        assert len(seen) == len(set(seen)) == len(chunk.seen_counts)
        assert bool(seen) == (chunk.sampling is not None and chunk.sampling.penalises)
    holders = Counter(held)
    assert all(holders[block] == 1 for block in written), "a block is written that is in two tables"
    assert 0 <= min(held) <= max(held) < limits.kv_blocks


def lose_worker_at(*numbers: int) -> Callable[[Step], None]:
    """A `before_collect` that loses a worker in the steps with these numbers."""

    def lose(step: Step) -> None:
        if step.number in numbers:
            raise WorkerLost(f"worker 1 (pid 4242) died in step {step.number}", (1,))

    return lose


def lose_workers_from(number: int) -> Callable[[Step], None]:
    """As `lose_worker_at`, in this step and as often again as fails what it ran, before anything else is run."""
    return lose_worker_at(*range(number, number + MOST_LOSSES))
