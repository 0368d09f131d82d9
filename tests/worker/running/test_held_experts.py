"""Experts that come and go are counted as a look at every page would count them, and held to the worker's node."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from numoe.kernels.records import MATRIX
from numoe.model.planning.expert_owners import ExpertOwners, share_experts
from numoe.protos.errors import SetupError
from numoe.protos.locality import CPUS_AND_MEMORY, NONE, PAGE
from numoe.worker.loading.arrange import EXPERT as EXPERT_MATRICES
from numoe.worker.placing import locality_now
from numoe.worker.running import held_experts
from tests.worker.running.expert_holders import (
    EXPERT,
    LAYER,
    SHAPE,
    TRANSFER_BYTES,
    Worker,
    copy,
    size_of,
    two_workers,
)


@pytest.fixture
def workers(tmp_path: Path) -> list[Worker]:
    """Two that hold half of the experts each."""
    return two_workers(tmp_path, share_experts([1.0] * SHAPE.experts, 2))


def test_what_is_kept_is_what_a_look_at_every_page_finds(workers: list[Worker]) -> None:
    first, second = workers
    before = [worker.bytes_of(LAYER) for worker in workers]
    copy(second, first)
    second.experts.drop(LAYER, EXPERT)
    size = size_of(first)
    assert size > 3 * TRANSFER_BYTES
    assert first.bytes_of(LAYER) == before[0] + size
    assert second.bytes_of(LAYER) == before[1] - size // PAGE * PAGE  # the rest of its last page stays
    for worker in workers:
        assert worker.kept.now().layers == worker.recounted().layers
        assert worker.kept.now().layers[0] == worker.found.layers[0]
    assert (first.experts.bytes, second.experts.bytes) == (size, -(size // PAGE * PAGE))


def test_what_is_copied_in_slices_is_whole(workers: list[Worker], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_experts, "SLICE_BYTES", 999)  # no part of anything
    first, second = workers
    start = int(second.weights.arranged.experts[LAYER, 0, EXPERT]) - second.weights.memory.ctypes.data
    loaded = second.weights.memory[start : start + size_of(second)].copy()
    copy(second, first)
    [arrived] = first.experts.arrived_in(LAYER)
    np.testing.assert_array_equal(arrived, loaded)


def test_an_expert_that_comes_back_and_goes_again_leaves_nothing(workers: list[Worker]) -> None:
    first, second = workers
    copy(second, first)
    second.experts.drop(LAYER, EXPERT)
    gone = second.kept.now().layers
    copy(first, second)
    first.experts.drop(LAYER, EXPERT)
    assert second.kept.now().layers == second.recounted().layers
    assert first.kept.now().layers == first.recounted().layers == first.found.layers
    assert first.experts.bytes == 0
    copy(second, first)
    second.experts.drop(LAYER, EXPERT)
    assert second.kept.now().layers == gone


def test_a_worker_that_was_loaded_without_experts_can_compute_those_that_come(tmp_path: Path) -> None:
    none, all_ = two_workers(tmp_path, ExpertOwners(((1,),) * SHAPE.experts))
    copy(all_, none)
    for name in EXPERT_MATRICES:
        here, there = (worker.weights.arranged.layers[LAYER][name] for worker in (none, all_))
        assert here["experts"] == none.weights.arranged.experts[LAYER, EXPERT_MATRICES.index(name)].ctypes.data
        fields = [field for field in MATRIX.names or () if field != "experts"]
        assert [here[field] for field in fields] == [there[field] for field in fields]


def test_an_expert_that_is_copied_twice_counts_once(workers: list[Worker]) -> None:
    """As when no step ended in time to let the first copy be used."""
    first, second = workers
    before = first.bytes_of(LAYER)
    copy(second, first)
    copy(second, first)
    assert first.bytes_of(LAYER) == before + size_of(first)
    assert first.kept.now().layers == first.recounted().layers


def test_an_expert_on_another_node_is_not_held(workers: list[Worker]) -> None:
    """The worker is told that it is bound to a node that the machine does not have, so that nothing can be moved."""
    first, second = workers
    held = first.weights.arranged.experts.copy()
    first.believe(replace(first.found, binding=CPUS_AND_MEMORY), node=63)
    size = size_of(first)
    found = f"worker 0: found {size:,} bytes of expert {EXPERT} of layer {LAYER} on another node"
    with pytest.raises(SetupError, match=f"^{found}; expected all on node 63: free memory there"):
        copy(second, first)
    assert first.kept.now().layers == first.found.layers
    assert first.experts.bytes == 0
    np.testing.assert_array_equal(first.weights.arranged.experts, held)


def test_an_expert_on_another_node_is_told_where_that_is_allowed(workers: list[Worker]) -> None:
    first, second = workers
    bound = replace(first.found, binding=CPUS_AND_MEMORY)
    first.believe(bound, node=63, allow_remote=True)
    copy(second, first)
    now = first.kept.now()
    assert (now.layers, now.moved_bytes) == (first.recounted().layers, 0)
    assert f"{sum(now.weights.values()):,} bytes of weights" in now.problem


def test_an_expert_of_a_process_that_is_not_bound_may_lie_anywhere(workers: list[Worker]) -> None:
    first, second = workers
    assert first.found.binding == NONE
    first.believe(first.found, node=63)
    copy(second, first)
    assert first.kept.now().problem == ""


def test_experts_move_where_the_kernel_does_not_tell_where_pages_are(
    workers: list[Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(ranges: object) -> dict[int, int]:
        raise OSError(errno.EPERM, "refused")

    monkeypatch.setattr(locality_now, "count_bytes", refused)
    first, second = workers
    untold = replace(first.found, layers=({},) * SHAPE.layers)
    for worker in workers:
        worker.believe(untold)
    copy(second, first)
    second.experts.drop(LAYER, EXPERT)
    assert first.kept.now().layers == second.kept.now().layers == untold.layers
    assert first.experts.bytes == size_of(first)
