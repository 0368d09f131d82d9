"""Chooses how a model's experts are split: the cost model prices every way, and the fastest that fits is taken.

Rows of every expert on every worker are kept unless another way is predicted to be faster by more than MARGIN:
predictions are not better than that, and rows need no statistics to stay balanced.

Workers own equal parts, so that a weak node sets the pace of all: where nodes differ, plans without the weakest ones
are priced too, and one is taken if it is faster by more than MARGIN, or the only one that fits. *Rejected*: leaving out
one of equal nodes, which would be right for models of a few megabytes only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from numoe.model.architectures.spec import ModelSpec
from numoe.model.machine.id_lists import format_id_list
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

    def choose(nodes: tuple[int, ...] | None) -> Choice:
        asked = replace(options, nodes=nodes, split=wishes.asked_split, replicas=wishes.replicas or 0.0)
        base = replace(make_plan(spec, topology, asked), experts=(None,) * spec.layers)
        return _choose(Pricing(spec, topology, base, wishes, speeds, stats).candidates(), wishes)

    everywhere = choose(options.nodes)
    if options.nodes is not None or options.workers is not None:
        return everywhere
    used = [shard.node for shard in everywhere.best.plan.shards]
    fewer = [
        _without(used, kept, choose(kept))
        for kept in _stronger_nodes(used, topology, speeds)
        if (wishes.replicas or 0.0) <= len(kept) - 1
    ]
    return _prefer(everywhere, fewer)


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


def _stronger_nodes(used: Sequence[int], topology: Topology, speeds: Speeds) -> Iterator[tuple[int, ...]]:
    """The nodes that are left without the weakest, then without the next weakest, as far as they differ."""
    cores = {node: len(topology.node(node).cores) for node in used}
    if len(cores) < len(used) or not all(cores.values()):  # workers with another node's memory: no node is left out
        return
    rates = {node: min(speeds.node_bandwidth[node], count * speeds.core_bandwidth) for node, count in cores.items()}
    strength = {node: rates[node] * count for node, count in cores.items()}
    kept = tuple(used)
    while stronger := tuple(node for node in kept if strength[node] > (1 + MARGIN) * min(strength[n] for n in kept)):
        yield stronger
        kept = stronger


def _without(used: Sequence[int], kept: Sequence[int], choice: Choice) -> Choice:
    """The choice, named for the nodes that it leaves out."""
    left = f"without node {format_id_list(set(used) - set(kept))}"
    return replace(choice, best=replace(choice.best, name=f"{choice.best.name}, {left}"), why=left)


def _prefer(everywhere: Choice, fewer: Sequence[Choice]) -> Choice:
    """The choice for all nodes, or one for fewer that is faster or fits alone; the best of each is shown beside it."""
    found = everywhere
    for choice in fewer:
        faster = _time(choice.best) * (1 + MARGIN) < _time(found.best)
        if choice.best.fits and (faster or not found.best.fits):
            found = choice
    rest = [choice.best for choice in (everywhere, *fewer) if choice is not found]
    others = sorted((*found.others, *(() if found is everywhere else everywhere.others), *rest), key=_time)
    if found is everywhere:
        return replace(everywhere, others=tuple(others))
    gain = _time(everywhere.best) / _time(found.best) - 1
    reason = f"predicted {gain:.0%} faster {found.why}" if everywhere.best.fits else f"it fits only {found.why}"
    made = replace(found.best.plan, notes=(*found.best.plan.notes, f"{reason}, which is left idle"))
    return Choice(replace(found.best, plan=made), tuple(others), reason)


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
