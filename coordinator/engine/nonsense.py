"""Whether an answer can be that of the step that was asked for: nothing is taken of one that cannot."""

from __future__ import annotations

from numoe.protos.errors import WorkerLost
from numoe.protos.messages import NOT_DRAWN, Step, StepResult


def refuse_nonsense(step: Step, result: StepResult, vocabulary: int) -> None:
    """Raise WorkerLost where the answer is another step's, or names tokens that do not exist."""
    draws, ids = sum(chunk.sampling is not None for chunk in step.chunks), result.token_ids
    if result.number != step.number or len(ids) != draws:
        raise WorkerLost(
            f"the workers answered step {step.number}, which draws {draws} tokens, with {len(ids)} tokens of step "
            f"{result.number}"
        )
    unknown = ids[(ids != NOT_DRAWN) & ((ids < 0) | (ids >= vocabulary))]
    if len(unknown):
        raise WorkerLost(f"step {step.number} drew token id {unknown[0]}, which does not exist")
