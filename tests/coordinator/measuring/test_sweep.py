"""llama-sweep-bench's procedure: which tokens are run where, in which order, and what is measured of it."""

from __future__ import annotations

from typing import cast

import pytest

from numoe.coordinator.measuring.steps import Measurement, Steps
from numoe.coordinator.measuring.sweep import Run, Sweep, run_sweep
from numoe.coordinator.workers.group import HostGroup
from numoe.protos.messages import StepLimits
from numoe.protos.profile import Profile
from tests.coordinator.measuring.fake_group import FakeGroup
from tests.coordinator.profiling.made_up import made_up_profile

LIMITS = StepLimits(step_tokens=8, sequences=1, context_tokens=24, kv_blocks=1, block_positions=64)


def test_each_depth_decodes_first_and_then_the_prompt_takes_those_places() -> None:
    group = FakeGroup(LIMITS)
    rows = list(run_sweep(Sweep(20, 8, 2), Steps(cast(HostGroup, group), 50, 60.0)))
    assert [row.depth for row in rows] == [0, 8, 16]
    assert [(chunk[0], chunk[1], chunk[3]) for [chunk] in group.seen] == [
        (0, 1, 1),  # warms up
        *((0, 1, 1), (1, 1, 1), (0, 8, 1)),
        *((8, 1, 1), (9, 1, 1), (8, 8, 1)),
        *((16, 1, 1), (17, 1, 1), (16, 8, 1)),
    ]


def test_only_decodes_that_are_measured_are_profiled() -> None:
    group, ran = FakeGroup(LIMITS), []

    def profile(run: Run) -> tuple[Measurement, Profile]:
        before = len(group.steps)
        found = run()
        ran.append([chunk[0] for [chunk] in group.seen[before:]])
        return found, made_up_profile()

    rows = list(run_sweep(Sweep(24, 8, 2, stride=2), Steps(cast(HostGroup, group), 50, 60.0), profile=profile))
    assert ran == [[0, 1], [16, 17]]
    assert [row.decode_profile is not None for row in rows] == [True, True]


def test_rows_come_as_they_are_measured() -> None:
    group = FakeGroup(LIMITS)
    rows = run_sweep(Sweep(16, 8, 1), Steps(cast(HostGroup, group), 50, 60.0), warm_prompt=True)
    assert next(rows).depth == 0
    assert len(group.steps) == 4, "a token and a prompt to warm up, a token, a prompt"


def test_of_rows_that_a_stride_leaves_out_only_the_prompt_is_run() -> None:
    group = FakeGroup(LIMITS)
    sweep = Sweep(24, 8, 1, stride=2)
    rows = list(run_sweep(sweep, Steps(cast(HostGroup, group), 50, 60.0)))
    assert [row.depth for row in rows] == sweep.depths == [0, 16]
    assert [chunk[:2] for [chunk] in group.seen[1:]] == [(0, 1), (0, 8), (8, 8), (16, 1), (16, 8)]


@pytest.mark.parametrize(
    ("sweep", "length"), [(Sweep(16, 8, 2), 16), (Sweep(17, 8, 2), 24), (Sweep(8, 8, 30), 30), (Sweep(1, 8, 1), 8)]
)
def test_the_last_row_has_room(sweep: Sweep, length: int) -> None:
    assert sweep.length == length
