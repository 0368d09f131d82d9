"""A bit that flips in weights is found and named, whichever part it is in; parts that went are not looked at."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from numpy.typing import NDArray

from numoe.worker.running.verifying import SLICE_BYTES, Verifier, WeightsChanged

PATIENCE_SECONDS = 60.0


def some_parts() -> dict[str, NDArray[np.uint8]]:
    """Of no bytes, of less than a slice, of several slices and of exactly one."""
    random = np.random.default_rng(0)
    sizes = {"nothing": 0, "layer 0": 1000, "expert 1 of layer 0": 3 * SLICE_BYTES + 5, "layer 1": SLICE_BYTES}
    return {name: random.integers(0, 256, size, np.uint8) for name, size in sizes.items()}


def refuse(error: BaseException) -> None:
    raise AssertionError(error)


@pytest.mark.parametrize("place", [0, -1])
@pytest.mark.parametrize("name", ["layer 0", "expert 1 of layer 0", "layer 1"])
def test_one_bit_anywhere_is_found_and_the_part_is_named(name: str, place: int) -> None:
    parts = some_parts()
    verifier = Verifier(parts, 0.0, lambda: True, refuse)
    verifier.walk()
    parts[name][place] ^= 1
    with pytest.raises(WeightsChanged, match=f"the weights of {name} changed in memory"):
        verifier.walk()
    parts[name][place] ^= 1
    verifier.walk()


def test_parts_come_and_go() -> None:
    parts = some_parts()
    verifier = Verifier(parts, 0.0, lambda: True, refuse)
    verifier.remove("layer 1")
    parts["layer 1"][0] ^= 1
    verifier.walk()
    verifier.add("layer 1", parts["layer 1"])
    verifier.walk()
    parts["layer 1"][0] ^= 1
    with pytest.raises(WeightsChanged, match="layer 1"):
        verifier.walk()


def test_nothing_is_read_while_something_is_computed_and_the_walk_goes_on_afterwards() -> None:
    parts, computing, told, looked = some_parts(), threading.Event(), threading.Event(), threading.Event()
    computing.set()

    def idle() -> bool:
        looked.set()
        return not computing.is_set()

    verifier = Verifier(parts, 0.0, idle, lambda error: told.set())
    parts["layer 0"][0] ^= 1
    verifier.start()
    assert looked.wait(PATIENCE_SECONDS)
    assert not told.wait(0.1)
    computing.clear()
    assert told.wait(PATIENCE_SECONDS)


def test_a_walk_that_is_stopped_ends() -> None:
    verifier = Verifier(some_parts(), 3600.0, lambda: True, refuse)
    verifier.start()
    verifier.stop()
    for thread in threading.enumerate():
        if thread.name == "numoe-verify":
            thread.join(PATIENCE_SECONDS)
            assert not thread.is_alive()
