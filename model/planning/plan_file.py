"""The plan as a TOML file that a person can read, edit and compare, with a table for each worker.

model = "Qwen3-30B-A3B"
notes = []

[[shard]]
worker = 0
node = 0
cpus = [0, 1, 2, 3]
heads = [0, 16]             # half-open: 0 to 15
kv_heads = [0, 2]
width_rows = [0, 1024]
expert_rows = [0, 384]
vocabulary = [0, 75968]
spread = { memory = "interleave", nodes = "0-1", floating = "" }  # only of a worker that is bound to no single node

Layers whose experts are held whole have a table; in all others every worker holds its expert_rows of every expert.

[[experts]]
layers = "0-11"
workers = ["0-63", "60-127"]  # the experts that each worker holds; 60 to 63 have replicas

The plan of several hosts has a table for each, and in it those of its workers. Layers are the model's, on every host.

[[host]]
address = "10.0.0.2"
layers = [47, 94]           # half-open, too
notes = []

[[host.shard]]
worker = 0
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Literal

from numoe.model.architectures.spec import ModelSpec, stage_of
from numoe.model.machine.id_lists import MOST_IDS, format_id_list, parse_id_list
from numoe.model.planning.expert_owners import ExpertOwners
from numoe.model.planning.hosts_plan import HostPart, HostsPlan, check_hosts
from numoe.model.planning.plan import MOST_THREADS, Range, Shard, ShardPlan, Spread
from numoe.model.planning.plan_checks import check_plan
from numoe.protos.errors import PlanError
from numoe.protos.foreign_text import one_line

HEADER = (
    "# Who owns what. Ranges are half-open [start, stop); those of rows start at multiples of 16, of expert_rows 32.\n"
    "# An [[experts]] table lists, per worker, the whole experts it holds in these layers; ids as in 0-2,8.\n"
)
HOSTS_HEADER = "# Which host runs which layers, and who owns what there.\n"
BEYOND_ALL = 1 << 31  # rows, CPUs and nodes that there may be
SHOWN = 120  # characters of what a file says in a message
SPREADS: Mapping[str, Literal["interleave", "bind", "any"]] = {
    "interleave": "interleave", "bind": "bind", "any": "any"
}  # fmt: skip
RANGES = ("heads", "kv_heads", "width_rows", "expert_rows", "vocabulary")


def to_toml(plan: ShardPlan) -> str:
    """The text of a plan's file; from_toml reads an equal plan from it."""
    lines = [HEADER, f"model = {_quote(plan.model)}", _notes_line(plan), *_table_lines(plan, "", 0)]
    return "\n".join(lines) + "\n"


def hosts_to_toml(plan: HostsPlan) -> str:
    """The text of a file of several hosts' plan; hosts_from_toml reads an equal plan from it."""
    lines = [HOSTS_HEADER + HEADER, f"model = {_quote(plan.model)}"]
    for host in plan.hosts:
        layers = f"layers = [{host.layers.start}, {host.layers.stop}]"
        lines += ["", "[[host]]", f"address = {_quote(host.address)}", layers, _notes_line(host.plan)]
        lines += _table_lines(host.plan, "host.", host.layers.start)
    return "\n".join(lines) + "\n"


def _notes_line(plan: ShardPlan) -> str:
    notes = "".join(f"\n    {_quote(note)}," for note in plan.notes) + ("\n" if plan.notes else "")
    return f"notes = [{notes}]"


def _table_lines(plan: ShardPlan, within: str, first_layer: int) -> list[str]:
    """The tables of shards and experts; `within`: what their names begin with."""
    lines: list[str] = []
    for shard in plan.shards:
        lines += ["", f"[[{within}shard]]", f"worker = {shard.worker}", f"node = {shard.node}"]
        lines.append(f"cpus = {list(shard.cpus)}")
        ranges = {name: getattr(shard, name) for name in RANGES}
        lines += [f"{name} = [{owned.start}, {owned.stop}]" for name, owned in ranges.items()]
        if (spread := shard.spread) is not None:
            nodes, floating = (_quote(format_id_list(ids)) for ids in (spread.nodes, spread.floating))
            lines.append(f"spread = {{ memory = {_quote(spread.memory)}, nodes = {nodes}, floating = {floating} }}")
    for owners in dict.fromkeys(plan.experts):
        if owners is not None:
            layers = format_id_list(layer for layer, other in enumerate(plan.experts, first_layer) if other == owners)
            held = [format_id_list(owners.held_by(shard.worker)) for shard in plan.shards]
            lines += ["", f"[[{within}experts]]", f"layers = {_quote(layers)}", f"workers = {json.dumps(held)}"]
    return lines


