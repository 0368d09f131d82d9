"""The plan's file: what is written is read, and an edit that would lose or double a row is refused."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from numoe.model.machine.topology import Node, Topology
from numoe.model.planning.expert_owners import ExpertOwners
from numoe.model.planning.plan import Spread
from numoe.model.planning.plan_checks import check_placement
from numoe.model.planning.plan_file import from_toml, to_toml
from numoe.model.planning.splitting import PlanOptions, make_plan
from numoe.protos.errors import PlanError
from tests.model.planning.examples import LIMITS
from tests.tiny_model import TinyShape, tiny_spec

SPEC = tiny_spec(TinyShape())  # 8 heads, 4 kv heads, width 64, expert width 96, vocabulary 331
MACHINE = Topology((Node(0, ((0,), (1,)), 1 << 30, 1 << 30, 1 << 30, (10,), package=0),))
PLAN = make_plan(SPEC, MACHINE, PlanOptions(workers=2))
FILE = """\
# Who owns what. Ranges are half-open [start, stop); those of rows start at multiples of 16, of expert_rows 32.
# An [[experts]] table lists, per worker, the whole experts it holds in these layers; ids as in 0-2,8.

model = "tiny qwen3moe"
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
expert_rows = [0, 32]
vocabulary = [0, 160]

