"""The plan as a file that a person can read, edit and diff: TOML, one table per worker.

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

Layers whose experts are held whole have a table; in all others every worker holds its expert_rows of every expert.

[[experts]]
layers = "0-11"
workers = ["0-63", "60-127"]  # the experts that each worker holds; 60 to 63 have replicas
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from numoe.model.architectures.spec import ModelSpec
from numoe.model.machine.id_lists import format_id_list, parse_id_list
from numoe.model.planning.expert_owners import ExpertOwners
from numoe.model.planning.plan import (
    BLOCK_ROWS,
    MOST_THREADS,
    MOST_WORKERS,
    PANEL_ROWS,
    Range,
    Shard,
    ShardPlan,
    kv_heads_of,
)
from numoe.protos.errors import PlanError

HEADER = (
    "# Who owns what. Ranges are half-open [start, stop); those of rows start at multiples of 16, of expert_rows 32.\n"
    "# An [[experts]] table lists, per worker, the whole experts it holds in these layers; ids as in 0-2,8.\n"
)
RANGES = ("heads", "kv_heads", "width_rows", "expert_rows", "vocabulary")


def to_toml(plan: ShardPlan) -> str:
    """Write `plan` so that from_toml reads back an equal one."""
    notes = "".join(f"\n    {_quote(note)}," for note in plan.notes) + ("\n" if plan.notes else "")
    lines = [HEADER, f"model = {_quote(plan.model)}", f"notes = [{notes}]"]
    for shard in plan.shards:
        lines += ["", "[[shard]]", f"worker = {shard.worker}", f"node = {shard.node}", f"cpus = {list(shard.cpus)}"]
        ranges = {name: getattr(shard, name) for name in RANGES}
        lines += [f"{name} = [{owned.start}, {owned.stop}]" for name, owned in ranges.items()]
    for owners in dict.fromkeys(plan.experts):
        if owners is not None:
            layers = format_id_list(layer for layer, other in enumerate(plan.experts) if other == owners)
            held = [format_id_list(owners.held_by(shard.worker)) for shard in plan.shards]
            lines += ["", "[[experts]]", f"layers = {_quote(layers)}", f"workers = {json.dumps(held)}"]
    return "\n".join(lines) + "\n"


def from_toml(text: str, spec: ModelSpec) -> ShardPlan:
    """Read a plan for `spec`; raises PlanError unless it is well-formed and covers each head and row exactly once."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PlanError(f"the plan is no valid TOML: {error}") from error
    document.setdefault("experts", [])
    _expect_keys(document, {"model", "shard", "experts", "notes"}, "the plan")
    if not isinstance(document["model"], str) or not _is_list(document["notes"], str):
        raise PlanError("the plan: expected a string for model and an array of strings for notes")
    if not _is_list(document["shard"], dict):
        raise PlanError("the plan: found no [[shard]] tables, expected one per worker")
    shards = tuple(_read_shard(table, number) for number, table in enumerate(document["shard"]))
    experts = _read_experts(document["experts"], spec, len(shards))
    plan = ShardPlan(document["model"], shards, experts, tuple(document["notes"]))
    check_plan(plan, spec)
    return plan


def _read_experts(tables: Any, spec: ModelSpec, workers: int) -> tuple[ExpertOwners | None, ...]:
    if tables and not _is_list(tables, dict):
        raise PlanError("experts: expected [[experts]] tables")
    owners: list[ExpertOwners | None] = [None] * spec.layers
    for number, table in enumerate(tables):
        where = f"experts {number}"
        _expect_keys(table, {"layers", "workers"}, where)
        layers = _read_ids(table["layers"], spec.layers, f"{where}: layers")
        if not _is_list(table["workers"], str) or len(table["workers"]) != workers:
            raise PlanError(f"{where}: workers: found {table['workers']!r}, expected {workers} texts, one per worker")
        held = [_read_ids(text, spec.experts, f"{where}: workers") for text in table["workers"]]
        holders = tuple(
            tuple(worker for worker in range(workers) if expert in held[worker]) for expert in range(spec.experts)
        )
        for layer in layers:
            if owners[layer] is not None:
                raise PlanError(f"{where}: layer {layer} stands in another table too, expected it once")
            owners[layer] = ExpertOwners(holders)
    return tuple(owners)


def _read_ids(text: Any, count: int, where: str) -> tuple[int, ...]:
    try:
        ids = parse_id_list(text) if isinstance(text, str) else None
    except ValueError:
        ids = None
    if ids is None or any(number >= count for number in ids):
        raise PlanError(f'{where}: found {text!r}, expected numbers below {count} in a text such as "0-2,8"')
    return ids


