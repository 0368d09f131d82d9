"""What `numoe topology` and `numoe plan` show: the machine and the plan as rich renderables."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from numoe.model.architectures.spec import ModelSpec
from numoe.model.gguf.tensors import TensorType
from numoe.model.machine.id_lists import format_id_list
from numoe.model.machine.topology import Node, Topology
from numoe.model.planning.plan import Range, ShardPlan
from numoe.model.planning.plan_size import ShardBytes, node_bytes, shard_bytes

NODE_COLUMNS = 37  # outer width of a drawn node: two stand side by side in a package on a terminal of 80 columns
DRAWN_CORES = 8  # of a node, each in brackets; of more, their numbers are said in runs


def describe_topology(topology: Topology) -> RenderableType:
    """Draw packages, their nodes and the nodes' cores; then distances and what the kernel does with pages."""
    parts: list[RenderableType] = []
    if topology.processor.name:
        parts.append(Text(printable(topology.processor.name)))
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


def describe_plan(
    plan: ShardPlan,
    spec: ModelSpec,
    topology: Topology,
    context_tokens: int,
    kv_type: TensorType = TensorType.F16,
) -> RenderableType:
    """Tabulate each worker's place, share and bytes, then each node's memory against what the plan needs."""
    sizes = [shard_bytes(plan, spec, shard, context_tokens, kv_type) for shard in plan.shards]
    read = sum(size.read_per_token for size in sizes)
    return Group(
        Text(f"{printable(plan.model)}: {plan.split} split over {_count(len(plan.shards), 'worker')}"),
        _place_table(plan, sizes),
        _rows_table(plan),
        _fit_table(plan, spec, topology, context_tokens, kv_type),
        Text(f"One generated token reads {human_bytes(read)} of weights."),
        Text(f"The KV cache holds {context_tokens:,} positions."),
        *(Text(f"Note: {printable(note)}") for note in plan.notes),
    )


def printable(text: str) -> str:
    """`text` from a file for a terminal: escape sequences in a model's name must not reach it."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def human_bytes(count: int) -> str:
    """A byte count in the largest binary unit that leaves at least one, to three digits: "1.46 GiB"."""
    value, unit = float(count), 0
    units = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
    while value >= 999.5 and unit < len(units) - 1:  # 999.5 would round to four digits
        value, unit = value / 1024, unit + 1
    decimals = 0 if unit == 0 or value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{decimals}f} {units[unit]}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _side_by_side(nodes: Sequence[Node], topology: Topology) -> RenderableType:
    return Columns([_draw_node(node, topology) for node in nodes])


def _draw_node(node: Node, topology: Topology) -> Panel:
    lines = ["no usable memory"]
    if node.memory_bytes:
        lines = [f"{human_bytes(node.memory_bytes)}, {human_bytes(node.available_bytes)} available"]
    lines += [f"{pages} free pages of {human_bytes(size)}" for size, pages in node.huge_pages_free if pages]
    if node.cores:
        threads = "" if len(node.cores) == len(node.cpus) else f", {_count(len(node.cpus), 'CPU')}"
        lines.append(_count(len(node.cores), "core") + threads)
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


def ruled_table(title: str, *headings: str, named_rows: bool = False) -> Table:
    """Columns of figures; if rows are named, the first column is for their names, which are never broken."""
    table = Table(title=title, title_justify="left")
    for number, heading in enumerate(headings):
        if named_rows and not number:
            table.add_column(heading, no_wrap=True)
        else:
            table.add_column(heading, justify="right", overflow="fold")
    return table


def _place_table(plan: ShardPlan, sizes: Sequence[ShardBytes]) -> Table:
    table = ruled_table("where", "worker", "node", "CPUs", "threads", "weights", "KV cache", "read/token")
    for shard, size in zip(plan.shards, sizes, strict=True):
        place = (str(shard.worker), str(shard.node), format_id_list(shard.cpus), str(len(shard.cpus)))
        table.add_row(*place, *(human_bytes(count) for count in (size.weights, size.kv_cache, size.read_per_token)))
    return table


def _rows_table(plan: ShardPlan) -> Table:
    table = ruled_table("what", "worker", "heads", "kv heads", "width", "expert", "vocabulary")
    for shard in plan.shards:
        ranges = (shard.heads, shard.kv_heads, shard.width_rows, shard.expert_rows, shard.vocabulary)
        table.add_row(str(shard.worker), *(_span(owned) for owned in ranges))
    return table


def _span(owned: Range) -> str:
    """First and last owned index, as people count; a dash for nothing."""
    return f"{owned.start}-{owned.stop - 1}" if owned.size else "-"


def _fit_table(
    plan: ShardPlan, spec: ModelSpec, topology: Topology, context_tokens: int, kv_type: TensorType
) -> RenderableType:
    available = {node.id: node.available_bytes for node in topology.nodes}
    table = ruled_table("memory", "node", "needed", "available", "fits")
    for node_id, needed in node_bytes(plan, spec, context_tokens, kv_type).items():
        room = available.get(node_id, 0)
        fits = "yes" if needed <= room else f"no, {human_bytes(needed - room)} short"
        table.add_row(str(node_id), human_bytes(needed), human_bytes(room), fits)
    return table
