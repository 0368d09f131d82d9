"""The steps that workers run, from their sending to their answers; used by the engine's thread, but for `total`."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from collections.abc import Sequence as Many

from numoe.coordinator.engine.executor import StepExecutor
from numoe.coordinator.engine.sequence import Sequence
from numoe.protos.errors import WorkerLost
from numoe.protos.messages import NOT_DRAWN, Chunk, Step, StepResult, place_of

Work = Many[tuple[Sequence, int]]  # how many tokens of which


class StepsUnderWay:
    """Numbers steps, and keeps what each runs until its answer comes; answers come in the order of steps."""

    def __init__(self, executor: StepExecutor, timeout_seconds: float, vocabulary: int) -> None:
        self.total = 0  # steps so far
        self._executor, self._timeout_seconds, self._vocabulary = executor, timeout_seconds, vocabulary
        self._sent: deque[tuple[Step, Work]] = deque()
        self._not_drawn: list[tuple[Sequence, Chunk]] = []  # as logits were not finite, and nobody knows where yet

    def __len__(self) -> int:
        return len(self._sent)

    @property
    def has_room(self) -> bool:
        """Whether one more may be sent: not before it is known of each chunk that drew nothing, why."""
        return len(self._sent) < self._executor.depth and not self._not_drawn

    def send(self, work: Work) -> None:
        """Have the workers run so many tokens of each sequence. Raises WorkerLost."""
        step = Step(self.total, tuple(sequence.send(tokens) for sequence, tokens in work))
        self.total += 1
        self._sent.append((step, work))
        self._executor.submit(step)
        for chunk in step.chunks:
            if chunk.allowed is not None:
                chunk.allowed()  # while the workers compute, whoever of them wants it later

    def collect(self) -> tuple[Work, Step, StepResult]:
        """Wait for the oldest step. Raises WorkerLost, also where the answer is no answer to it."""
        step, work = self._sent[0]
        result = self._executor.collect(self._timeout_seconds)
        _refuse_nonsense(step, result, self._vocabulary)
        self._sent.popleft()
        return work, step, result

    def note_not_drawn(self, sequence: Sequence, chunk: Chunk) -> None:
        """A chunk drew nothing, as its logits were not finite."""
        sequence.not_finite = True
        self._not_drawn.append((sequence, chunk))

    def place_not_finite(self) -> Iterator[Sequence]:
        """Ends each request whose logits were not finite, once no step is under way. Raises WorkerLost."""
        while self._not_drawn and not self._sent:
            sequence, chunk = self._not_drawn[-1]
            sequence.fail_not_finite(self._find_not_finite(chunk))
            self._not_drawn.pop()
            yield sequence

    def _find_not_finite(self, chunk: Chunk) -> str:
        """Runs a chunk once more, by itself and checked; returns which part is to blame."""
        step = Step(self.total, (chunk,), checked=True)
        self.total += 1
        self._executor.submit(step)
        return place_of(self._executor.collect(self._timeout_seconds).not_finite)

    def forget(self) -> None:
        """The workers were lost: no answer comes."""
        self._sent.clear()
        self._not_drawn.clear()


def _refuse_nonsense(step: Step, result: StepResult, vocabulary: int) -> None:
    """Raise WorkerLost where the answer is another step's, or names tokens that do not exist."""
    draws, ids = sum(chunk.draws for chunk in step.chunks if chunk.sampling is not None), result.token_ids
    if result.number != step.number or len(ids) != draws:
        raise WorkerLost(
            f"the workers answered step {step.number}, which draws {draws} tokens, with {len(ids)} tokens of step "
            f"{result.number}"
        )
    unknown = ids[(ids != NOT_DRAWN) & ((ids < 0) | (ids >= vocabulary))]
    if len(unknown):
        raise WorkerLost(f"step {step.number} drew token id {unknown[0]}, which does not exist")
