"""Steps with prompts settle at what streams were promised, on machines that take time in different ways."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from numoe.coordinator.engine.scheduling.prompt_pace import FEWEST_TOKENS, SAVED_SECONDS, TRUSTED_STEPS, PromptPace

MOST = 512
# Seconds that tokens of prompts add to a step: each as much, the first ones more, and with a part that all share.
MACHINES: dict[str, Callable[[int], float]] = {
    "even": lambda tokens: 1e-3 * tokens,
    "all experts at once": lambda tokens: 10e-3 * tokens**0.5,
    "a share at the start": lambda tokens: 20e-3 + 0.5e-3 * tokens,
}
ALONE = 0.1


def run(
    pace: PromptPace,
    machine: Callable[[int], float],
    streams: int,
    steps: int,
    alone: float = ALONE,
    prompts: int = 1,
) -> list[int]:
    """So many steps with prompts that never end; returns their tokens in each."""
    told: list[int] = []
    for _ in range(steps):
        tokens = pace.allowed(streams, prompts)
        pace.note(streams, tokens, alone + (machine(tokens) if tokens else 0.0))
        told.append(tokens)
    return told


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
@pytest.mark.parametrize("slowdown", [1.5, 2.0, 3.0])
def test_steps_with_prompts_settle_at_the_promised_length(machine: Callable[[int], float], slowdown: float) -> None:
    told = run(PromptPace(slowdown, MOST), machine, streams=4, steps=60)
    assert told[0] == 0  # it measures decodes alone
    for tokens in told[20:]:
        took = (ALONE + machine(tokens)) / ALONE
        assert took <= slowdown * 1.02
        assert took >= slowdown * 0.95 or tokens == MOST


def test_where_more_prompts_wait_than_streams_run_steps_are_longer_in_that_proportion() -> None:
    """And as long as promised again, once the burst is over."""
    pace, machine = PromptPace(2.0, MOST), MACHINES["even"]
    assert run(pace, machine, streams=4, steps=30, prompts=4)[-1] == pytest.approx(100, abs=2)
    assert run(pace, machine, streams=4, steps=30, prompts=12)[-1] == pytest.approx(300, abs=6)
    assert run(pace, machine, streams=4, steps=2, prompts=1)[-1] == pytest.approx(100, abs=2)


def test_a_short_prompt_after_a_while_without_any_is_run_in_one_step_and_the_next_in_many() -> None:
    pace, machine = PromptPace(2.0, 2 * MOST), MACHINES["even"]
    settled = run(pace, machine, streams=4, steps=30)[-1]
    for _ in range(1000):
        pace.note(4, 0, ALONE)
    most = pace.allowed(4)
    assert machine(most) == pytest.approx(ALONE + SAVED_SECONDS, rel=0.02)
    pace.note(4, most // 2, ALONE + machine(most // 2))
    assert settled < pace.allowed(4) == pytest.approx(most // 2 + settled, rel=0.02)
    assert run(pace, machine, streams=4, steps=3)[1:] == [settled] * 2


def test_a_prompt_always_progresses_even_where_its_fewest_tokens_take_too_long() -> None:
    told = run(PromptPace(1.1, MOST), lambda tokens: 10.0 * tokens, streams=2, steps=50)
    assert told == [0, 2 * FEWEST_TOKENS, *[FEWEST_TOKENS] * 48]  # the second has what the first saved


def test_where_nobody_streams_or_nothing_was_promised_prompts_have_whole_steps() -> None:
    pace = PromptPace(2.0, MOST)
    run(pace, MACHINES["even"], streams=4, steps=10)
    assert pace.allowed(0) == MOST
    assert run(PromptPace(0.0, MOST), MACHINES["even"], streams=4, steps=3) == [MOST] * 3


def test_what_decodes_take_alone_is_measured_for_each_number_of_streams_and_again_now_and_then() -> None:
    pace = PromptPace(2.0, MOST)
    told = run(pace, MACHINES["even"], streams=4, steps=2 * TRUSTED_STEPS + 3)
    assert [step for step, tokens in enumerate(told) if tokens == 0] == [0, TRUSTED_STEPS + 1, 2 * TRUSTED_STEPS + 2]
    assert pace.allowed(5) == 0
    before = told[-2]
    slower = run(pace, MACHINES["even"], streams=5, steps=30, alone=2 * ALONE)
    assert slower[-1] == pytest.approx(2 * before, rel=0.05)


def test_one_slow_step_is_made_up_for_soon_and_a_short_prompt_tells_nothing_of_longer_ones() -> None:
    pace = PromptPace(2.0, MOST)
    settled = run(pace, MACHINES["even"], streams=4, steps=30)[-1]
    pace.note(4, settled, 50 * ALONE)
    assert pace.allowed(4) == settled // 2
    assert run(pace, MACHINES["even"], streams=4, steps=3)[-1] == settled
    pace.note(4, 3, ALONE + MACHINES["even"](3))
    assert pace.allowed(4) == settled
