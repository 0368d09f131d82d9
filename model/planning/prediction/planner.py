"""Chooses how a model's experts are split: the cost model prices every way, and the fastest that fits is taken.

Rows of every expert on every worker are kept unless another way is predicted to be faster by more than MARGIN:
predictions are not better than that, and rows need no statistics to stay balanced.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from numoe.model.architectures.spec import ModelSpec
from numoe.model.machine.topology import Topology
from numoe.model.planning.expert_stats import ExpertStats
from numoe.model.planning.plan import ShardPlan
from numoe.model.planning.prediction.candidates import Candidate, Pricing, Split, Wishes
from numoe.model.planning.prediction.speeds import Speeds
from numoe.model.planning.splitting import PlanOptions, make_plan

MARGIN = 0.03  # of the step's time


@dataclass(frozen=True, slots=True)
class Choice:
    """The plan to take, and the others, the fastest first."""

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
    """Choose the plan with the fastest predicted step for `wishes.batch`.

    Raises:
        PlanError: the options cannot be followed.
    """
    checked = make_plan(spec, topology, replace(options, split=wishes.asked_split, replicas=wishes.replicas or 0.0))
    base = replace(checked, experts=(None,) * spec.layers)
    return _choose(Pricing(spec, topology, base, wishes, speeds, stats).candidates(), wishes)


def price_plan(
    spec: ModelSpec,
    topology: Topology,
    made: ShardPlan,
    wishes: Wishes,
    speeds: Speeds,
    stats: ExpertStats | None = None,
) -> Candidate:
    """Predict what a plan brings that was made elsewhere."""
    return Pricing(spec, topology, made, wishes, speeds, stats).price("", made.experts)


def _choose(candidates: Sequence[Candidate], wishes: Wishes) -> Choice:
    split = "expert" if wishes.asked_split == "expert" else wishes.split
    allowed = [candidate for candidate in candidates if split in ("auto", candidate.plan.split)]
    fitting = [candidate for candidate in allowed if candidate.fits] or allowed[:1]
    fastest = min(_time(candidate) for candidate in fitting)
    # Candidates stand in the order of what they take: choose the first that is about as fast as any.
    best = next(candidate for candidate in fitting if _time(candidate) <= fastest * (1 + MARGIN))
    others = sorted((candidate for candidate in candidates if candidate is not best), key=_time)
    return Choice(best, tuple(others), _why(best, candidates, split))


def _time(candidate: Candidate) -> float:
    return candidate.batched.seconds.total


def _why(best: Candidate, candidates: Sequence[Candidate], split: Split) -> str:
    if not best.fits:
        return "nothing fits the memory; this needs least of it"
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
