"""Changes come between steps, at once if none runs, and none is forgotten."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from numoe.coordinator.workers.step_boundary import StepBoundary
from numoe.protos.errors import ServiceError

SECONDS = 30.0


def test_without_a_step_a_change_is_made_at_once() -> None:
    boundary, made = StepBoundary(), []
    boundary.run(lambda: made.append(1), SECONDS)
    boundary.begin()
    boundary.end()
    boundary.run(lambda: made.append(2), SECONDS)
    assert made == [1, 2]


def test_during_a_step_a_change_waits_for_its_end() -> None:
    boundary, made, asked = StepBoundary(), [], Event()
    boundary.begin()

    def ask() -> None:
        asked.set()
        boundary.run(lambda: made.append(1), SECONDS)

    with ThreadPoolExecutor() as pool:
        asking = pool.submit(ask)
        asked.wait(SECONDS)
        with pytest.raises(TimeoutError):
            asking.result(0.2)
        assert made == []
        boundary.end()
        asking.result(SECONDS)
    assert made == [1]


def test_a_change_that_no_step_ends_for_is_not_made_later() -> None:
    boundary, made = StepBoundary(), []
    boundary.begin()
    with pytest.raises(ServiceError, match="nothing was changed"):
        boundary.run(lambda: made.append(1), 0.01)
    boundary.end()
    assert made == []
