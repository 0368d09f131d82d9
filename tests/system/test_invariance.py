"""The promise of the design, held by real processes: no bit of an answer depends on who computed it, or with whom."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from numoe.coordinator.settings import EngineSettings, KvType
from numoe.model.architectures.spec import ModelSpec
from numoe.model.gguf.tensors import BLOCKS, RUNNABLE_TYPES, TensorType
from numoe.model.machine.topology_reading import read_topology
from numoe.model.planning.expert_owners import ExpertOwners, share_experts
from numoe.model.planning.plan import Spread
from numoe.model.planning.splitting import Shares
from tests.system.conftest import ModelOf
from tests.system.groups import TinyModel, WorkerProcesses
from tests.system.requests import CONTEXT_TOKENS, KINDS, NEIGHBOURS, Answers, run_alone, run_together
from tests.system.stages import HostOf, load_hosts
from tests.tiny_model import TinyShape

Kv = KvType | tuple[KvType, KvType]  # of keys and values, or of both
Q8_0_KEYS: Kv = ("q8_0", "f16")
ReferenceOf = Callable[[TinyShape, Kv], Awaitable[Answers]]

pytestmark = [pytest.mark.usefixtures("compiling"), pytest.mark.timeout(900)]  # some wait until all is compiled

# Heads, panels of the width (6) and of the vocabulary (21, the last short), and blocks of experts (5) divide unevenly.
QWEN = TinyShape(
    width=96, query_heads=6, kv_heads=3, experts=6, active_experts=3, expert_width=160, context_length=1024
)
MIXED = (
    ("attn_q", TensorType.Q8_0),
    ("attn_k", TensorType.BF16),
    ("attn_output", TensorType.F16),
    ("ffn_gate_exps", TensorType.F16),
    ("ffn_up_exps", TensorType.Q8_0),
    ("ffn_down_exps", TensorType.BF16),
    ("token_embd", TensorType.Q8_0),
)
WIDE = replace(QWEN, width=256, query_heads=8, kv_heads=4, expert_width=256)  # rows of whole blocks of 256
K_MIX = (
    ("attn_v", TensorType.Q6_K),
    ("ffn_gate_exps", TensorType.Q2_K),
    ("ffn_down_exps", TensorType.Q6_K),
    ("token_embd", TensorType.Q2_K),
    ("output", TensorType.Q6_K),
)
SHAPES = {
    "F32": QWEN,
    "F16": replace(QWEN, type=TensorType.F16),
    "BF16": replace(QWEN, type=TensorType.BF16),
    "Q8_0": replace(QWEN, type=TensorType.Q8_0),
    "mixed": replace(QWEN, types=MIXED),
    "K mix": replace(WIDE, type=TensorType.Q4_K, types=K_MIX),
    "llama": replace(QWEN, architecture="llama", experts=1, active_experts=1, query_heads=5, kv_heads=1, head_size=64),
    # Two blocks of experts: of four workers some have no rows.
    "mixtral": replace(QWEN, architecture="llama", kv_heads=2, expert_width=64, type=TensorType.Q8_0, tied=True),
}
OTHERS = {
    type_.name: replace(WIDE if BLOCKS[type_][0] > 32 else QWEN, type=type_)
    for type_ in sorted(RUNNABLE_TYPES)
    if type_.name not in SHAPES
}
PLANS = [(workers, threads) for workers in (1, 2, 3, 4) for threads in (1, 2)]
OF_F32 = [(1, 2), (3, 2)]  # with keys and values of F32, which workers share out as any others
CHUNKS = (7, 512)


def engine(kv: Kv, chunk: int) -> EngineSettings:
    keys, values = kv if isinstance(kv, tuple) else (kv, kv)
    return EngineSettings(
        step_tokens=max(64, chunk),
        prefill_chunk=chunk,
        sequences=len(KINDS) + len(NEIGHBOURS),
        context_tokens=CONTEXT_TOKENS,
        cache_type_k=keys,
        cache_type_v=values,
    )


@pytest.fixture(scope="module")
def reference_of(processes: WorkerProcesses, model_of: ModelOf) -> ReferenceOf:
    """Each request alone, by one thread of one worker, its prompt in chunks of 512."""
    known: dict[tuple[TinyShape, Kv], Answers] = {}

    async def get(shape: TinyShape, kv: Kv) -> Answers:
        if (shape, kv) not in known:
            model, settings = model_of(shape), engine(kv, 512)
            known[shape, kv] = await run_alone(processes.load(model, 1, 1, settings), model, settings)
        return known[shape, kv]

    return get


async def check_chunks(
    processes: WorkerProcesses, model: TinyModel, workers: int, threads: int, kv: Kv, expected: Answers
) -> None:
    """All requests together are answered as expected, whatever the chunks of their prompts."""
    for chunk in CHUNKS:
        settings = engine(kv, chunk)
        assert await run_together(processes.load(model, workers, threads, settings), model, settings) == expected


@pytest.mark.parametrize(
    ("kv", "workers", "threads"),
    [("f16", *plan) for plan in PLANS] + [("f32", *plan) for plan in OF_F32],
    ids=lambda value: str(value),
)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
async def test_no_bit_depends_on_workers_threads_batch_chunks_or_neighbours(
    shape: TinyShape,
    kv: KvType,
    workers: int,
    threads: int,
    processes: WorkerProcesses,
    model_of: ModelOf,
    reference_of: ReferenceOf,
) -> None:
    await check_chunks(processes, model_of(shape), workers, threads, kv, await reference_of(shape, kv))


def whole_experts(spec: ModelSpec, workers: int, replicas: int) -> tuple[ExpertOwners, ...]:
    """Each layer's experts, shared out as if other ones were popular in each."""
    random = np.random.default_rng(workers)
    return tuple(
        share_experts(random.permutation(spec.experts).tolist(), workers, replicas) for _ in range(spec.layers)
    )


