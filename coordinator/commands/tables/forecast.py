"""What `numoe plan` predicts: where a step's time would go, and how the ways to split the experts compare."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from numoe.coordinator.commands.tables.figures import human_bytes, ruled_table
from numoe.model.architectures.spec import ModelSpec
from numoe.model.planning.expert_stats import ExpertStats
from numoe.model.planning.plan_size import shard_bytes
from numoe.model.planning.prediction.candidates import Candidate
from numoe.model.planning.prediction.forecast import Seconds
from numoe.model.planning.prediction.planner import Choice
from numoe.model.planning.prediction.speeds import GIGA, Speeds

_PHASES = {
    "attention": "attention: matrices",
    "kv_cache": "attention: keys and values (none yet)",
    "router": "router",
    "experts": "experts",
    "output": "logits",
    "exchanges": "exchanges between workers",
    "rest": "all else",
}


def describe_choice(choice: Choice, spec: ModelSpec, speeds: Speeds, stats: ExpertStats | None) -> RenderableType:
    """Predicted speed and its parts, the split that was chosen and why, and what it was preferred to."""
    best = choice.best
    parts: list[RenderableType] = [
        Text(f"Split: {best.name}. Why: {choice.why}."),
        Text(" ".join(_words(best))),
        Text(_basis(best, speeds, stats)),
        _time_table(best),
    ]
    if choice.others:
        parts += [
            _ways_table(choice, spec),
            Text(
                "tensor: every worker holds some rows of every expert; expert: some experts whole; + 25 %: replicas of "
                "so many of them, whose less loaded holder computes. Unevenness: the slowest worker's time for experts "
                "over the mean."
            ),
        ]
    return Group(*parts)


def _words(best: Candidate) -> Iterator[str]:
    yield f"Predicted: {best.alone.tokens_per_second:.3g} tokens/s for one request."
    if best.batched.batch > 1:
        yield f"{best.batched.batch} at once: {best.batched.tokens_per_second:.3g} tokens/s together."


def _basis(best: Candidate, speeds: Speeds, stats: ExpertStats | None) -> str:
    used = {node for shard in best.plan.shards for node in shard.memory_nodes}
    rates = {f"{rate / GIGA:.3g}" for node, rate in speeds.node_bandwidth.items() if node in used}
    bandwidth, peak = " or ".join(sorted(rates)), speeds.integer_peak / GIGA
    said = f"Memory bandwidth of each node, {speeds.source}: {bandwidth} GB/s; of each core: {peak:.0f} GOP/s. "
    if stats is None:
        return said + "Nothing is known of which experts are chosen: all are taken to be alike."
    return said + f"Experts are taken to be chosen as in {stats.tokens:,} tokens that were counted."


def _time_table(best: Candidate) -> Table:
    columns = [best.alone] if best.batched.batch == 1 else [best.alone, best.batched]
    headings = (f"{one.batch} at once" for one in columns)
    table = ruled_table("predicted time of a step, ms", "", *headings, named_rows=True)
    for field in fields(Seconds):
        table.add_row(_PHASES[field.name], *(_milliseconds(getattr(one.seconds, field.name)) for one in columns))
    table.add_row("together", *(_milliseconds(one.seconds.total) for one in columns))
    return table


def _ways_table(choice: Choice, spec: ModelSpec) -> Table:
    batch = choice.best.batched.batch
    several = [f"tokens/s of {batch}"] if batch > 1 else []
    headings = ("way", "tokens/s", *several, "unevenness", "weights", "fits")
    table = ruled_table("ways to split the experts", *headings, named_rows=True)
    for candidate in (choice.best, *choice.others):
        weights = sum(shard_bytes(candidate.plan, spec, shard).weights for shard in candidate.plan.shards)
        together = [f"{candidate.batched.tokens_per_second:.3g}"] if batch > 1 else []
        table.add_row(
            f"> {candidate.name}" if candidate is choice.best else candidate.name,
            f"{candidate.alone.tokens_per_second:.3g}",
            *together,
            f"{candidate.batched.imbalance:.2f}",
            human_bytes(weights),
            "yes" if candidate.fits else "no",
        )
    return table


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.2f}"
