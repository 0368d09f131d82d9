"""The plan's file: what is written is read, and an edit that would lose or double a row is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from numoe.model.plan import PlanOptions, Shard, ShardPlan, plan
from numoe.model.plan_file import check_plan, from_toml, to_toml
from numoe.model.topology import Node, Topology
from numoe.protos.errors import PlanError
from tests.tiny_model import TinyShape, tiny_spec

SPEC = tiny_spec(TinyShape())  # 8 heads, 4 kv heads, width 64, expert width 96, vocabulary 331
MACHINE = Topology((Node(0, ((0,), (1,)), 1 << 30, 1 << 30, 1 << 30, (10,), package=0),))
PLAN = plan(SPEC, MACHINE, PlanOptions(workers=2))
FILE = """\
# Who owns what. Ranges are half-open [start, stop); row ranges are whole panels of 16 rows.

model = "tiny qwen3moe"
split = "tensor"
notes = [
    "fewer NUMA nodes (1) than workers (2): workers share the cores out",
]

[[shard]]
worker = 0
node = 0
cpus = [0]
heads = [0, 4]
kv_heads = [0, 2]
width_rows = [0, 32]
expert_rows = [0, 48]
vocabulary = [0, 160]

[[shard]]
worker = 1
node = 0
cpus = [1]
heads = [4, 8]
kv_heads = [2, 4]
width_rows = [32, 64]
expert_rows = [48, 96]
vocabulary = [160, 331]
"""


def test_the_file_is_written_for_people() -> None:
    assert to_toml(PLAN) == FILE


@given(st.integers(1, 8), st.text(), st.lists(st.text(), max_size=3))
def test_a_plan_is_read_as_it_was_written(workers: int, name: str, notes: list[str]) -> None:
    spec = replace(SPEC, name=name)
    made = replace(plan(spec, MACHINE, PlanOptions(workers=workers)), notes=tuple(notes))
    assert from_toml(to_toml(made), spec) == made


def test_an_uneven_but_complete_plan_is_accepted() -> None:
    edited = FILE.replace("[0, 48]", "[0, 96]").replace("[48, 96]", "[96, 96]")
    assert [shard.expert_rows.size for shard in from_toml(edited, SPEC).shards] == [96, 0]


@pytest.mark.parametrize(
    ("found", "edited", "message"),
    [
        ("heads = [4, 8]", "heads = [5, 8]", "heads: 4 to 4 have no owner"),
        ("heads = [4, 8]", "heads = [3, 8]", "heads: 3 to 3 have two owners"),
        ("heads = [4, 8]", "heads = [4, 7]", "heads: the ranges end at 7, expected 8"),
        ("heads = [4, 8]", "heads = [4, 9]", "heads: the ranges end at 9, expected 8"),
        ("kv_heads = [2, 4]", "kv_heads = [3, 4]", r"shard 1: kv_heads: found \[3, 4\], expected \[2, 4\]"),
        ("width_rows = [32, 64]", "width_rows = [48, 64]", "width_rows: 32 to 47 have no owner"),
        ("[0, 160]", "[0, 161]", r"vocabulary: \[0, 161\] cuts a panel"),
        ("[160, 331]", "[160, 336]", "vocabulary: the ranges end at 336, expected 331"),
        ("expert_rows = [48, 96]", "expert_rows = [96, 48]", "shard 1: expert_rows: found"),
        ("expert_rows = [48, 96]", "expert_rows = [-48, 96]", "shard 1: expert_rows: found"),
        ("expert_rows = [48, 96]", "expert_rows = [48]", "shard 1: expert_rows: found"),
        ("expert_rows = [48, 96]", "expert_rows = [48.0, 96]", "shard 1: expert_rows: found"),
        ("expert_rows = [48, 96]\n", "", "shard 1: expert_rows is missing"),
        ("cpus = [1]", "cpus = []", "shard 1: cpus: found"),
        ("cpus = [1]", "cpus = [true]", "shard 1: cpus: found"),
        ("cpus = [1]", "cpus = [-1]", "shard 1: cpus: found"),
        ("cpus = [1]", "threads = 3\ncpus = [1]", "shard 1: found threads"),
        ("worker = 1", "worker = 2", "shard 1: found worker = 2"),
        ("node = 0", 'node = "0"', "shard 0: node: found '0'"),
        ('split = "tensor"', 'split = "expert"', "split: found 'expert'"),
        ('split = "tensor"\n', "", "the plan: split is missing"),
        ('model = "tiny qwen3moe"', 'model = "another"', "the plan is for 'another', found 'tiny qwen3moe'"),
        ('model = "tiny qwen3moe"', "model = 3", "expected a string for model"),
        ("[[shard]]", "[shard]", "no valid TOML"),
        ("[[shard]]", "[[sharp]]", "shard is missing"),
        ("heads = [0, 4]", "heads = [0, 4", "no valid TOML"),
    ],
)
def test_a_faulty_plan_is_refused_by_name(found: str, edited: str, message: str) -> None:
    assert found in FILE
    with pytest.raises(PlanError, match=message):
        from_toml(FILE.replace(found, edited), SPEC)


def test_a_plan_of_too_many_shards_is_refused() -> None:
    empty = replace(PLAN.shards[0], heads=PLAN.shards[0].heads)
    shards: tuple[Shard, ...] = PLAN.shards + (empty,) * 7
    with pytest.raises(PlanError, match="found 9 shards, expected 1 to 8"):
        check_plan(ShardPlan(SPEC.name, "tensor", shards), SPEC)


def test_a_plan_for_other_sizes_is_refused() -> None:
    with pytest.raises(PlanError, match="width_rows"):
        from_toml(FILE, tiny_spec(TinyShape(width=128)))
