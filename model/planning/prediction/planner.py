"""Chooses how a model's experts are split: the cost model prices every way, and the fastest that fits is taken.

Rows of every expert on every worker are kept unless another way is predicted to be faster by more than MARGIN:
predictions are not better than that, and rows need no statistics to stay balanced.

Where workers own equal parts a weak node sets the pace of all. So where nodes differ, plans without the weakest ones
are priced too, and plans in which workers own as much as they can do and hold (unequal.py); one is taken if it is
faster by more than MARGIN than all that are simpler, or the only one that fits. *Rejected*: leaving out one of equal
nodes, which would be right for models of a few megabytes only.
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
from numoe.model.planning.prediction.unequal import unequal_shares
from numoe.model.planning.splitting import PlanOptions, make_plan

MARGIN = 0.03  # of the step's time
UNEQUAL = "with unequal shares"


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

    def base(nodes: tuple[int, ...] | None) -> ShardPlan:
        asked = replace(options, nodes=nodes, split=wishes.asked_split, replicas=wishes.replicas or 0.0)
        return replace(make_plan(spec, topology, asked), experts=(None,) * spec.layers)

    def choose(made: ShardPlan, experts: Sequence[float] | None = None) -> Choice:
        return _choose(Pricing(spec, topology, made, wishes, speeds, stats, experts).candidates(), wishes)

    def unequal(made: ShardPlan, left: str = "") -> Iterator[Choice]:
        found = unequal_shares(spec, topology, made, wishes, speeds)
        if found is not None:
            yield _named(choose(found.plan, found.experts), f"{left} and {UNEQUAL}" if left else UNEQUAL, found.words)

    everywhere = base(options.nodes)
    alternatives = list(unequal(everywhere))
    if options.nodes is None and options.workers is None:
        used = [shard.node for shard in everywhere.shards]
        for kept in _stronger_nodes(used, topology, speeds):
            if (wishes.replicas or 0.0) <= len(kept) - 1:
                left = f"without node {format_id_list(set(used) - set(kept))}"
                fewer = base(kept)
                fewer = replace(fewer, notes=(*fewer.notes, f"{left}, which is left idle"))
                alternatives += [_named(choose(fewer), left), *unequal(fewer, left)]
    return _prefer(choose(everywhere), alternatives)


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


def _named(choice: Choice, how: str, *words: str) -> Choice:
    """The choice, named for how it differs from equal parts on all nodes; `words` say more."""
    plan = replace(choice.best.plan, notes=(*choice.best.plan.notes, *words))
    others = tuple(replace(other, name=f"{other.name}, {how}") for other in choice.others)
    return Choice(replace(choice.best, name=f"{choice.best.name}, {how}", plan=plan), others, how)


def _simplicity(choice: Choice) -> tuple[bool, int]:
    """Equal parts come first, on the most nodes; then unequal ones, on the fewest: a node is to be worth its place."""
    unequal, nodes = UNEQUAL in choice.why, len(choice.best.plan.shards)
    return unequal, nodes if unequal else -nodes


def _prefer(everywhere: Choice, alternatives: Sequence[Choice]) -> Choice:
    """The choice of equal parts on all nodes, or one that is faster or fits alone; all are shown beside it."""
    found = everywhere
    for choice in sorted(alternatives, key=_simplicity):
        faster = _time(choice.best) * (1 + MARGIN) < _time(found.best)
        if choice.best.fits and (faster or not found.best.fits):
            found = choice
    rest = [choice.best for choice in (everywhere, *alternatives) if choice is not found]
    others = sorted((*found.others, *rest), key=_time)
    if found is everywhere:
        return replace(everywhere, others=tuple(others))
    gain = _time(everywhere.best) / _time(found.best) - 1
    reason = f"predicted {gain:.0%} faster {found.why}, than equal parts on all nodes"
    if not everywhere.best.fits:
        reason = f"it fits only {found.why}"
    return Choice(found.best, tuple(others), reason)


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
