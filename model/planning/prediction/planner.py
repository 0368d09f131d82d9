"""Chooses how a model's experts are split: every way is priced by the cost model, and the fastest that fits is taken.

Candidates: rows of every expert on every worker (tensor), whole experts, whole experts with replicas of a share of
them, and layer by layer the faster of rows and the best whole split. Rows are kept unless another way is predicted to
be faster by more than MARGIN: predictions are not better than that, and rows need no statistics to stay balanced.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from numoe.model.architectures.spec import ModelSpec
from numoe.model.gguf.tensors import TensorType
from numoe.model.machine.topology import Topology
from numoe.model.planning.expert_owners import ExpertOwners, share_experts
from numoe.model.planning.expert_stats import ExpertStats
from numoe.model.planning.plan import ShardPlan
from numoe.model.planning.plan_size import node_bytes
from numoe.model.planning.prediction.cost import CostModel
from numoe.model.planning.prediction.forecast import Forecast
from numoe.model.planning.prediction.speeds import Speeds
from numoe.model.planning.splitting import PlanOptions, make_plan

Split = Literal["auto", "tensor", "expert"]
REPLICAS = (0.0, 0.125, 0.25, 0.5, 1.0)  # shares of a layer's experts held once more, as far as memory allows
MARGIN = 0.03  # of the step's time


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the plan is made for; None leaves it to the planner."""

    split: Split = "auto"
    replicas: float | None = None
    batch: int = 1  # sequences that decode at once
    context: int = 0  # positions that each of them has in the KV cache
    kv_tokens: int = 0  # positions kept in all: what is left of a node's memory is what replicas may take
    kv_type: TensorType = TensorType.F16


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to split the experts, and what it would bring."""

    name: str
    plan: ShardPlan
    alone: Forecast  # one sequence decodes
    batched: Forecast  # as many as were wished decode
    fits: bool


@dataclass(frozen=True, slots=True)
class Choice:
    """The plan to take and those it was preferred to, the fastest first."""

    best: Candidate
    others: tuple[Candidate, ...]
    why: str


def choose_plan(
    spec: ModelSpec,
    topology: Topology,
    options: PlanOptions,
    wishes: Wishes,
    speeds: Speeds,
    stats: ExpertStats | None = None,
) -> Choice:
    """The plan with the best predicted step for `wishes.batch`. Raises PlanError where options cannot be followed."""
    checked = make_plan(spec, topology, replace(options, split=_asked(wishes), replicas=wishes.replicas or 0.0))
    base = replace(checked, experts=(None,) * spec.layers)
    pricing = _Pricing(spec, topology, base, wishes, speeds, stats)
    return _choose(_candidates(pricing, wishes), wishes)


def price_plan(
    spec: ModelSpec,
    topology: Topology,
    made: ShardPlan,
    wishes: Wishes,
    speeds: Speeds,
    stats: ExpertStats | None = None,
) -> Candidate:
    """What a plan would bring that was made elsewhere."""
    return _Pricing(spec, topology, made, wishes, speeds, stats).price("", made.experts)


def _asked(wishes: Wishes) -> Literal["tensor", "expert"]:
    """Replicas alone ask for whole experts too."""
    return "expert" if wishes.split == "expert" or (wishes.split == "auto" and wishes.replicas) else "tensor"


class _Pricing:
    """Makes candidates of owners."""

    def __init__(
        self,
        spec: ModelSpec,
        topology: Topology,
        base: ShardPlan,
        wishes: Wishes,
        speeds: Speeds,
        stats: ExpertStats | None,
    ) -> None:
        self.spec, self.topology, self.base, self.wishes, self.stats = spec, topology, base, wishes, stats
        self.costs = {
            batch: CostModel(
                spec,
                base.shards,
                topology,
                speeds,
                stats,
                batch=batch,
                context=wishes.context,
                kv_type=wishes.kv_type,
            )
            for batch in {1, wishes.batch}
        }

    def owners(self, replicas: float) -> tuple[ExpertOwners, ...]:
        """[L] whole experts, by their loads."""
        spec, made = self.spec, dict[tuple[float, ...], ExpertOwners]()
        even = (1.0,) * spec.experts
        loads = [even if self.stats is None else self.stats.shares(layer) for layer in range(spec.layers)]
        for one in loads:
            if one not in made:
                made[one] = share_experts(one, len(self.base.shards), round(replicas * spec.experts))
        return tuple(made[one] for one in loads)

    def price(self, name: str, experts: Sequence[ExpertOwners | None]) -> Candidate:
        made = replace(self.base, experts=tuple(experts))
        return Candidate(
            name,
            made,
            self.costs[1].predict(made),
            self.costs[self.wishes.batch].predict(made),
            self.fits(made),
        )

    def fits(self, made: ShardPlan) -> bool:
        """Whether every node has room for weights and KV cache."""
        needed = node_bytes(made, self.spec, self.wishes.kv_tokens, self.wishes.kv_type)
        room = {node.id: node.available_bytes for node in self.topology.nodes}
        return all(size <= room.get(node, 0) for node, size in needed.items())

    def mixed(self, wholes: Sequence[Candidate]) -> Candidate | None:
        """Layer by layer the faster of rows and the best of `wholes`; None where all layers agree."""
        cost = self.costs[self.wishes.batch]
        fastest = min(wholes, key=lambda candidate: candidate.batched.seconds.total)
        rows = cost.experts(self.base.experts)
        whole = cost.experts(fastest.plan.experts)
        chosen = [
            None if by_row.seconds.total <= by_expert.seconds.total else owners
            for by_row, by_expert, owners in zip(rows, whole, fastest.plan.experts, strict=True)
        ]
        if len({owners is None for owners in chosen}) == 1:
            return None
        return self.price(f"mixed: {sum(owners is not None for owners in chosen)} layers of {fastest.name}", chosen)


def _candidates(pricing: _Pricing, wishes: Wishes) -> list[Candidate]:
    """All ways that make a difference, those too that were not asked for: they are what the plan is compared with."""
    rows = pricing.price("tensor", pricing.base.experts)
    workers = len(pricing.base.shards)
    if not pricing.spec.routed or (workers == 1 and _asked(wishes) == "tensor"):
        return [rows]
    shares = REPLICAS if wishes.replicas is None else (wishes.replicas,)
    wholes = [_whole(pricing, share) for share in shares if share <= workers - 1]
    fitting = [candidate for candidate in wholes if candidate.fits]
    mixed = pricing.mixed(fitting) if fitting and wishes.replicas is None else None
    return [rows, *wholes, *([mixed] if mixed else [])]


def _whole(pricing: _Pricing, share: float) -> Candidate:
    name = f"expert + {100 * share:.3g} %" if share else "expert"
    return pricing.price(name, pricing.owners(share))


def _choose(candidates: Sequence[Candidate], wishes: Wishes) -> Choice:
    asked = _asked(wishes)
    split = "expert" if asked == "expert" else wishes.split
    allowed = [candidate for candidate in candidates if split in ("auto", candidate.plan.split)]
    fitting = [candidate for candidate in allowed if candidate.fits] or allowed[:1]
    fastest = min(_time(candidate) for candidate in fitting)
    # Candidates stand in the order of what they take: the first that is about as fast as any.
    best = next(candidate for candidate in fitting if _time(candidate) <= fastest * (1 + MARGIN))
    others = sorted((candidate for candidate in candidates if candidate is not best), key=_time)
    return Choice(best, tuple(others), _why(best, candidates, split))


def _time(candidate: Candidate) -> float:
    return candidate.batched.seconds.total


def _why(best: Candidate, candidates: Sequence[Candidate], split: Split) -> str:
    if not best.fits:
        return "nothing fits the nodes' memory; this needs least of it"
    rows = candidates[0]
    if split != "auto":
        return f"the {split} split was asked for" + ("" if best is rows else f", {_against(best, rows)}")
    if len(candidates) == 1:
        return "there is one worker, or nothing to route"
    if best is rows:
        return f"nothing else that fits is predicted to be more than {MARGIN:.0%} faster"
    return _against(best, rows) if rows.fits else "the tensor split does not fit"


def _against(best: Candidate, rows: Candidate) -> str:
    gain = _time(rows) / _time(best) - 1
    return f"predicted {abs(gain):.0%} {'faster' if gain >= 0 else 'slower'} than the tensor split"
