"""What a plan counts of a worker's memory is what the worker allocates, for shapes that differ in every size."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from numoe.kernels.records import Memory
from numoe.model.architectures.spec import ModelSpec
from numoe.model.gguf.kv_types import HALF_FLOATS, KvTypes
from numoe.model.gguf.tensors import TensorType
from numoe.model.planning.assignment import WorkerAssignment, layout_of
from numoe.model.planning.plan import ShardPlan
from numoe.model.planning.plan_size import shard_bytes
from numoe.model.planning.splitting import PlanOptions, make_plan
from numoe.model.planning.step_buffers import buffer_bytes, touched_buffers
from numoe.model.planning.worker_memory import MEBIBYTE, THREAD_BYTES, node_bytes, worker_memory
from numoe.protos.messages import StepLimits
from numoe.worker.loading.arrange import READ_BYTES
from numoe.worker.placing.memory import allocate
from numoe.worker.running.step_memory import memory_of
from numoe.worker.running.step_records import kv_bytes
from tests.model.planning.examples import LIMITS, machine, sized_spec, small_machine
from tests.tiny_model import TinyShape, tiny_spec

SHAPES = {
    "small": TinyShape(),
    "dense": TinyShape(architecture="llama", experts=1, active_experts=1, query_heads=5, kv_heads=1, head_size=64),
    "wide heads": TinyShape(width=320, query_heads=24, kv_heads=2, head_size=128, experts=12, active_experts=5),
    "no heads of its own": TinyShape(query_heads=1, kv_heads=1, expert_width=32),
}
STEPS = [LIMITS, StepLimits(100, 3, 1500, 24, 64), StepLimits(1, 1, 64, 1, 64)]
ELSEWHERE = {
    "kv",
    "kv_block_bytes",
    "parts",
    "chosen",
    "shares",
    "counters",
    "step_bytes",
    "chosen_bytes",
    "expert_hits",
}  # in the arena, or no arrays


def allocated(memory: Memory, name: str) -> int:
    """Bytes of an array, or of the arrays of a Grouping that are not another one's too."""
    value = getattr(memory, name)
    return sum(one.nbytes for one in value) if isinstance(value, tuple) else int(value.nbytes)


@pytest.mark.parametrize("limits", STEPS, ids=lambda limits: f"{limits.step_tokens} tokens")
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_every_buffer_of_the_step_is_counted_as_large_as_it_is(shape: TinyShape, limits: StepLimits) -> None:
    spec = tiny_spec(shape)
    made = make_plan(spec, machine(3, 1), PlanOptions(workers=2))
    layout = layout_of(spec, made, limits)
    arena = np.zeros(layout.bytes, np.uint8)
    for shard in made.shards:
        assignment = WorkerAssignment(shard.worker, spec, made, limits, HALF_FLOATS, 0, 0, 1, 1.0)
        memory = memory_of(assignment, layout, arena, allocate(64))
        counted = buffer_bytes(spec, shard, 2, limits)
        assert counted.keys() == set(Memory._fields) - ELSEWHERE
        for name, size in counted.items():
            own = allocated(memory, name)
            if name == "scratch":  # of fewer columns where registers are fewer
                assert own <= size <= 2 * own, name
            else:
                assert own <= size <= own + 4, name


@pytest.mark.parametrize("keys", [TensorType.F16, TensorType.F32, TensorType.Q8_0])
@pytest.mark.parametrize("values", [TensorType.BF16, TensorType.Q8_0])
def test_the_kv_cache_is_counted_in_whole_blocks(keys: TensorType, values: TensorType) -> None:
    spec, limits = tiny_spec(TinyShape()), replace(LIMITS, kv_blocks=3)
    made = make_plan(spec, machine(2, 2))
    for memory, shard in zip(worker_memory(made, spec, limits, KvTypes(keys, values)), made.shards, strict=True):
        assignment = WorkerAssignment(shard.worker, spec, made, limits, KvTypes(keys, values), 0, 0, 1, 1.0)
        assert memory.kv_cache == kv_bytes(assignment)


def test_a_loading_thread_holds_one_piece_of_the_file() -> None:
    assert READ_BYTES + MEBIBYTE <= THREAD_BYTES


def test_arenas_count_in_full_and_workers_of_one_node_add_up() -> None:
    spec = sized_spec(TinyShape())
    made = make_plan(spec, small_machine(1), PlanOptions(workers=2))
    memory = worker_memory(made, spec, LIMITS)
    assert node_bytes(made, spec, LIMITS) == {0: sum(one.total for one in memory)}
    more = worker_memory(made, spec, replace(LIMITS, step_tokens=2048))
    arenas = [layout_of(spec, made, replace(LIMITS, step_tokens=tokens)).bytes for tokens in (16, 2048)]
    assert sum(one.working for one in more) - sum(one.working for one in memory) > arenas[1] - arenas[0]
    assert [one.weights for one in memory] == [shard_bytes(made, spec, shard).weights for shard in made.shards]


def touched(spec: ModelSpec, made: ShardPlan) -> set[str]:
    return set(touched_buffers(spec, made, buffer_bytes(spec, made.shards[0], len(made.shards), LIMITS)))


def test_buffers_that_no_matrix_of_the_model_reads_have_no_memory_behind_them() -> None:
    floats, integers = (tiny_spec(TinyShape(type=type_)) for type_ in (TensorType.F32, TensorType.Q8_0))
    every = set(Memory._fields) - ELSEWHERE
    rows = make_plan(floats, machine(1, 1))
    assert every - touched(floats, rows) == {"x_integer", "packed_integer"}
    assert every - touched(integers, make_plan(integers, machine(1, 1))) == {"packed_float"}
    whole = make_plan(integers, machine(1, 1), PlanOptions(split="expert"))
    assert every - touched(integers, whole) == {"packed_float", "down"}
