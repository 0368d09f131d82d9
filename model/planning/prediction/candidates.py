"""Ways to split a model's experts over workers, each with its predicted steps.

They are rows of every expert on every worker (tensor), whole experts, whole experts with replicas of a share of them,
and layer by layer the faster of rows and the best whole split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from numoe.model.architectures.spec import ModelSpec
from numoe.model.gguf.kv_types import HALF_FLOATS, KvTypes
from numoe.model.machine.topology import Topology
from numoe.model.planning.expert_owners import ExpertOwners, share_experts
from numoe.model.planning.expert_stats import ExpertStats
from numoe.model.planning.plan import ShardPlan
from numoe.model.planning.plan_checks import available_bytes, fits_memory
from numoe.model.planning.prediction.cost import CostModel
from numoe.model.planning.prediction.forecast import Forecast
from numoe.model.planning.prediction.speeds import Speeds
from numoe.model.planning.worker_memory import node_bytes
from numoe.protos.messages import StepLimits

Split = Literal["auto", "tensor", "expert"]
LEAST = StepLimits(step_tokens=1, sequences=1, context_tokens=64, kv_blocks=1, block_positions=64)
REPLICAS = (0.0, 0.125, 0.25, 0.5, 1.0)  # shares of a layer's experts held once more, as far as memory allows


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the plan is made for."""

    split: Split = "auto"  # "auto" leaves it to the planner
    replicas: float | None = None  # of whole experts, a share of a layer's experts; None leaves it to the planner
    batch: int = 1  # sequences that decode at once
    context: int = 0  # positions that each of them has in the KV cache
    limits: StepLimits = LEAST  # what is left of a node's memory beside it is what replicas may take
    kv_types: KvTypes = HALF_FLOATS
    run_experts: int | None = None  # of the active ones, for each token; None: all

    @property
    def asked_split(self) -> Literal["tensor", "expert"]:
        """The split to begin with; replicas alone ask for whole experts too."""
        return "expert" if self.split == "expert" or (self.split == "auto" and self.replicas) else "tensor"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to split the experts, and how fast it would be."""

    name: str
    plan: ShardPlan
    alone: Forecast  # one sequence decodes
    batched: Forecast  # as many sequences decode as were wished
    fits: bool  # every node, and the process's cgroups, have room for what its workers take


class Pricing:
    """Prices the ways to split the experts of one model on one machine."""

    def __init__(
        self,
        spec: ModelSpec,
        topology: Topology,
        base: ShardPlan,
        wishes: Wishes,
        speeds: Speeds,
        stats: ExpertStats | None,
        shares: Sequence[float] | None = None,  # [workers] of whole experts; None: equal ones
    ) -> None:
        self._shares = shares
        self._spec, self._topology, self._base, self._wishes, self._stats = spec, topology, base, wishes, stats
        self._costs = {
            batch: CostModel(
                replace(spec, active_experts=min(wishes.run_experts or spec.active_experts, spec.active_experts)),
                base.shards,
                topology,
                speeds,
                stats,
                batch=batch,
                context=wishes.context,
                kv_types=wishes.kv_types,
            )
            for batch in {1, wishes.batch}
        }

    def candidates(self) -> list[Candidate]:
        """All ways that make a difference, also those that were not asked for: the plan is compared with them."""
        rows = self.price("tensor", self._base.experts)
        workers = len(self._base.shards)
        if not self._spec.routed or (workers == 1 and self._wishes.asked_split == "tensor"):
            return [rows]
        asked = self._wishes.replicas
        wholes = [self._whole(share) for share in (REPLICAS if asked is None else (asked,)) if share <= workers - 1]
        fitting = [candidate for candidate in wholes if candidate.fits]
        mixed = self._mixed(fitting) if fitting and asked is None else None
        return [rows, *wholes, *([mixed] if mixed else [])]

    def price(self, name: str, experts: Sequence[ExpertOwners | None]) -> Candidate:
        """Predict what it brings if the experts are owned so; `experts` are [L], None: by row."""
        made = replace(self._base, experts=tuple(experts))
        return Candidate(
            name,
            made,
            self._costs[1].predict(made),
            self._costs[self._wishes.batch].predict(made),
            self._fits(made),
        )

    def _whole(self, share: float) -> Candidate:
        name = f"expert + {100 * share:.3g} %" if share else "expert"
        return self.price(name, self._owners(share))

    def _mixed(self, wholes: Sequence[Candidate]) -> Candidate | None:
        """In each layer the faster of rows and the best of `wholes`; None if all layers agree."""
        cost = self._costs[self._wishes.batch]
        fastest = min(wholes, key=lambda candidate: candidate.batched.seconds.total)
        rows = cost.experts(self._base.experts)
        whole = cost.experts(fastest.plan.experts)
        chosen = [
            None if by_row.seconds.total <= by_expert.seconds.total else owners
            for by_row, by_expert, owners in zip(rows, whole, fastest.plan.experts, strict=True)
        ]
        if len({owners is None for owners in chosen}) == 1:
            return None
        return self.price(f"mixed: {sum(owners is not None for owners in chosen)} layers of {fastest.name}", chosen)

    def _owners(self, replicas: float) -> tuple[ExpertOwners, ...]:
        """[L] the owners of whole experts, shared out by their loads."""
        spec, made = self._spec, dict[tuple[float, ...], ExpertOwners]()
        even = (1.0,) * spec.experts
        loads = [even if self._stats is None else self._stats.shares(layer) for layer in range(spec.layers)]
        for one in loads:
            if one not in made:
                made[one] = share_experts(one, len(self._base.shards), round(replicas * spec.experts), self._shares)
        return tuple(made[one] for one in loads)

    def _fits(self, made: ShardPlan) -> bool:
        """Whether every node, and the process's cgroups, have room for what its workers take."""
        room = available_bytes(self._topology)
        needed = node_bytes(made, self._spec, self._wishes.limits, self._wishes.kv_types, room=room)
        return fits_memory(needed, self._topology)
