"""Logits of workers against the NumPy forward in float64 and against transformers; tests/rounding.py has the bounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest
from numpy.typing import NDArray

from numoe.coordinator.settings import EngineSettings, KvType
from numoe.model.architectures.spec import LayerTensors
from numoe.model.gguf.tensors import RUNNABLE_TYPES, TensorType
from numoe.protos.expert_reduction import ALL_EXPERTS, ExpertReduction
from numoe.protos.messages import Chunk, Sampling, Step
from tests.forward import Floats, Forward, rotate, softmax, wide_gap_tokens
from tests.rounding import largest_error, largest_half_kv_error, relative_eight_bit_error
from tests.system.conftest import ModelOf
from tests.system.groups import PATIENCE_SECONDS, RecordedWorkers, TinyModel, WorkerProcesses
from tests.tiny_model import TinyShape, shape_of_type

pytestmark = [pytest.mark.usefixtures("compiling"), pytest.mark.timeout(900)]  # some wait until all is compiled

TOKENS, PROMPT = 64, 24
LAST = 8  # positions of a long context that are looked at
LONG_TOKENS, LONG_PROMPT = 600, 500  # decoding crosses from the first piece of attention into the second

SHAPES = {
    "qwen3moe": TinyShape(),
    "qwen3moe, four layers, wider, tied": TinyShape(layers=4, width=128, active_experts=4, tied=True),
    "qwen3moe, uneven": TinyShape(width=96, query_heads=6, kv_heads=3, experts=6, active_experts=3, expert_width=160),
    "qwen3moe, yarn": TinyShape(scaling="yarn", factor=4.0, original_context=2048, context_length=8192, rope_base=1e4),
    "llama, dense": TinyShape("llama", experts=1, active_experts=1, rope_base=1e4, rms_epsilon=1e-5),
    "llama, experts": TinyShape("llama", rope_base=1e4, rms_epsilon=1e-5),
}
UNQUANTISED = (TensorType.F32, TensorType.F16, TensorType.BF16)
OTHER_TYPES = sorted(RUNNABLE_TYPES - {*UNQUANTISED, TensorType.Q8_0})


def logits_of(
    workers: RecordedWorkers, tokens: Sequence[int], prompt: int, experts: ExpertReduction = ALL_EXPERTS
) -> NDArray[np.float32]:  # [T - prompt + 1, V]
    """Logits from position `prompt` - 1 on: the prompt in one chunk, then the given tokens one by one."""
    ids, position, size = np.array(tokens, np.int32), 0, workers.limits.block_positions
    blocks = np.arange(workers.limits.kv_blocks, dtype=np.int32)[::-1]
    while position < len(tokens):
        end = max(position + 1, prompt)
        chunk = Chunk(position, ids[position:end], blocks[: -(-end // size)], Sampling(), experts=experts)
        workers.submit(Step(position, (chunk,)))
        workers.collect(PATIENCE_SECONDS)
        position = end
    workers.close()
    return np.stack([workers.logits[0, position] for position in range(prompt, len(tokens) + 1)])


def compared(
    processes: WorkerProcesses, model: TinyModel, kv: KvType, tokens: Sequence[int], prompt: int = PROMPT
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """The logits of two workers, and the exact ones."""
    settings = EngineSettings(kv_type=kv, context_tokens=1024)
    found = logits_of(processes.load(model, 2, 1, settings), tokens, prompt)
    return found, model.forward(tokens).logits[prompt - 1 :]


@pytest.mark.parametrize("kv", ["f32", "f16"])
@pytest.mark.parametrize("type_", UNQUANTISED, ids=lambda type_: type_.name)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_unquantised_logits_are_exact_to_rounding(
    shape: TinyShape, type_: TensorType, kv: KvType, processes: WorkerProcesses, model_of: ModelOf
) -> None:
    model = model_of(replace(shape, type=type_))
    found, exact = compared(processes, model, kv, wide_gap_tokens(model.forward, TOKENS))
    spread = float(exact.std())
    bound = largest_error(model.spec, TOKENS, spread)
    if kv == "f16":
        bound += largest_half_kv_error(model.spec, TOKENS, spread)
    assert np.abs(found - exact).max() <= bound


REDUCTIONS = {"4,1": (4, 1.0), "6,1": (6, 1.0), "1,0.3": (1, 0.3), "1,1": (1, 1.0), "8,1": (8, 1.0), "9,0.5": (9, 0.5)}


@pytest.mark.parametrize("reduction", REDUCTIONS.values(), ids=REDUCTIONS)
def test_fewer_experts_are_those_of_the_definition(
    reduction: tuple[int, float], processes: WorkerProcesses, model_of: ModelOf
) -> None:
    model, experts = model_of(TinyShape(experts=16, active_experts=8)), ExpertReduction(*reduction)
    exact = replace(model.forward, experts=experts)
    tokens = wide_gap_tokens(exact, TOKENS, least_gap=0.01)
    workers = processes.load(model, 2, 1, EngineSettings(kv_type="f32", context_tokens=1024))
    found, expected = logits_of(workers, tokens, PROMPT, experts), exact(tokens).logits[PROMPT - 1 :]
    assert np.abs(found - expected).max() <= largest_error(model.spec, TOKENS, float(expected.std()))
    if experts.fewest < model.spec.active_experts:
        whole = model.forward(tokens).logits[PROMPT - 1 :]
        assert np.abs(whole - expected).max() > 0.01 * expected.std(), "nothing was left out"


@pytest.mark.parametrize("kv", ["f32", "f16"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_q8_0_logits_differ_by_the_rounding_of_activations(
    shape: TinyShape, kv: KvType, processes: WorkerProcesses, model_of: ModelOf
) -> None:
    model = model_of(replace(shape, type=TensorType.Q8_0))
    found, exact = compared(processes, model, kv, wide_gap_tokens(model.forward, TOKENS))
    error = float(np.sqrt(np.mean((found - exact) ** 2)) / exact.std())
    assert error <= relative_eight_bit_error(model.spec)
    assert error > 1e-3, "as good as unquantised: the integer tiles cannot have run"


@pytest.mark.parametrize("type_", OTHER_TYPES, ids=lambda type_: type_.name)
def test_logits_of_every_other_type_differ_by_the_rounding_of_activations(
    type_: TensorType, processes: WorkerProcesses, model_of: ModelOf
) -> None:
    model = model_of(shape_of_type(type_))
    found, exact = compared(processes, model, "f16", wide_gap_tokens(model.forward, TOKENS))
    error = float(np.sqrt(np.mean((found - exact) ** 2)) / exact.std())
    assert 1e-3 < error <= relative_eight_bit_error(model.spec)


@pytest.mark.parametrize("kv", ["f32", "f16"])
def test_attention_over_several_pieces_and_blocks_is_exact_to_rounding(
    kv: KvType, processes: WorkerProcesses, model_of: ModelOf
) -> None:
    model = model_of(TinyShape("llama", experts=1, active_experts=1, query_heads=6, kv_heads=2, context_length=1024))
    tokens = np.random.default_rng(5).integers(0, model.spec.vocabulary, LONG_TOKENS).tolist()
    found, exact = compared(processes, model, kv, tokens, LONG_PROMPT)
    spread = float(exact.std())
    bound = largest_error(model.spec, LONG_TOKENS, spread)
    if kv == "f16":
        bound += largest_half_kv_error(model.spec, LONG_TOKENS, spread)
    assert np.abs(found - exact).max() <= bound


class LastPositions(Forward):
    """The logits of the last positions of a model of one layer, of which the others' attention is of no use."""

    def attention(self, layer: LayerTensors, x: Floats, cos_sin: tuple[Floats, Floats]) -> Floats:
        spec, out = self.spec, np.zeros((len(x), self.spec.query_heads * self.spec.head_size))
        q, k, v = (
            self.heads(x, matrix, None, heads)
            for matrix, heads in (
                (layer.attn_q, spec.query_heads),
                (layer.attn_k, spec.kv_heads),
                (layer.attn_v, spec.kv_heads),
            )
        )
        q, k = rotate(q, cos_sin, spec.rope), rotate(k, cos_sin, spec.rope)
        for position, head in product(range(len(x) - LAST, len(x)), range(spec.query_heads)):
            kv_head, seen = head // (spec.query_heads // spec.kv_heads), slice(position + 1)
            weights = softmax(k[seen, kv_head] @ q[position, head] / spec.head_size**0.5)
            out[position, head * spec.head_size : (head + 1) * spec.head_size] = weights @ v[seen, kv_head]
        return out @ self.array(layer.attn_output).T


