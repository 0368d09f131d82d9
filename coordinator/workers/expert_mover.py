"""Moves whole experts from worker to worker while steps run: copy, let the next step know, free.

A worker copies the expert into the arena's transfer area, the other one out of it; no step looks at either. Between two
steps the arena's expert_holders change, and only then may the first worker give its memory back. Every step so finds
the experts with their holders, and the bits are the same whoever computes them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ray

from numoe.coordinator.workers.actors import fetch
from numoe.coordinator.workers.step_boundary import StepBoundary
from numoe.coordinator.workers.step_channel import StepChannel
from numoe.model.planning.expert_owners import ExpertOwners
from numoe.model.planning.moves import ExpertMove
from numoe.protos.errors import PlanError, Unavailable, WorkerLost


class ExpertMover:
    """Of one group of workers; used by one thread at a time."""

    def __init__(
        self,
        channel: StepChannel,
        actors: Sequence[Any],
        boundary: StepBoundary,
        step_timeout_seconds: float,
        look: Callable[[], None],
    ) -> None:
        """`look` is called now and then while a worker copies; an exception that it raises ends the move."""
        self._channel, self._actors, self._look = channel, actors, look
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
        if move.target is not None:
            reports[move.target] = self._copy(move, self._actors[move.source], self._actors[move.target])
        self._boundary.run(change, self._step_timeout_seconds)
        if not move.keep:
            dropping = self._actors[move.source].drop_expert.remote(move.layer, move.expert)
            reports[move.source] = self._fetch(dropping, move)
        return reports

    def _copy(self, move: ExpertMove, source: Any, target: Any) -> Any:
        """The target's report once it has the expert."""
        first, held = 0, None
        while held is None:
            count = self._fetch(source.copy_expert_out.remote(move.layer, move.expert, first), move)
            held = self._fetch(target.copy_expert_in.remote(move.layer, move.expert, first, count), move)
            first += count
        if isinstance(held, str):
            raise PlanError(held)
        return held

    def _fetch(self, reference: Any, move: ExpertMove) -> Any:
        try:
            return fetch(reference, self._look)
        except (ray.exceptions.RayError, WorkerLost) as error:
            raise WorkerLost(
                f"a worker ended before expert {move.expert} of layer {move.layer} had left worker {move.source}; "
                "rebalance again once all are back"
            ) from error
