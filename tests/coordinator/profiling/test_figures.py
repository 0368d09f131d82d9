"""Figures of a profile: sums of what threads noted, by phase, thread and layer."""

from __future__ import annotations

from dataclasses import replace

import pytest

from numoe.coordinator.profiling.figures import (
    accounted,
    accounted_of_all,
    grouped_phases,
    layer_times,
    outside_steps,
    peak_of,
    phase_shares,
    read_rate,
    single_phases,
    step_seconds,
    thread_imbalance,
)
from numoe.protos.profile import PHASES
from tests.coordinator.profiling.made_up import LAYERS, STEPS, made_up_profile

PROFILE = made_up_profile()


def test_a_phase_is_the_mean_of_its_threads_in_one_step() -> None:
    for worker in PROFILE.workers:
        shares = {share.name: share for share in phase_shares(worker, STEPS, single_phases())}
        qkv = shares["qkv"]
        assert (qkv.work, qkv.for_threads, qkv.for_workers) == pytest.approx((6e-3, 3e-3, 0))
        assert qkv.imbalance == pytest.approx(9 / 6 - 1)
        assert (qkv.weight_bytes, qkv.kv_bytes) == (9e6, 0)
        assert qkv.read_rate == pytest.approx(9e6 / 9e-3)
        assert shares["attend"].kv_bytes == 4.5e6
        assert shares["router"].read_rate is None
        assert shares["draw"].for_workers == pytest.approx(1e-3)


def test_groups_hold_every_phase_once() -> None:
    for worker in PROFILE.workers:
        groups = phase_shares(worker, STEPS, grouped_phases())
        singles = phase_shares(worker, STEPS, single_phases())
        assert sum(one.seconds for one in groups) == pytest.approx(sum(one.seconds for one in singles))
        assert sum(one.weight_bytes + one.kv_bytes for one in groups) == pytest.approx((4 * 36e6 + 18e6) / STEPS)
        assert len(singles) == len(PHASES)


def test_all_of_a_threads_time_is_accounted_for() -> None:
    for worker in PROFILE.workers:
        assert accounted(worker).tolist() == [1.0, 1.0]
        assert step_seconds(worker, STEPS) == pytest.approx(39e-3)
        assert thread_imbalance(worker) == pytest.approx((38 / 26) - 1)
        assert outside_steps(worker, PROFILE) == pytest.approx(1e-3)
    assert accounted_of_all(PROFILE) == pytest.approx(1.0)
    late = replace(PROFILE.workers[0], step_ns=PROFILE.workers[0].step_ns * 2)  # half of it is missing
    assert accounted_of_all(replace(PROFILE, workers=(late,))) == pytest.approx(0.5)


def test_layers_tell_their_mean_and_longest_work_and_their_waiting() -> None:
    times = layer_times(PROFILE)
    assert times.shape == (LAYERS, 3)
    assert times.tolist() == [pytest.approx([8e-3, 12e-3, 4e-3]), pytest.approx([16e-3, 24e-3, 8e-3])]


def test_what_is_read_is_over_the_time_of_the_stopwatch_as_benches_do() -> None:
    assert read_rate(PROFILE) == pytest.approx(2 * (4 * 36e6 + 18e6) / 0.16)
    assert peak_of(PROFILE) == 10e9