@pytest.mark.parametrize("types", [("f32", "f32"), ("q8_0", "f16")], ids=str)
def test_a_request_of_50_000_tokens_is_answered_as_exactly_as_a_short_one(
    types: tuple[KvType, KvType], processes: WorkerProcesses, model_of: ModelOf
) -> None:
    """Positions that YaRN reaches, and contexts of 98 pieces that two workers of a thread share out."""
    shape = TinyShape("llama", layers=1, query_heads=2, kv_heads=1, experts=1, active_experts=1, context_length=131072)
    model = model_of(replace(shape, scaling="yarn", factor=4.0, original_context=32768))
    tokens = np.random.default_rng(6).integers(0, model.spec.vocabulary, 50_000)
    limits = EngineSettings(cache_type_k=types[0], cache_type_v=types[1], context_tokens=50_048, kv_tokens=50_048)
    workers = processes.load(model, 2, 1, limits)
    ids, blocks = tokens.astype(np.int32), np.arange(workers.limits.kv_blocks, dtype=np.int32)[::-1]
    ends = [*range(512, len(ids) - LAST, 512), *range(len(ids) - LAST + 1, len(ids) + 1)]
    for number, (start, end) in enumerate(pairwise([0, *ends])):
        workers.submit(Step(number, (Chunk(start, ids[start:end], blocks[: -(-end // 64)], Sampling()),)))
        workers.collect(PATIENCE_SECONDS)
    workers.close()
    found = np.stack([workers.logits[0, position] for position in range(len(ids) - LAST + 1, len(ids) + 1)])
    exact = LastPositions(model.weights, model.spec)(tokens.tolist()).logits[-LAST:]
    spread = float(exact.std())
    if types == ("f32", "f32"):
        bound = largest_error(model.spec, len(ids), spread)
        assert np.abs(found - exact).max() <= bound
        oracle = pytest.importorskip("tests.transformers_model", reason="the oracle extra is not installed")
        expected = oracle.transformers_logits(model.weights, model.spec, tokens.tolist(), LAST)
        assert np.abs(found - expected).max() <= 2 * bound, "both round"
    else:
        assert np.sqrt(np.mean((found - exact) ** 2)) / spread <= relative_eight_bit_error(model.spec)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_logits_agree_with_transformers(shape: TinyShape, processes: WorkerProcesses, model_of: ModelOf) -> None:
    oracle = pytest.importorskip("tests.transformers_model", reason="the oracle extra is not installed")
    model = model_of(shape)
    tokens = wide_gap_tokens(model.forward, TOKENS)
    found, exact = compared(processes, model, "f32", tokens)
    expected = oracle.transformers_logits(model.weights, model.spec, tokens)[PROMPT - 1 :]
    both_round = 2 * largest_error(model.spec, TOKENS, float(exact.std()))
    assert np.abs(found - expected).max() <= both_round