EXPERT_PLANS: dict[str, Callable[[ModelSpec, int], tuple[ExpertOwners | None, ...]]] = {
    "expert": lambda spec, workers: whole_experts(spec, workers, 0),
    "replicas": lambda spec, workers: whole_experts(spec, workers, -(-spec.experts // 4)),
    "everywhere": lambda spec, workers: whole_experts(spec, workers, spec.experts * (workers - 1)),
    "mixed": lambda spec, workers: (None, *whole_experts(spec, workers, 1)[1:]),
}


# Each shape with one team, and two of them with all: what an expert's type and what its place change do not meet.
EXPERT_TEAMS = [
    *(pytest.param(SHAPES[name], *team, id=f"{name}-{team}") for name in ("F32", "K mix")
      for team in ((1, 2), (2, 1), (2, 2), (3, 2), (4, 1))),
    *(pytest.param(shape, 3, 2, id=name) for name, shape in SHAPES.items() if name not in ("F32", "K mix", "llama")),
]  # fmt: skip


@pytest.mark.parametrize("experts", EXPERT_PLANS.values(), ids=EXPERT_PLANS)
@pytest.mark.parametrize(("shape", "workers", "threads"), EXPERT_TEAMS)
async def test_no_bit_depends_on_which_worker_holds_an_expert(
    shape: TinyShape,
    experts: Callable[[ModelSpec, int], tuple[ExpertOwners | None, ...]],
    workers: int,
    threads: int,
    processes: WorkerProcesses,
    model_of: ModelOf,
    reference_of: ReferenceOf,
) -> None:
    model, expected = model_of(shape), await reference_of(shape, "f16")
    owners = experts(model.spec, workers)
    for chunk, run in ((512, run_together), (7, run_alone)):
        settings = engine("f16", chunk)
        assert await run(processes.load(model, workers, threads, settings, owners), model, settings) == expected


# Of heads, rows of the width, rows of experts, and vocabulary.
UNEQUAL = {
    "a small second": Shares(*((0.8, 0.2),) * 4),
    "each large in another": Shares((1.0, 5.0), (5.0, 1.0), (1.0, 4.0), (7.0, 1.0)),
    "none of some": Shares((1.0, 0.0), (1.0, 9.0), (0.0, 1.0), (1.0, 0.0)),
}


@pytest.mark.parametrize("shares", UNEQUAL.values(), ids=UNEQUAL)
@pytest.mark.parametrize("shape", [QWEN, SHAPES["K mix"], SHAPES["llama"]], ids=["F32", "K mix", "llama"])
async def test_no_bit_depends_on_how_much_each_worker_owns(
    shape: TinyShape, shares: Shares, processes: WorkerProcesses, model_of: ModelOf, reference_of: ReferenceOf
) -> None:
    model, expected, settings = model_of(shape), await reference_of(shape, "f16"), engine("f16", 7)
    whole: tuple[ExpertOwners, ...] = ()
    if model.spec.routed:
        loads = [1.0 + expert for expert in range(model.spec.experts)]
        whole = (share_experts(loads, 2, shares=(5.0, 1.0)),) * model.spec.layers
    for experts in {(), whole}:
        group = processes.load(model, 2, 1, settings, experts, shares)
        assert await run_together(group, model, settings) == expected


async def test_no_bit_depends_on_whether_threads_and_memory_are_bound(
    processes: WorkerProcesses, model_of: ModelOf, reference_of: ReferenceOf
) -> None:
    topology, model, settings = read_topology(), model_of(QWEN), engine("f16", 7)
    nodes = tuple(node.id for node in topology.nodes if node.memory_bytes)
    group = processes.load(model, 1, 2, settings, spread=Spread("any", nodes, topology.cpus))
    assert await run_together(group, model, settings) == await reference_of(QWEN, "f16")


@pytest.mark.parametrize(("workers", "threads"), [(1, 1), (3, 2)], ids=["1x1", "3x2"])
@pytest.mark.parametrize("kv", ["bf16", "q8_0", Q8_0_KEYS, ("f32", "q8_0")], ids=str)
@pytest.mark.parametrize("shape", [QWEN, SHAPES["llama"]], ids=["F32", "llama"])
async def test_no_bit_of_any_other_cache_depends_on_them(
    shape: TinyShape,
    kv: Kv,
    workers: int,
    threads: int,
    processes: WorkerProcesses,
    model_of: ModelOf,
    reference_of: ReferenceOf,
) -> None:
    await check_chunks(processes, model_of(shape), workers, threads, kv, await reference_of(shape, kv))


async def test_no_bit_depends_on_them_where_keys_are_spread(
    processes: WorkerProcesses, model_of: ModelOf, reference_of: ReferenceOf
) -> None:
    model, kv = model_of(QWEN), Q8_0_KEYS
    small, large = (replace(engine(kv, chunk), k_cache_hadamard=True) for chunk in CHUNKS)
    alone = await run_alone(processes.load(model, 1, 1, large), model, large)
    assert await run_together(processes.load(model, 3, 2, small), model, small) == alone
    assert alone.logits != (await reference_of(QWEN, kv)).logits


@pytest.mark.parametrize(("workers", "threads"), [(1, 2), (2, 2)], ids=["1x2", "2x2"])
@pytest.mark.parametrize("kv", ["f16", "q8_0"])
@pytest.mark.parametrize("shape", [QWEN, SHAPES["llama"]], ids=["F32", "llama"])
async def test_no_bit_depends_on_whether_threads_share_out_the_pieces_of_one_context(
    shape: TinyShape,
    kv: KvType,
    workers: int,
    threads: int,
    processes: WorkerProcesses,
    model_of: ModelOf,
    reference_of: ReferenceOf,
) -> None:
    """As they do where one request of several pieces is alone, and as the reference's one thread never does."""
    model, settings = model_of(shape), engine(kv, 512)
    assert await run_alone(processes.load(model, workers, threads, settings), model, settings) == await reference_of(
        shape, kv
    )


@pytest.mark.parametrize(("workers", "threads"), [(1, 1), (3, 2)], ids=["1x1", "3x2"])
@pytest.mark.parametrize("shape", OTHERS.values(), ids=OTHERS)
async def test_no_bit_of_any_other_type_depends_on_them(
    shape: TinyShape,
    workers: int,
    threads: int,
    processes: WorkerProcesses,
    model_of: ModelOf,
    reference_of: ReferenceOf,
) -> None:
    await check_chunks(processes, model_of(shape), workers, threads, "f16", await reference_of(shape, "f16"))


@pytest.mark.parametrize(
    ("shape", "kv"),
    [
        *(pytest.param(shape, kv, id=f"{name}-{kv}") for name, shape in SHAPES.items() for kv in ("f16", "f32")),
        *(pytest.param(QWEN, kv, id=f"F32-{kv}") for kv in ("bf16", "q8_0")),
        *(pytest.param(shape, "f16", id=name) for name, shape in OTHERS.items()),
    ],
)
async def test_no_bit_depends_on_the_instruction_set(
    shape: TinyShape,
    kv: KvType,
    other_processes: tuple[str, WorkerProcesses],
    model_of: ModelOf,
    reference_of: ReferenceOf,
) -> None:
    name, others = other_processes
    for pid in others.pids:
        assert f"NUMOE_ISA={name}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    assert others.dispatched() == [[]] * len(others.pids)
    model, settings = model_of(shape), engine(kv, 512)
    found = await run_together(others.load(model, 2, 1, settings), model, settings)
    assert found == await reference_of(shape, kv)


# Of hosts that run a layer each: their workers and threads.
HOSTS = {"1x2, 2x1": ((1, 2), (2, 1)), "2x1, 1x1": ((2, 1), (1, 1)), "three": ((1, 1), (2, 2), (1, 2))}


@pytest.mark.parametrize("hosts", HOSTS.values(), ids=HOSTS)
@pytest.mark.parametrize("shape", [SHAPES["Q8_0"], SHAPES["K mix"], SHAPES["mixtral"]], ids=lambda s: s.type.name)
async def test_no_bit_depends_on_the_hosts_that_run_the_layers(
    shape: TinyShape,
    hosts: tuple[tuple[int, int], ...],
    processes: WorkerProcesses,
    model_of: ModelOf,
    reference_of: ReferenceOf,
) -> None:
    shape = replace(shape, layers=len(hosts))
    model, expected, settings = model_of(shape), await reference_of(shape, "f16"), engine("f16", 7)
    parts = [
        HostOf(place + 1, processes, workers, threads, sum(before for before, _ in hosts[:place]))
        for place, (workers, threads) in enumerate(hosts)
    ]
    for run in (run_together, run_alone):
        assert await run(load_hosts(model, parts, settings), model, settings) == expected


async def test_no_bit_depends_on_the_instruction_set_of_each_host(
    processes: WorkerProcesses,
    other_processes: tuple[str, WorkerProcesses],
    model_of: ModelOf,
    reference_of: ReferenceOf,
) -> None:
    model, settings = model_of(SHAPES["K mix"]), engine("f16", 512)
    parts = [HostOf(1, processes, 2, 1), HostOf(2, other_processes[1], 1, 2)]
    assert await run_together(load_hosts(model, parts, settings), model, settings) == await reference_of(
        SHAPES["K mix"], "f16"
    )


def test_numpy_runs_the_code_of_this_cpu_elsewhere(processes: WorkerProcesses) -> None:
    """Else there would be nothing that the workers above do otherwise."""
    if not np.show_config(mode="dicts")["SIMD Extensions"]["found"]:
        pytest.skip("this CPU has nothing that NumPy chooses by")
    assert all(processes.dispatched())


async def test_the_comparison_sees_what_does_change_bits(reference_of: ReferenceOf) -> None:
    half, single = await reference_of(QWEN, "f16"), await reference_of(QWEN, "f32")
    assert half.logits.keys() == single.logits.keys()
    assert all(half.logits[key] != single.logits[key] for key in half.logits if key[1] > 1)
    for answers in (half, single):
        assert len(set(answers.logits.values())) == len(answers.logits), "two positions have the same logits"
        assert len(set(answers.tokens)) == len(KINDS), "two requests have the same answer"
        run = answers.experts
        assert run[0] == run[4] == run[7] == QWEN.active_experts
        assert (run[2], run[3]) == (2.0, 1.0)
        assert all(run[index] not in (None, 1.0, 2.0, 3.0) for index in (1, 5, 6)), "a threshold left out all or none"