def from_toml(text: str, spec: ModelSpec) -> ShardPlan:
    """Read a plan for a model. Raises PlanError unless it is well-formed and check_plan accepts it."""
    document = _read_document(text)
    if "host" in document:
        raise PlanError("the plan is of several hosts, which --hosts has to say: expected one of this host alone")
    return _read_plan(document, spec, "")


def hosts_from_toml(text: str, spec: ModelSpec) -> HostsPlan:
    """Read several hosts' plan for a model. Raises PlanError unless it is well-formed, whole, and can be run."""
    document = _read_document(text)
    if "host" not in document:
        raise PlanError("the plan is of one host, and --hosts names several: expected one with [[host]] tables")
    _expect_keys(document, {"model", "host"}, "the plan")
    if not isinstance(document["model"], str) or not _is_list(document["host"], dict):
        raise PlanError("the plan: expected a string for model, and [[host]] tables")
    parts: list[HostPart] = []
    for number, table in enumerate(document["host"]):
        where = f"host {number}: "
        address, layers = table.pop("address", None), _read_range(table.pop("layers", None), f"{where}layers")
        if not isinstance(address, str) or not 0 <= layers.start < layers.stop <= spec.layers:
            found = f"found {_shown(address)} with layers {layers.start} to {layers.stop - 1}"
            raise PlanError(f"{where}{found}, expected an address, and layers of 0 to {spec.layers - 1}")
        stage = stage_of(spec, layers.start, layers.stop)
        parts.append(HostPart(address, layers, _read_plan(table | {"model": document["model"]}, stage, where)))
    plan = HostsPlan(document["model"], tuple(parts))
    check_hosts(plan, spec)
    return plan


