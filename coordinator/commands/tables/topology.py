"""What `numoe topology` shows: the machine, drawn package by package."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from numoe.coordinator.commands.tables.figures import human_bytes, human_count, ruled_table
from numoe.model.machine.id_lists import format_id_list
from numoe.model.machine.topology import Node, Topology
from numoe.protos.foreign_text import harmless

NODE_COLUMNS = 37  # outer width of a drawn node: two stand side by side in a package on a terminal of 80 columns
DRAWN_CORES = 8  # of a node, each in brackets; of more, their numbers are said in runs


def describe_topology(topology: Topology) -> RenderableType:
    """Draw packages, their nodes and the nodes' cores; then distances and what the kernel does with pages."""
    parts: list[RenderableType] = []
    if topology.processor.name:
        parts.append(Text(harmless(topology.processor.name)))
    for package in topology.packages:
        nodes = [node for node in topology.nodes if node.package == package]
        if nodes:
            others = sorted({other for node in nodes for other in node.other_packages})
            title = f"packages {format_id_list((package, *others))}" if others else f"package {package}"
            parts.append(Panel(_side_by_side(nodes, topology), title=title, title_align="left"))
    bare = [node for node in topology.nodes if node.package is None]
    if bare:
        parts.append(_side_by_side(bare, topology))
    if len(topology.nodes) > 1:
        parts.append(_distance_table(topology))
    parts += [Text(line) for line in _remarks(topology)]
    return Group(*parts)


def _side_by_side(nodes: Sequence[Node], topology: Topology) -> RenderableType:
    return Columns([_draw_node(node, topology) for node in nodes])


def _draw_node(node: Node, topology: Topology) -> Panel:
    lines = ["no usable memory"]
    if node.memory_bytes:
        lines = [f"{human_bytes(node.memory_bytes)}, {human_bytes(node.available_bytes)} available"]
    lines += [f"{pages} free pages of {human_bytes(size)}" for size, pages in node.huge_pages_free if pages]
    if node.cores:
        threads = "" if len(node.cores) == len(node.cpus) else f", {human_count(len(node.cpus), 'CPU')}"
        lines.append(human_count(len(node.cores), "core") + threads)
        lines.append(_core_numbers(node.cores))
    else:
        lines.append("no usable CPUs")
    lines += _last_level(node, topology)
    return Panel(Text("\n".join(lines)), title=f"node {node.id}", title_align="left", width=NODE_COLUMNS)


def _core_numbers(cores: Sequence[tuple[int, ...]]) -> str:
    """Few cores one by one, siblings together; of many the first threads, then the second ones, in runs."""
    if len(cores) <= DRAWN_CORES:
        return " ".join(f"[{format_id_list(core)}]" for core in cores)
    most_siblings = max(len(core) for core in cores)
    turns = [[core[turn] for core in cores if turn < len(core)] for turn in range(most_siblings)]
    return " + ".join(_stepped(turn) for turn in turns)


def _stepped(ids: Sequence[int]) -> str:
    """Numbers in runs, or "0-38 by 2" where they are evenly spaced."""
    steps = {later - earlier for earlier, later in pairwise(ids)}
    if len(steps) == 1 and (step := steps.pop()) > 1:
        return f"{ids[0]}-{ids[-1]} by {step}"
    return format_id_list(ids)


def _last_level(node: Node, topology: Topology) -> list[str]:
    """The outermost caches of the node's CPUs, alike ones counted, and which other nodes share them."""
    own = [cache for cache in topology.caches if set(cache.cpus) & set(node.cpus)]
    level = max((cache.level for cache in own), default=0)
    found: dict[tuple[int, tuple[int, ...]], int] = {}
    for cache in own:
        if cache.level == level:
            others = (other for other in topology.nodes if other is not node)
            sharing = tuple(other.id for other in others if set(other.cpus) & set(cache.cpus))
            found[cache.bytes, sharing] = found.get((cache.bytes, sharing), 0) + 1
    lines = []
    for (size, sharing), count in sorted(found.items()):
        times = f" x {count}" if count > 1 else ""
        lines.append(f"last-level cache {human_bytes(size)}{times}")
        if sharing:
            lines.append(f"  shared with {'node' if len(sharing) == 1 else 'nodes'} {format_id_list(sharing)}")
    return lines


def _distance_table(topology: Topology) -> Table:
    table = ruled_table("distances", "from \\ to", *(str(node.id) for node in topology.nodes))
    for node in topology.nodes:
        table.add_row(str(node.id), *(str(distance) for distance in node.distances))
    return table


def _remarks(topology: Topology) -> list[str]:
    lines = [f"Transparent huge pages: {topology.transparent_huge_pages}."]
    balancing = "on: the kernel may move pages away from where they were put" if topology.numa_balancing else "off"
    lines.append(f"Automatic NUMA balancing: {balancing}.")
    if topology.forbidden_cpus:
        cpus = format_id_list(topology.forbidden_cpus)
        lines.append(f"CPUs {cpus} exist but this process may not use them (affinity or cpuset).")
    if topology.forbidden_nodes:
        nodes = format_id_list(topology.forbidden_nodes)
        lines.append(f"Memory of node {nodes} exists but this process may not use it (cpuset).")
    return lines
