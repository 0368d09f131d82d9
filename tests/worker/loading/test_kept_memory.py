"""What a worker leaves in a keeper's hands is what the next one has, or else it reads everything anew."""

from __future__ import annotations

import faulthandler
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from numoe.keeper.client import close_all
from numoe.model.architectures.spec import ModelSpec
from numoe.model.planning.expert_owners import share_experts
from numoe.model.planning.plan import ShardPlan
from numoe.protos.errors import ModelFileError
from numoe.protos.locality import PAGE
from numoe.worker.loading.kept_memory import KeptMemory
from numoe.worker.running.held_experts import expert_name
from numoe.worker.running.verifying import Verifier
from tests.keeper.running import Running
from tests.tiny_model import write_tiny_model
from tests.worker.running.expert_holders import EXPERT, LAYER, SHAPE, TRANSFER_BYTES, Worker, copy, size_of
from tests.worker.running.shard_process import even_plan, read_spec


@pytest.fixture
def spec(tmp_path: Path) -> ModelSpec:
    write_tiny_model(tmp_path / "tiny.gguf", SHAPE)
    return read_spec(tmp_path / "tiny.gguf")


@pytest.fixture
def plan(spec: ModelSpec) -> ShardPlan:
    """Of whole experts: the first half are worker 0's."""
    owners = share_experts([1.0] * SHAPE.experts, 2)
    return replace(even_plan(spec, [(0,), (0,)]), experts=(owners,) * SHAPE.layers)


def come(running: Running, spec: ModelSpec, plan: ShardPlan, number: int = 0) -> Worker:
    """A worker that takes up what there is."""
    place = KeptMemory(running.client, spec, plan, number, 2)
    return Worker(spec, plan, number, np.zeros(TRANSFER_BYTES, np.uint8), place)


def bytes_of(worker: Worker) -> dict[str, bytes]:
    """All that it has, by what it is."""
    arranged, memory = worker.weights.arranged, worker.weights.memory
    found = {"vocabulary": worker.weights.vocabulary_memory.tobytes()}
    for layer, first in enumerate(arranged.first_experts):
        found[f"layer {layer}"] = memory[arranged.layer_bytes[layer].start : first].tobytes()
        for expert in worker.experts.held(layer):
            found[expert_name(layer, expert)] = worker.experts.block(layer, expert).tobytes()
    return found


def test_the_next_worker_has_the_same_and_reads_nothing_of_it(
    running: Running, spec: ModelSpec, plan: ShardPlan
) -> None:
    first = come(running, spec, plan)
    assert not first.weights.written_before
    next_ = come(running, spec, plan)
    assert next_.weights.written_before
    assert bytes_of(next_) == bytes_of(first)
    assert next_.weights.memory.ctypes.data != first.weights.memory.ctypes.data
    assert [vector.tolist() for vector in next_.weights.vectors] == [one.tolist() for one in first.weights.vectors]
    assert next_.found.layers == first.found.layers  # the pages' nodes


def test_what_is_kept_is_written_by_nobody(running: Running, spec: ModelSpec, plan: ShardPlan) -> None:
    worker = come(running, spec, plan)
    pid = os.fork()
    if pid == 0:  # a write ends the process
        faulthandler.disable()
        worker.weights.memory.setflags(write=True)
        worker.weights.memory[0] = 1
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) != 0
    [kept] = running.client.items("0/loaded")
    assert kept.descriptor is not None
    for size in (PAGE, 1 << 30):
        with pytest.raises(PermissionError):
            os.ftruncate(kept.descriptor, size)
    close_all([kept])


def moved(plan: ShardPlan) -> ShardPlan:
    """EXPERT of LAYER is worker 0's."""
    holders = list(plan.experts[LAYER].workers)  # type: ignore[union-attr]
    holders[EXPERT] = (0,)
    experts = list(plan.experts)
    experts[LAYER] = replace(experts[LAYER], workers=tuple(holders))  # type: ignore[type-var]
    return replace(plan, experts=tuple(experts))