def check_plan(plan: ShardPlan, spec: ModelSpec) -> None:
    """Raise PlanError unless `plan` splits exactly this model: every head and row owned once, in whole units."""
    if plan.model != spec.name:
        raise PlanError(f"model: the plan is for {plan.model!r}, found {spec.name!r}; make a new one with `numoe plan`")
    if not 1 <= len(plan.shards) <= MOST_WORKERS:
        raise PlanError(f"the plan: found {len(plan.shards)} shards, expected 1 to {MOST_WORKERS}")
    _check_cover("heads", [shard.heads for shard in plan.shards], spec.query_heads, 1)
    _check_cover("width_rows", [shard.width_rows for shard in plan.shards], spec.width, PANEL_ROWS)
    _check_cover("expert_rows", [shard.expert_rows for shard in plan.shards], spec.expert_width, BLOCK_ROWS)
    _check_cover("vocabulary", [shard.vocabulary for shard in plan.shards], spec.vocabulary, PANEL_ROWS)
    for layer, owners in enumerate(plan.experts):
        if owners is not None:
            _check_owners(f"layer {layer}", owners, spec)
    for shard in plan.shards:
        needed = kv_heads_of(spec, shard.heads)
        if shard.heads.size and shard.kv_heads != needed:
            found = f"[{shard.kv_heads.start}, {shard.kv_heads.stop}]"
            expected = f"[{needed.start}, {needed.stop}]"
            raise PlanError(f"shard {shard.worker}: kv_heads: found {found}, expected {expected}, what its heads need")
        if not shard.heads.size and shard.kv_heads.size:
            raise PlanError(f"shard {shard.worker}: kv_heads: expected an empty range as it has no heads")


def _check_owners(where: str, owners: ExpertOwners, spec: ModelSpec) -> None:
    if not spec.routed:
        raise PlanError(f"{where}: the model has no experts to hold whole; remove the [[experts]] tables")
    if missing := [expert for expert, holders in enumerate(owners.workers) if not holders]:
        raise PlanError(f"{where}: expert {format_id_list(missing)} has no owner, expected one or more for each")


def _check_cover(name: str, ranges: Sequence[Range], size: int, unit: int) -> None:
    covered = 0
    for owned in sorted((owned for owned in ranges if owned.size), key=lambda owned: owned.start):
        if owned.start != covered:
            fault = "have no owner" if owned.start > covered else "have two owners"
            low, high = min(owned.start, covered), max(owned.start, covered)
            raise PlanError(f"{name}: {low} to {high - 1} {fault}, expected exactly one each")
        if owned.start % unit or (owned.stop % unit and owned.stop != size):
            raise PlanError(f"{name}: found [{owned.start}, {owned.stop}], expected multiples of {unit}")
        covered = owned.stop
    starts = [owned.start for owned in ranges if owned.size]
    if starts != sorted(starts):
        raise PlanError(f"{name}: the workers' ranges start at {starts}, expected them to ascend; exchange them")
    if covered != size:
        raise PlanError(f"{name}: the ranges end at {covered}, expected {size}, the size of the model")


def _read_shard(table: dict[str, Any], number: int) -> Shard:
    where = f"shard {number}"
    _expect_keys(table, {field.name for field in fields(Shard)}, where)
    cpus, node = table["cpus"], table["node"]
    if table["worker"] != number:
        raise PlanError(f"{where}: found worker = {table['worker']!r}, expected {number}: shards stand in order")
    if not _is_list(cpus, int) or not 1 <= len(cpus) <= MOST_THREADS or min(cpus) < 0:
        raise PlanError(f"{where}: cpus: found {cpus!r}, expected 1 to {MOST_THREADS} CPU numbers, one per thread")
    if not _is_whole(node):
        raise PlanError(f"{where}: node: found {node!r}, expected the number of a NUMA node")
    ranges = {name: _read_range(table[name], f"{where}: {name}") for name in RANGES}
    return Shard(worker=number, node=node, cpus=tuple(cpus), **ranges)


def _read_range(value: Any, where: str) -> Range:
    if not _is_list(value, int) or len(value) != 2 or not 0 <= value[0] <= value[1]:
        raise PlanError(f"{where}: found {value!r}, expected [start, stop] with 0 <= start <= stop")
    return Range(value[0], value[1])


def _expect_keys(table: dict[str, Any], expected: set[str], where: str) -> None:
    for key in sorted(expected - table.keys()):
        raise PlanError(f"{where}: {key} is missing")
    for key in sorted(table.keys() - expected):
        raise PlanError(f"{where}: found {key}, expected only {', '.join(sorted(expected))}")


def _is_list(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(isinstance(item, kind) and not isinstance(item, bool) for item in value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _quote(text: str) -> str:
    """A TOML basic string; JSON's escapes are a subset of TOML's but for DEL, which TOML forbids bare."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
