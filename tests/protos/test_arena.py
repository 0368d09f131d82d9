"""The arena is laid out as its drawing says: in that order, without overlap, each part on its own pages."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from numoe.kernels.threads.team import SHARED_BYTES
from numoe.protos import arena
from numoe.protos.arena import (
    LINE,
    ArenaLayout,
    ArenaShape,
    PartShape,
    arena_layout,
    dense_columns,
    expert_columns,
    whole_panels,
)
from numoe.protos.locality import PAGE
from numoe.protos.messages import StepLimits

LIMITS = StepLimits(step_tokens=70, sequences=9, context_tokens=300, kv_blocks=40, block_positions=64)
PARTS = (PartShape(32, 64, 48, 0, 100), PartShape(0, 0, 0, 96, 0), PartShape(64, 32, 16, 96, 11))
SHAPE = ArenaShape(LIMITS, layers=3, width=96, experts=8, active_experts=2, parts=PARTS)


def drawn_sections() -> list[dict[str, list[str]]]:
    """The names in the drawing: for each section between two lines the rows' labels with what stands in them."""
    assert arena.__doc__ is not None
    sections: list[dict[str, list[str]]] = []
    label = ""
    for line in arena.__doc__.splitlines():
        if line.startswith("    +--"):
            sections.append({})
        elif line.startswith("    |"):
            row = line[5:].rsplit("|", 1)[0] if line.count("|") == 2 else line[5:97]
            label = row[:11].strip() or label
            names = [re.split(r"\s{2,}", part.strip())[0] for part in row[11:].split("|")]
            sections[-1].setdefault(label, []).extend(name for name in names if name)
    return sections[:-1]  # the last line closes the box


def in_order(layout: ArenaLayout, prefix: str = "") -> list[str]:
    """The names of the fields that begin with the prefix and have no other, in the order they lie."""
    names = [name for name in layout.fields if name.startswith(prefix) and "." not in name[len(prefix) :]]
    names.sort(key=lambda name: layout.fields[name].offset)
    return [name.removeprefix(prefix) for name in names]


def test_the_drawing_has_a_section_for_control_step_and_each_worker() -> None:
    control, slot, first, second = drawn_sections()
    assert list(control) == ["control"]
    assert list(slot) == ["step slot", "results", "moves"]
    assert list(first) == ["worker 0"]
    assert second == {"worker 1": ["..."]}


def test_control_words_lie_in_the_drawn_order_on_cache_lines_of_their_own() -> None:
    names = drawn_sections()[0]["control"]
    offsets = [getattr(arena, name.upper().replace(" ", "_")) for name in names]
    assert names == ["abort", "step", "step_sleepers", "done", "team words"]
    assert offsets == [LINE * index for index in range(len(names))]


def test_the_team_words_end_before_the_step_slot() -> None:
    layout = arena_layout(SHAPE)
    assert arena.TEAM_WORDS + SHARED_BYTES <= PAGE == min(field.offset for field in layout.fields.values())


def test_the_step_slot_lies_in_the_drawn_order() -> None:
    slot = drawn_sections()[1]
    drawn = slot["step slot"] + slot["results"] + slot["moves"]
    found = in_order(arena_layout(SHAPE))
    assert [re.sub(r"^(seen|bias|top)_.*", r"\1_*", name) for name in found] == [
        name for drawn_name in drawn for name in [drawn_name] * (2 if drawn_name.endswith("*") else 1)
    ]


@pytest.mark.parametrize("worker", range(len(PARTS)))
def test_a_workers_part_lies_in_the_drawn_order(worker: int) -> None:
    assert in_order(arena_layout(SHAPE), f"worker{worker}.") == drawn_sections()[2]["worker 0"]


def check_layout(layout: ArenaLayout) -> None:
    """No field overlaps another, all begin on cache lines, parts are whole pages and hold their fields only."""
    fields = sorted(layout.fields.values(), key=lambda field: field.offset)
    assert fields[0].offset == PAGE
    for before, after in pairwise(fields):
        assert before.offset + before.bytes <= after.offset
    assert fields[-1].offset + fields[-1].bytes <= layout.bytes
    assert all(field.offset % LINE == 0 for field in fields)
    assert layout.bytes == layout.parts[-1][1]
    assert layout.bytes % PAGE == 0
    for (_, end), (start, _) in pairwise(layout.parts):
        assert end == start
    for worker, (start, end) in enumerate(layout.parts):
        assert start % PAGE == end % PAGE == 0
        for name, field in layout.fields.items():
            inside = start <= field.offset and field.offset + field.bytes <= end
            assert inside or not name.startswith(f"worker{worker}.")
            assert name.startswith(f"worker{worker}.") or not start <= field.offset < end or field.bytes == 0


@settings(max_examples=100)
@given(
    st.integers(1, 600), st.integers(1, 40), st.integers(1, 5000), st.integers(1, 128), st.integers(1, 8),
    st.lists(st.builds(PartShape, *[st.integers(0, 12).map(lambda n: 16 * n)] * 5), min_size=1, max_size=8),
)  # fmt: skip
def test_any_arena_is_laid_out_without_overlap(
    tokens: int, sequences: int, context: int, experts: int, active: int, parts: list[PartShape]
) -> None:
    limits = StepLimits(tokens, sequences, context, 10, 64)
    check_layout(arena_layout(ArenaShape(limits, 2, 64, experts, min(active, experts), tuple(parts))))


def test_fields_have_room_for_what_the_limits_allow() -> None:
    fields = arena_layout(SHAPE).fields
    columns = expert_columns(LIMITS.step_tokens, 2, 8)
    assert fields["token_ids"].shape == fields["positions"].shape == fields["token_sequence"].shape == (70,)
    assert fields["kv_tables"].shape == (9, 5)  # 300 positions in blocks of 64
    assert fields["samples"].shape == fields["drawn_tokens"].shape == fields["drawn_logprobs"].shape == (9,)
    assert fields["seen_tokens"].shape == fields["seen_counts"].shape == (9 * 300,)
    assert fields["worker0.expert_hits"].shape == (3, 8)
    assert fields["worker0.embedding"].shape == (70, 96)
    assert fields["worker0.hidden"].shape == (dense_columns(70), 32)
    assert fields["worker0.attention"].shape == (dense_columns(70), 64)
    assert fields["worker0.intermediate"].shape == (columns, 48)
    assert fields["worker2.output"].shape == (columns, 96)
    assert fields["worker2.logits"].shape == (dense_columns(9), 16)
    assert all(fields[f"worker1.{name}"].bytes == 0 for name in ("hidden", "attention", "intermediate", "logits"))


def test_views_see_their_field_and_nothing_else() -> None:
    layout = arena_layout(SHAPE)
    memory = np.zeros(layout.bytes, np.uint8)
    for name, field in layout.fields.items():
        view = layout.view(memory, name)
        assert view.shape == field.shape
        assert view.dtype == field.dtype
        view.view(np.uint8)[...] = 255
        assert np.count_nonzero(memory) == field.bytes
        assert memory[field.offset : field.offset + field.bytes].all()
        memory[:] = 0


@pytest.mark.parametrize(("rows", "panels"), [(0, 0), (1, 16), (16, 16), (17, 32), (151936, 151936)])
def test_rows_are_rounded_up_to_whole_panels(rows: int, panels: int) -> None:
    assert whole_panels(rows) == panels