[[shard]]
worker = 1
node = 0
cpus = [1]
heads = [4, 8]
kv_heads = [2, 4]
width_rows = [32, 64]
expert_rows = [32, 96]
vocabulary = [160, 331]
"""
EXPERTS = """
[[experts]]
layers = "1"
workers = ["0-4", "4-7"]
"""


def test_the_file_is_written_for_people() -> None:
    assert to_toml(PLAN) == FILE


@given(st.integers(1, 8), st.text(), st.lists(st.text(), max_size=3))
def test_a_plan_is_read_as_it_was_written(workers: int, name: str, notes: list[str]) -> None:
    spec = replace(SPEC, name=name)
    made = replace(make_plan(spec, MACHINE, PlanOptions(workers=workers)), notes=tuple(notes))
    assert from_toml(to_toml(made), spec) == made


@pytest.mark.parametrize("spread", [Spread("interleave", (0, 3)), Spread("any", (0,), (0, 1, 7)), Spread("bind", (0,))])
def test_a_worker_on_several_nodes_is_read_as_it_was_written(spread: Spread) -> None:
    made = make_plan(SPEC, MACHINE, PlanOptions(spread=spread))
    assert from_toml(to_toml(made), SPEC) == made


SPREAD = 'vocabulary = [160, 331]\nspread = { memory = "interleave", nodes = "0-1", floating = "" }'


@pytest.mark.parametrize(
    ("found", "edited", "message"),
    [
        ('"interleave"', '"local"', "shard 1: spread: memory: found 'local', expected interleave, bind, any"),
        ('"interleave"', "3", "shard 1: spread: memory: found 3, expected interleave, bind, any"),
        ('"0-1"', '"1-0"', "shard 1: spread: nodes: found '1-0', expected numbers"),
        ('"0-1"', '"1-2"', "shard 1: spread: nodes: found '1-2', expected node 0 of the shard among them"),
        (', floating = ""', "", "shard 1: spread: floating is missing"),
        ('{ memory = "interleave", nodes = "0-1", floating = "" }', '"all"', "spread: found 'all', expected a table"),
    ],
)
def test_an_edit_of_a_worker_on_several_nodes_is_checked(found: str, edited: str, message: str) -> None:
    text = FILE.replace("vocabulary = [160, 331]", SPREAD)
    spread = from_toml(text, SPEC).shards[1].spread
    assert spread == Spread("interleave", (0, 1))
    with pytest.raises(PlanError, match=re.escape(message)):
        from_toml(text.replace(found, edited), SPEC)


def test_an_uneven_but_complete_plan_is_accepted() -> None:
    edited = FILE.replace("expert_rows = [0, 32]", "expert_rows = [0, 96]").replace("[32, 96]", "[96, 96]")
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
        ("[0, 160]", "[0, 161]", r"vocabulary: found \[0, 161\], expected multiples of 16"),
        ("[0, 32]\nvocabulary", "[0, 48]\nvocabulary", r"expert_rows: found \[0, 48\], expected multiples of 32"),
        ("[160, 331]", "[160, 336]", "vocabulary: the ranges end at 336, expected 331"),
        ("expert_rows = [32, 96]", "expert_rows = [96, 32]", "shard 1: expert_rows: found"),
        ("expert_rows = [32, 96]", "expert_rows = [-32, 96]", "shard 1: expert_rows: found"),
        ("expert_rows = [32, 96]", "expert_rows = [32]", "shard 1: expert_rows: found"),
        ("expert_rows = [32, 96]", "expert_rows = [32.0, 96]", "shard 1: expert_rows: found"),
        ("expert_rows = [32, 96]\n", "", "shard 1: expert_rows is missing"),
        ("cpus = [1]", "cpus = []", "shard 1: cpus: found"),
        ("cpus = [1]", "cpus = [true]", "shard 1: cpus: found"),
        ("cpus = [1]", "cpus = [-1]", "shard 1: cpus: found"),
        ("cpus = [1]", "threads = 3\ncpus = [1]", "shard 1: found threads"),
        ("worker = 1", "worker = 2", "shard 1: found worker = 2"),
        ("node = 0", 'node = "0"', "shard 0: node: found '0'"),
        ("notes", 'split = "expert"\nnotes', "the plan: found split"),
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


def test_whole_experts_stand_in_tables_of_layers_that_share_them_alike() -> None:
    owners = ExpertOwners(((0,),) * 4 + ((0, 1),) + ((1,),) * 3)
    made = replace(PLAN, experts=(None, owners))
    assert made.split == "mixed"
    assert to_toml(made) == FILE + EXPERTS
    assert from_toml(FILE + EXPERTS, SPEC) == made
    both = replace(PLAN, experts=(owners, owners))
    assert both.split == "expert"
    assert to_toml(both) == FILE + EXPERTS.replace('"1"', '"0-1"')


@pytest.mark.parametrize(
    ("found", "edited", "message"),
    [
        ('"4-7"', '"4-6"', "layer 1: expert 7 has no owner, expected one or more for each"),
        ('"4-7"', '"4-8"', "experts 0: workers: found '4-8', expected numbers below 8"),
        ('"4-7"', '"x"', "experts 0: workers: found 'x', expected numbers below 8"),
        ('"4-7"', "3", "experts 0: workers: found .*, expected 2 texts, one per worker"),
        (', "4-7"', "", "experts 0: workers: found .*, expected 2 texts, one per worker"),
        ('layers = "1"', 'layers = "2"', "experts 0: layers: found '2', expected numbers below 2"),
        (
            'layers = "1"',
            'layers = "0-9999999999"',
            "experts 0: layers: found '0-9999999999', expected numbers below 2",
        ),
        ('"4-7"', '"7-4"', "experts 0: workers: found '7-4', expected numbers below 8"),
        ('layers = "1"', "layers = 1", "experts 0: layers: found 1, expected numbers below 2"),
        ('layers = "1"', "", "experts 0: layers is missing"),
        ("[[experts]]", "[experts]", r"expected \[\[experts\]\] tables"),
    ],
)
def test_faulty_tables_of_experts_are_refused(found: str, edited: str, message: str) -> None:
    assert found in EXPERTS
    with pytest.raises(PlanError, match=message):
        from_toml(FILE + EXPERTS.replace(found, edited), SPEC)


def test_a_layer_in_two_tables_is_refused() -> None:
    with pytest.raises(PlanError, match="experts 1: layer 1 stands in another table too"):
        from_toml(FILE + EXPERTS + EXPERTS, SPEC)


def test_ranges_ascend_with_the_workers() -> None:
    """The workers' slices are put together in the workers' order."""
    edited = FILE.replace("width_rows = [0, 32]", "width_rows = [9, 9]").replace("[32, 64]", "[0, 32]")
    edited = edited.replace("[9, 9]", "[32, 64]")
    with pytest.raises(PlanError, match=r"width_rows: the workers' ranges start at \[32, 0\], expected them to ascend"):
        from_toml(edited, SPEC)


def test_a_plan_for_other_sizes_is_refused() -> None:
    with pytest.raises(PlanError, match="width_rows"):
        from_toml(FILE, tiny_spec(TinyShape(width=128)))


HUGE = ", ".join(["7"] * 50_000)


@pytest.mark.parametrize(
    ("found", "edited"),
    [
        ("cpus = [1]", f"cpus = [{HUGE}]"),
        ("cpus = [1]", f"cpus = [{'9' * 4000}]"),
        ("cpus = [1]", f"cpus = [{'9' * 5000}]"),
        ("notes = [", f"notes = [{'[' * 50_000}"),
        ("heads = [4, 8]", f"heads = [{HUGE}]"),
        ("heads = [4, 8]", f"heads = [4, {'9' * 4000}]"),
        ("node = 0", f'node = "{"n" * 90_000}"'),
        ("worker = 1", f'worker = "{"n" * 90_000}"'),
        ('model = "tiny qwen3moe"', f'model = "{"n" * 90_000}"'),
        ("cpus = [1]", f'"{"k" * 90_000}" = 3\ncpus = [1]'),
        ("cpus = [1]", '"\\u001b[2J\\n\\u202e" = 3\ncpus = [1]'),
        ('model = "tiny qwen3moe"', 'model = "\\u001b[2J\\n\\u202e"'),
        ('model = "tiny qwen3moe"', f'model = "{"n" * 90_000}'),
        ('layers = "1"', f'layers = "{HUGE}"'),
        ('"4-7"', f'"{HUGE}"'),
        ('workers = ["0-4", "4-7"]', f"workers = [{HUGE}]"),
    ],
)
def test_whatever_a_plan_says_its_refusal_is_one_short_line(found: str, edited: str) -> None:
    text = FILE + EXPERTS
    assert found in text
    with pytest.raises(PlanError) as refusal:
        check_placement(from_toml(text.replace(found, edited, 1), SPEC), SPEC, MACHINE, LIMITS)
    assert len(str(refusal.value)) < 400
    assert str(refusal.value).isprintable()


@pytest.mark.parametrize(
    ("found", "edited", "message"),
    [
        ("heads = [0, 4]", "heads = [0, 0]", "heads: 0 to 3 have no owner"),
        ("heads = [4, 8]", "heads = [0, 8]", "heads: 0 to 3 have two owners"),
        ("[32, 64]", "[32, 63]", r"width_rows: found \[32, 63\], expected multiples of 16"),
        ("[32, 64]", "[64, 96]", "width_rows: 32 to 63 have no owner"),
        ("[160, 331]", "[160, 320]", "vocabulary: the ranges end at 320, expected 331"),
        ("[0, 160]", "[160, 160]", "vocabulary: 0 to 159 have no owner"),
        ("expert_rows = [32, 96]", "expert_rows = [0, 96]", "expert_rows: 0 to 31 have two owners"),
        ("expert_rows = [32, 96]", "expert_rows = [32, 128]", "expert_rows: the ranges end at 128, expected 96"),
    ],
)
def test_shares_that_leave_gaps_overlap_or_go_beyond_are_refused_by_their_rows(
    found: str, edited: str, message: str
) -> None:
    assert found in FILE
    with pytest.raises(PlanError, match=message):
        from_toml(FILE.replace(found, edited, 1), SPEC)
