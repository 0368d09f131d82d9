"""A profile of a prompt or a decode of random tokens, on workers of one's own."""

from __future__ import annotations

from numoe.coordinator.measuring.workers import MeasuredWorkers
from numoe.protos.profile import TIME_LINE, Profile

WARM_STEPS = 3  # before a decode is profiled: the first steps find caches cold


def profile_steps(measured: MeasuredWorkers, prompt: int, generated: int, depth: int) -> Profile:
    """The profile of a prompt of so many tokens, or of so many tokens decoded one by one, after `depth` others."""
    steps, group = measured.steps(), measured.group
    if depth:
        steps.prompt(steps.random_tokens(depth))
    run = steps.prompt if prompt else steps.decode
    run(steps.random_tokens(prompt or WARM_STEPS), depth)
    tokens = steps.random_tokens(prompt or generated)
    profiling = group.begin_profile(TIME_LINE)
    run(tokens, depth)
    return group.end_profile(profiling, measured.peak, measured.speeds.source)
