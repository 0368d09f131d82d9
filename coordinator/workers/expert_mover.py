"""Moves whole experts from worker to worker while steps run: copy, let the next step know, free.

A worker copies the expert into the arena's transfer area, the other one out of it; no step looks at either. Between two
steps the arena's expert_holders change, and only then may the first worker give its memory back. Every step so finds
the experts with their holders, and the bits are the same whoever computes them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ray

from numoe.coordinator.workers.step_boundary import StepBoundary
from numoe.coordinator.workers.step_channel import StepChannel
from numoe.model.planning.expert_owners import ExpertOwners
from numoe.model.planning.moves import ExpertMove
from numoe.protos.errors import PlanError, Unavailable, WorkerLost


class ExpertMover:
    """Of one group of workers; used by one thread at a time."""

    def __init__(
        self, channel: StepChannel, actors: Sequence[Any], boundary: StepBoundary, step_timeout_seconds: float
    ) -> None:
        self._channel, self._actors = channel, actors
        self._boundary, self._step_timeout_seconds = boundary, step_timeout_seconds

    def move(self, move: ExpertMove, owners: ExpertOwners, moved: Callable[[ExpertOwners], None]) -> dict[int, Any]:
        """Make a move in a layer of `owners`; `moved` is told the new ones between two steps.

        Returns the ShardReports of the workers that hold other experts now, by worker.

        Raises:
            Unavailable: the layer's experts are held by others than when the move was planned.
            PlanError: the target's node has no room.
            WorkerLost: a worker died.
            ServiceError: no step ends.
            Unless `moved` was called nothing has changed.
        """
        if not move.possible(owners):
            raise Unavailable(
                f"expert {move.expert} of layer {move.layer} was moved by somebody else meanwhile; rebalance again"
            )
        after = move.applied(owners)

        def change() -> None:
            self._channel.share_experts(move.layer, after)
            moved(after)

        reports: dict[int, Any] = {}
        try:
            if move.target is not None:
                reports[move.target] = self._copy(move, self._actors[move.source], self._actors[move.target])
            self._boundary.run(change, self._step_timeout_seconds)
            if not move.keep:
                reports[move.source] = ray.get(self._actors[move.source].drop_expert.remote(move.layer, move.expert))
        except ray.exceptions.RayError as error:
            raise WorkerLost(
                f"a worker ended before expert {move.expert} of layer {move.layer} had left worker {move.source}; "
                "rebalance again once all are back"
            ) from error
        return reports

    def _copy(self, move: ExpertMove, source: Any, target: Any) -> Any:
        """The target's report once it has the expert."""
        first, held = 0, None
        while held is None:
            count = ray.get(source.copy_expert_out.remote(move.layer, move.expert, first))
            held = ray.get(target.copy_expert_in.remote(move.layer, move.expert, first, count))
            first += count
        if isinstance(held, str):
            raise PlanError(held)
        return held