def test_experts_that_came_and_went_are_where_they_were_last(
    running: Running, spec: ModelSpec, plan: ShardPlan
) -> None:
    first, second = come(running, spec, plan, 0), come(running, spec, plan, 1)
    lone = second.experts.block(LAYER, EXPERT).tobytes()
    second.experts._transfer = first.experts._transfer = np.zeros(TRANSFER_BYTES, np.uint8)
    copy(second, first)
    second.experts.drop(LAYER, EXPERT)
    before, after = [bytes_of(first), bytes_of(second)], moved(plan)
    sizes = [worker.experts.bytes for worker in (first, second)]
    del first, second
    next_ = [come(running, spec, after, worker) for worker in range(2)]
    assert all(worker.weights.written_before for worker in next_)
    assert [bytes_of(worker) for worker in next_] == before
    assert bytes_of(next_[0])[expert_name(LAYER, EXPERT)] == lone
    assert [worker.experts.bytes for worker in next_] == sizes
    for worker in next_:
        assert worker.kept.now().layers == worker.recounted().layers
    # and back again
    next_[1].experts._transfer = next_[0].experts._transfer = np.zeros(TRANSFER_BYTES, np.uint8)
    copy(next_[0], next_[1])
    next_[0].experts.drop(LAYER, EXPERT)
    last = [come(running, spec, plan, worker) for worker in range(2)]
    assert all(worker.weights.written_before for worker in last)
    assert bytes_of(last[1])[expert_name(LAYER, EXPERT)] == lone
    assert last[1].experts.bytes == size_of(last[1]) - size_of(last[1]) // PAGE * PAGE
    assert last[0].experts.bytes == 0


def test_memory_of_an_expert_that_left_is_given_back(running: Running, spec: ModelSpec, plan: ShardPlan) -> None:
    worker = come(running, spec, plan, 1)
    [kept] = running.client.items("1/loaded")
    assert kept.descriptor is not None
    before = os.fstat(kept.descriptor).st_blocks
    worker.experts.drop(LAYER, EXPERT)
    assert 512 * (before - os.fstat(kept.descriptor).st_blocks) == size_of(worker) // PAGE * PAGE
    close_all([kept])


def test_an_expert_that_is_wanted_and_gone_has_all_read_anew(
    running: Running, spec: ModelSpec, plan: ShardPlan
) -> None:
    worker = come(running, spec, plan, 1)
    before = bytes_of(worker)
    worker.experts.drop(LAYER, EXPERT)
    next_ = come(running, spec, plan, 1)
    assert not next_.weights.written_before
    assert bytes_of(next_) == before
    assert [one.name for one in running.client.items()] == ["1/loaded"]


def test_memory_that_came_without_its_descriptor_has_all_read_anew(
    running: Running, spec: ModelSpec, plan: ShardPlan
) -> None:
    """As where too many files are open."""
    come(running, spec, plan, 0)
    after = moved(plan)
    running.client.put(f"0/came/{LAYER}/{EXPERT}", 100)
    assert not come(running, spec, after, 0).weights.written_before


def test_another_plan_or_file_has_all_read_anew(running: Running, spec: ModelSpec, plan: ShardPlan) -> None:
    first = come(running, spec, plan)
    by_row = even_plan(spec, [(0,), (0,)])
    assert not come(running, spec, by_row).weights.written_before
    assert come(running, spec, by_row).weights.written_before
    [file] = spec.files
    os.utime(file.path, ns=(1, 1))
    touched = read_spec(file.path)
    assert not come(running, touched, by_row).weights.written_before
    with pytest.raises(ModelFileError, match="was changed or replaced"):
        come(running, spec, by_row)
    del first


def test_other_cpus_take_the_same_up(running: Running, spec: ModelSpec, plan: ShardPlan) -> None:
    come(running, spec, plan)
    others = replace(plan, shards=tuple(replace(shard, cpus=(1, 2)) for shard in plan.shards))
    assert come(running, spec, others).weights.written_before


def test_without_a_keeper_a_worker_loads_all_the_same_and_says_so(
    running: Running, spec: ModelSpec, plan: ShardPlan, capsys: pytest.CaptureFixture[str]
) -> None:
    first = come(running, spec, plan)
    running.keeper.kill()
    running.keeper.wait()
    first.experts.drop(0, 0)
    assert capsys.readouterr().err.startswith("weights are not kept beyond this worker: the keeper behind ")
    next_ = come(running, spec, plan)
    assert not next_.weights.written_before
    next_.experts.drop(0, 0)
    assert bytes_of(next_) == bytes_of(first)


def test_digests_are_kept_beside_the_weights(running: Running, spec: ModelSpec, plan: ShardPlan) -> None:
    first = come(running, spec, plan)
    assert first.place.digests == {}
    verifier = Verifier({"some": first.weights.memory}, 1.0, lambda: True, lambda error: None)
    first.place.keep_digests(verifier.digests)
    next_ = come(running, spec, plan)
    assert next_.place.digests == verifier.digests
    assert len(verifier.digests["some"]) == 32
    next_.place.distrust()
    assert running.client.items() == []
