"""Profiles of random tokens, on workers of one's own."""

from __future__ import annotations

from numoe.coordinator.measuring.steps import Measurement
from numoe.coordinator.measuring.sweep import Run
from numoe.coordinator.measuring.workers import MeasuredWorkers
from numoe.protos.profile import TIME_LINE, TIMES, Profile

WARM_STEPS = 3  # before a decode is profiled: the first steps find caches cold


def profile_steps(measured: MeasuredWorkers, prompt: int, generated: int, depth: int) -> Profile:
    """The profile of a prompt of so many tokens, or of so many tokens decoded one by one, after `depth` others."""
    steps = measured.steps()
    if depth:
        steps.prompt(steps.random_tokens(depth))
    run = steps.prompt if prompt else steps.decode
    run(steps.random_tokens(prompt or WARM_STEPS), depth)
    tokens = steps.random_tokens(prompt or generated)
    return _profile(measured, lambda: run(tokens, depth), TIME_LINE)[1]


def profile_times(measured: MeasuredWorkers, run: Run) -> tuple[Measurement, Profile]:
    """What `run` measures, and the profile of its steps, without a time line."""
    return _profile(measured, run, TIMES)


def _profile(measured: MeasuredWorkers, run: Run, level: int) -> tuple[Measurement, Profile]:
    profiling = measured.group.begin_profile(level)
    found = run()
    return found, measured.group.end_profile(profiling, measured.peak, measured.speeds.source)
