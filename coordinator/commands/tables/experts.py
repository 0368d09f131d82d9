"""What `numoe placement --layer` shows: where the experts of a layer live, and how often each is chosen."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

from rich.console import RenderableType
from rich.text import Text

from numoe.coordinator.commands.tables.figures import human_bytes, human_time, ruled_table
from numoe.protos.errors import SetupError
from numoe.protos.foreign_text import harmless
from numoe.v1.operations_pb2 import ExpertChoices, ExpertHolders, WatchPlacementResponse
from numoe.v1.placement_pb2 import GetPlacementResponse

Node = tuple[str, int]  # its host, "" for the coordinator's own, and its number
_KINDS = {1: "B", 2: "H", 4: "I", 8: "d"}  # of counts, by their bytes


def describe_experts(
    told: WatchPlacementResponse, placement: GetPlacementResponse, layer: int, expert: int | None
) -> RenderableType:
    """Tabulate a layer's experts, the most chosen of the last 5 minutes first; or one of them.

    Raises SetupError: there is no such layer or expert.
    """
    if told.experts <= 1:
        raise SetupError("the model is dense: it has no experts")
    if not 0 <= layer < told.layers:
        raise SetupError(f"--layer is {layer}; the model has layers 0 to {told.layers - 1}")
    if expert is not None and not 0 <= expert < told.experts:
        raise SetupError(f"--expert is {expert}; a layer has experts 0 to {told.experts - 1}")
    nodes = _nodes_of(placement, layer)
    size = human_bytes(told.holders.expert_bytes[layer])
    if expert is not None:
        return _one(told, nodes, layer, expert, size)
    recent, lately, ever = (_counts(one, layer, told.experts) for one in (told.recent, told.lately, told.ever))
    shown = ruled_table(
        f"experts of layer {layer}, {size} each, the most chosen first",
        *("expert", "workers", "nodes", "in 10 s", "in 5 min", "ever", "fair share"),
    )
    for one in sorted(range(told.experts), key=lambda one: (-lately[one], -ever[one], one)):
        place = _place(_holders(told.holders, layer * told.experts + one), nodes)
        counts = (f"{counted[one]:,.0f}" for counted in (recent, lately, ever))
        shown.add_row(str(one), *place, *counts, _of_fair_share(lately, one))
    return shown


def _one(told: WatchPlacementResponse, nodes: Mapping[int, Node], layer: int, expert: int, size: str) -> RenderableType:
    index = layer * told.experts + expert
    moved_at = {index: moved.at for moved in told.holders.moved for index in moved.experts}
    workers, on = _place(_holders(told.holders, index), nodes)
    recent, lately, ever = (_counts(one, layer, told.experts) for one in (told.recent, told.lately, told.ever))
    there = human_time(told.now - moved_at.get(index, told.holders.placed_at))
    return Text(
        f"Expert {expert} of layer {layer}: worker {workers}; NUMA node {on}; there for {there}; {size}\n"
        f"chosen: {recent[expert]:,.0f} in 10 s, {lately[expert]:,.0f} in 5 min, {ever[expert]:,.0f} ever; "
        f"of its fair share in 5 min: {_of_fair_share(lately, expert)}"
    )


def _of_fair_share(counts: Sequence[float], expert: int) -> str:
    return f"{counts[expert] * len(counts) / sum(counts):.2f} x" if any(counts) else "-"


def _counts(choices: ExpertChoices, layer: int, experts: int) -> tuple[float, ...]:
    """How often each expert of a layer was chosen."""
    return struct.unpack_from(
        f"<{experts}{_KINDS[choices.count_bytes]}", choices.counts, layer * experts * choices.count_bytes
    )


def _holders(told: ExpertHolders, index: int) -> int:
    """Who holds an expert, a bit for each worker."""
    size = told.holder_bytes
    return int.from_bytes(told.holders[index * size : (index + 1) * size], "little")


def _nodes_of(placement: GetPlacementResponse, layer: int) -> dict[int, Node]:
    """The workers that run a layer, and their nodes."""
    first = max((one.first_layer for one in placement.workers if one.first_layer <= layer), default=0)
    return {one.worker: (one.host, one.numa_node) for one in placement.workers if one.first_layer == first}


def _place(holders: int, nodes: Mapping[int, Node]) -> tuple[str, str]:
    """The workers that hold an expert, of a bit for each, and their nodes; for people."""
    held = [worker for worker in nodes if holders >> worker & 1]
    on = sorted({nodes[worker] for worker in held or nodes})
    shown = ", ".join(f"{node} of {harmless(host)}" if host else str(node) for host, node in on)
    return ", ".join(map(str, held or nodes)) + ("" if held else " (rows on each)"), shown
