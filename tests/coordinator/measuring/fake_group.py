"""A group of workers that only notes its steps, and counts as workers do."""

from __future__ import annotations

import numpy as np

from numoe.protos.arena import COUNTERS
from numoe.protos.messages import Step, StepLimits, StepResult

BYTES_PER_STEP, NANOSECONDS_PER_STEP = 1000, 100


class FakeGroup:
    """Two workers; the second counts a step only when it is asked the second time after it."""

    def __init__(self, limits: StepLimits) -> None:
        self.limits = limits
        self.steps: list[Step] = []
        self._late = 0

    def submit(self, step: Step) -> None:
        assert len(step.chunks) <= self.limits.sequences
        assert sum(len(chunk.token_ids) for chunk in step.chunks) <= self.limits.step_tokens
        self.steps.append(step)
        self._late = 1

    def collect(self, timeout_seconds: float) -> StepResult:
        draws = sum(chunk.draws for chunk in self.steps[-1].chunks if chunk.sampling is not None)
        run = np.zeros(len(self.steps[-1].chunks), np.int64)
        return StepResult(self.steps[-1].number, np.zeros(draws, np.int32), np.zeros(draws, np.float32), run, 0.0)

    def counters(self) -> list[np.void]:
        counted = np.zeros(2, COUNTERS)
        for worker in range(2):
            steps = len(self.steps) - (self._late if worker else 0)
            counted[worker]["steps"] = steps
            counted[worker]["bytes_read"] = steps * BYTES_PER_STEP
            counted[worker]["step_ns"] = steps * NANOSECONDS_PER_STEP
            counted[worker]["wait_ns"] = steps * 10 * (worker + 1)
        self._late = 0
        return list(counted)

    @property
    def seen(self) -> list[list[tuple[int, int, list[int], int]]]:
        """Of each step, of each chunk: first position, tokens, KV blocks, draws."""
        return [
            [
                (
                    chunk.first_position,
                    len(chunk.token_ids),
                    chunk.kv_blocks.tolist(),
                    chunk.draws if chunk.sampling is not None else 0,
                )
                for chunk in step.chunks
            ]
            for step in self.steps
        ]
