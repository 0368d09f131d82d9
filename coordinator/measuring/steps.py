"""Steps of random tokens on rows of a KV cache, and what they took: the one stopwatch of all benches.

A row is a sequence with KV blocks of its own, side by side. A prompt is run as serving runs it, in steps of at most
`step_tokens` positions of all rows together, and only after its end a token is drawn. Decoded tokens are random, one
step each, and what is drawn is not looked at. Positions may be written again: what was there is then gone, as it is
where a peer trims its cache.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from numoe.protos.errors import WorkerLost
from numoe.protos.expert_reduction import ALL_EXPERTS, ExpertReduction
from numoe.protos.messages import Chunk, Sampling, Step, StepLimits, StepResult

GREEDY = Sampling()
SEED = 0

COUNT_SECONDS = 0.0005

Tokens = NDArray[np.int32]  # [rows, count]


class _Counted(NamedTuple):
    """What a worker has counted so far."""

    steps: int
    read: int  # bytes of weights
    inside: int  # nanoseconds inside steps
    waiting: int  # of them, while all its threads waited


@dataclass(frozen=True, slots=True)
class Measurement:
    """What some steps took."""

    seconds: float
    weight_bytes: int  # read by all workers
    waiting: float  # share of the time inside steps in which workers waited for each other, mean of all


class StepRunner(Protocol):
    """Workers, as far as they run steps."""

    limits: StepLimits

    def submit(self, step: Step) -> None:
        """Hand a step to all workers."""

    def collect(self, timeout_seconds: float) -> StepResult:
        """What the step drew."""

    def counters(self) -> Sequence[np.void]:
        """What each worker has counted, see COUNTERS in protos/arena.py."""


class Steps:
    """Runs steps on a group of workers, one after the other."""

    def __init__(
        self,
        group: StepRunner,
        vocabulary: int,
        step_timeout_seconds: float,
        experts: ExpertReduction = ALL_EXPERTS,  # that every token runs
    ) -> None:
        self.limits: StepLimits = group.limits
        self._experts = experts
        self._group, self._vocabulary, self._timeout = group, vocabulary, step_timeout_seconds
        self._random = np.random.default_rng(SEED)
        self._number = 0

    def random_tokens(self, count: int, rows: int = 1) -> Tokens:
        """Ids that are as likely as each other."""
        return self._random.integers(0, self._vocabulary, (rows, count), np.int32)

    def prompt(self, tokens: Tokens, first: int = 0, room: int | None = None) -> Measurement:
        """Run tokens of each row from position `first` on; `room`: positions kept for a row, by default a context."""
        return self._timed(list(self._prompt_steps(tokens, first, room or self.limits.context_tokens)))

    def decode(
        self, tokens: Tokens, first: int = 0, room: int | None = None, sampling: Sampling = GREEDY, guesses: int = 0
    ) -> Measurement:
        """Run tokens of each row one by one from position `first` on, those of all rows in one step.

        `guesses`: so many more of each row in a step, each drawn after, as where all that was guessed is right.
        """
        rows, count = tokens.shape
        together = 1 + guesses
        tables = self.tables(rows, room or self.limits.context_tokens)
        steps = [
            [
                replace(self.chunk(tables[row], first + index, ids, draws=len(ids)), sampling=sampling)
                for row, ids in enumerate(tokens[:, index : index + together])
            ]
            for index in range(0, count, together)
        ]
        return self._timed(steps)

    def chunk(self, table: NDArray[np.int32], first: int, token_ids: NDArray[np.int32], draws: int = 1) -> Chunk:
        """Token ids from a position on, in the KV blocks of a row; a token is drawn after the last `draws` of them."""
        blocks = -(-(first + len(token_ids)) // self.limits.block_positions)
        assert blocks <= len(table), "a row is longer than its room"
        sampling = GREEDY if draws else None
        return Chunk(first, token_ids, table[:blocks], sampling, experts=self._experts, draws=max(draws, 1))

    def run(self, chunks: Iterable[Chunk]) -> StepResult:
        """Run one step."""
        self._number += 1
        self._group.submit(Step(self._number, tuple(chunks)))
        return self._group.collect(self._timeout)

    def tables(self, rows: int, room: int) -> list[NDArray[np.int32]]:
        """The KV blocks of each row, side by side, with `room` positions for each."""
        blocks = -(-room // self.limits.block_positions)
        assert rows * blocks <= self.limits.kv_blocks, "the settings keep too few KV positions for these rows"
        return [np.arange(row * blocks, (row + 1) * blocks, dtype=np.int32) for row in range(rows)]

    def _prompt_steps(self, tokens: Tokens, first: int, room: int) -> Iterable[list[Chunk]]:
        rows, count = tokens.shape
        tables = self.tables(rows, room)
        chunks: list[Chunk] = []
        left = self.limits.step_tokens
        for row in range(rows):
            done = 0
            while done < count:
                size = min(left, count - done)
                ends = done + size == count
                chunks.append(self.chunk(tables[row], first + done, tokens[row, done : done + size], int(ends)))
                done, left = done + size, left - size
                if not left or len(chunks) == self.limits.sequences:
                    yield chunks
                    chunks, left = [], self.limits.step_tokens
        if chunks:
            yield chunks

    def _timed(self, steps: Sequence[Sequence[Chunk]]) -> Measurement:
        before, start = self._counted(), time.perf_counter()
        for chunks in steps:
            self.run(chunks)
        seconds = time.perf_counter() - start
        after, end = self._counted(), time.monotonic() + self._timeout
        while any(now.steps - then.steps < len(steps) for now, then in zip(after, before, strict=True)):
            # The answer is there when the last gather is over: a worker may still be about to count its step.
            if time.monotonic() > end:
                raise WorkerLost(f"a worker did not count its step within {self._timeout:.1f} s")
            time.sleep(COUNT_SECONDS)
            after = self._counted()
        shares = [
            (now.waiting - then.waiting) / max(1, now.inside - then.inside)
            for now, then in zip(after, before, strict=True)
        ]
        read = sum(now.read - then.read for now, then in zip(after, before, strict=True))
        return Measurement(seconds, read, sum(shares) / len(shares))

    def _counted(self) -> list[_Counted]:
        """What each worker has counted, copied: the counters themselves go on."""
        return [
            _Counted(int(one["steps"]), int(one["bytes_read"]), int(one["step_ns"]), int(one["wait_ns"]))
            for one in self._group.counters()
        ]
