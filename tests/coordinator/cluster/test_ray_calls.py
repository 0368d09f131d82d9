"""Ray's end waits for those who are inside of its calls, and lets nobody in meanwhile."""

from __future__ import annotations

import threading

import pytest

from numoe.coordinator.cluster.ray_calls import end_ray, inside_ray
from numoe.protos.errors import WorkerLost


def test_the_end_waits_for_who_is_inside_and_lets_nobody_in() -> None:
    told: list[str] = []
    inside, ending = threading.Event(), threading.Event()

    def use() -> None:
        with inside_ray():
            inside.set()
            while not refused():
                ending.wait(0.01)
            told.append("left")

    def refused() -> bool:
        try:
            with inside_ray():
                return False
        except WorkerLost:
            return True

    thread = threading.Thread(target=use)
    thread.start()
    inside.wait()
    end_ray(lambda: told.append(f"ended, refused {refused()}"))
    thread.join()
    assert told == ["left", "ended, refused True"]
    with inside_ray():
        told.append("another one")


def test_a_failed_end_is_told_and_lets_others_in_again() -> None:
    def fail() -> None:
        raise RuntimeError("it hangs")

    with pytest.raises(RuntimeError, match="it hangs"):
        end_ray(fail)
    with inside_ray():
        pass