def _read_document(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also of numbers of 5,000 digits, and of lists in lists in lists
        raise PlanError(f"the plan is no valid TOML: {one_line(str(error), SHOWN)}") from error


def _read_plan(document: dict[str, Any], spec: ModelSpec, within: str) -> ShardPlan:
    """A model's plan, or that of one host's layers; `within`: what messages begin with."""
    here = within.removesuffix(": ") or "the plan"
    document.setdefault("experts", [])
    _expect_keys(document, {"model", "shard", "experts", "notes"}, here)
    if not isinstance(document["model"], str) or not _is_list(document["notes"], str):
        raise PlanError(f"{here}: expected a string for model and an array of strings for notes")
    if not _is_list(document["shard"], dict):
        raise PlanError(f"{here}: found no [[shard]] tables, expected one per worker")
    shards = tuple(_read_shard(table, number, within) for number, table in enumerate(document["shard"]))
    experts = _read_experts(document["experts"], spec, len(shards), within)
    plan = ShardPlan(document["model"], shards, experts, tuple(document["notes"]))
    check_plan(plan, spec)
    return plan


def _read_experts(tables: Any, spec: ModelSpec, workers: int, within: str) -> tuple[ExpertOwners | None, ...]:
    if tables and not _is_list(tables, dict):
        raise PlanError(f"{within}experts: expected [[experts]] tables")
    owners: list[ExpertOwners | None] = [None] * spec.layers
    first, end = spec.first_layer, spec.first_layer + spec.layers
    for number, table in enumerate(tables):
        where = f"{within}experts {number}"
        _expect_keys(table, {"layers", "workers"}, where)
        layers = _read_ids(table["layers"], end, f"{where}: layers")
        if layers and layers[0] < first:
            raise PlanError(f"{where}: layers: found {layers[0]}, expected those of this host, {first} to {end - 1}")
        if not _is_list(table["workers"], str) or len(table["workers"]) != workers:
            raise PlanError(
                f"{where}: workers: found {_shown(table['workers'])}, expected {workers} texts, one per worker"
            )
        held = [_read_ids(text, spec.experts, f"{where}: workers") for text in table["workers"]]
        holders = tuple(
            tuple(worker for worker in range(workers) if expert in held[worker]) for expert in range(spec.experts)
        )
        for layer in layers:
            if owners[layer - first] is not None:
                raise PlanError(f"{where}: layer {layer} stands in another table too, expected it once")
            owners[layer - first] = ExpertOwners(holders)
    return tuple(owners)


def _read_ids(text: Any, count: int, where: str) -> tuple[int, ...]:
    try:
        ids = parse_id_list(text, below=count) if isinstance(text, str) else None
    except ValueError:
        ids = None
    if ids is None:
        raise PlanError(f'{where}: found {_shown(text)}, expected numbers below {count} in a text such as "0-2,8"')
    return ids


def _read_shard(table: dict[str, Any], number: int, within: str) -> Shard:
    where = f"{within}shard {number}"
    table.setdefault("spread", None)  # which no TOML can say
    _expect_keys(table, {field.name for field in fields(Shard)}, where)
    cpus, node = table["cpus"], table["node"]
    if table["worker"] != number:
        raise PlanError(f"{where}: found worker = {_shown(table['worker'])}, expected {number}: shards stand in order")
    if not _is_list(cpus, int) or not 1 <= len(cpus) <= MOST_THREADS or not 0 <= min(cpus) <= max(cpus) < BEYOND_ALL:
        raise PlanError(
            f"{where}: cpus: found {_shown(cpus)}, expected 1 to {MOST_THREADS} CPU numbers, one per thread"
        )
    if not _is_whole(node):
        raise PlanError(f"{where}: node: found {_shown(node)}, expected the number of a NUMA node")
    ranges = {name: _read_range(table[name], f"{where}: {name}") for name in RANGES}
    return Shard(
        worker=number, node=node, cpus=tuple(cpus), spread=_read_spread(table["spread"], node, where), **ranges
    )


def _read_spread(table: Any, node: int, where: str) -> Spread | None:
    if table is None:
        return None
    where += ": spread"
    if not isinstance(table, dict):
        raise PlanError(f"{where}: found {_shown(table)}, expected a table of memory, nodes and floating")
    _expect_keys(table, {field.name for field in fields(Spread)}, where)
    memory = SPREADS.get(table["memory"]) if isinstance(table["memory"], str) else None
    if memory is None:
        raise PlanError(f"{where}: memory: found {_shown(table['memory'])}, expected {', '.join(SPREADS)}")
    nodes, floating = (_read_ids(table[name], MOST_IDS, f"{where}: {name}") for name in ("nodes", "floating"))
    if node not in nodes:
        raise PlanError(f"{where}: nodes: found {_shown(table['nodes'])}, expected node {node} of the shard among them")
    return Spread(memory, nodes, floating)


def _read_range(value: Any, where: str) -> Range:
    if not _is_list(value, int) or len(value) != 2 or not 0 <= value[0] <= value[1] < BEYOND_ALL:
        raise PlanError(f"{where}: found {_shown(value)}, expected [start, stop] with 0 <= start <= stop")
    return Range(value[0], value[1])


def _expect_keys(table: dict[str, Any], expected: set[str], where: str) -> None:
    for key in sorted(expected - table.keys()):
        raise PlanError(f"{where}: {key} is missing")
    for key in sorted(table.keys() - expected):
        raise PlanError(f"{where}: found {one_line(key, SHOWN)}, expected only {', '.join(sorted(expected))}")


def _is_list(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(isinstance(item, kind) and not isinstance(item, bool) for item in value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < BEYOND_ALL


def _shown(value: Any) -> str:
    """A value of the file as a message shows it: in one line, whatever its length and characters."""
    return one_line(repr(value), SHOWN)


def _quote(text: str) -> str:
    """A TOML basic string; JSON's escapes are a subset of TOML's but for DEL, which TOML forbids bare."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
