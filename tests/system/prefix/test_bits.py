"""No bit of an answer depends on what its request took over from others, held by real processes."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from numoe.coordinator.requests.request import GenerationRequest
from numoe.coordinator.settings import EngineSettings, KvType
from numoe.protos.expert_reduction import ExpertReduction
from numoe.protos.messages import Sampling
from tests.coordinator.engine.serving import Answer, answer
from tests.system.conftest import ModelOf
from tests.system.groups import RecordedWorkers, TinyModel, WorkerProcesses
from tests.system.requests import engine_over
from tests.system.stages import HostOf, load_hosts
from tests.tiny_model import TinyShape

SHAPE = TinyShape(
    width=96, query_heads=6, kv_heads=3, experts=6, active_experts=3, expert_width=160, context_length=1024
)
BLOCK = 64
TOKENS = 12
# Of the prompt, whose first 512 tokens all share: how many tokens follow that are its own.
TAILS = (0, 1, 63, 64, 65, 130)
SETTINGS = EngineSettings(step_tokens=128, prefill_chunk=100, sequences=8, context_tokens=1024)
Bits = tuple[tuple[int, ...], bytes]  # tokens, and their log-probabilities


def requests_of(model: TinyModel) -> list[GenerationRequest]:
    """Prompts that begin alike, drawn from in several ways; the last one runs fewer experts."""
    ids = np.random.default_rng(1).integers(0, model.spec.vocabulary, (len(TAILS), 1024)).tolist()
    asked = [
        GenerationRequest(
            f"{tail}",
            (*ids[0][:512], *ids[index][512 : 512 + tail]),
            Sampling(seed=index, temperature=0.8 * (index % 2), repetition_penalty=1.0 + 0.2 * (index == 3)),
            max_tokens=TOKENS,
            ignore_eos=True,
        )
        for index, tail in enumerate(TAILS)
    ]
    return [*asked, replace(asked[4], experts=ExpertReduction(1, 0.5))]


def bits_of(got: Answer) -> Bits:
    logprobs = np.array([logprob for _, logprob in got.tokens], np.float32)
    return tuple(token_id for token_id, _ in got.tokens), logprobs.tobytes()


def cached(answers: list[Answer]) -> list[int]:
    return [got.finished.usage.cached_tokens for got in answers]


async def cold(workers: RecordedWorkers, model: TinyModel) -> list[Bits]:
    """Each request by itself, with nothing to take over."""
    async with engine_over(workers, model, replace(SETTINGS, prefix_cache="off")) as engine:
        answers = [await answer(engine.submit(one)) for one in requests_of(model)]
    assert cached(answers) == [0] * len(answers)
    return [bits_of(got) for got in answers]


@pytest.mark.parametrize("kv_type", ["f16", "q8_0"])
@pytest.mark.parametrize(("workers", "threads"), [(1, 1), (1, 2), (2, 1)], ids=["1x1", "1x2", "2x1"])
async def test_no_bit_depends_on_hits_partial_hits_evictions_or_neighbours(
    workers: int, threads: int, kv_type: KvType, processes: WorkerProcesses, model_of: ModelOf
) -> None:
    model = model_of(SHAPE)
    few = replace(SETTINGS, kv_type=kv_type, kv_tokens=1024)  # so that requests at once evict, and give back
    many = replace(SETTINGS, kv_type=kv_type, kv_tokens=8192)
    asked = requests_of(model)
    expected = await cold(processes.load(model, 1, 1, many), model)
    async with engine_over(processes.load(model, workers, threads, many), model, many) as engine:
        one_by_one = [await answer(engine.submit(one)) for one in asked]
        again = [await answer(engine.submit(one)) for one in asked]
        together = await asyncio.gather(*[answer(engine.submit(one)) for one in asked])
    for answers in (one_by_one, again, together):
        assert [bits_of(got) for got in answers] == expected
    assert cached(one_by_one) == [0, *[512] * 5, 0]
    assert cached(again) == cached(together) == [len(one.prompt) - 1 for one in asked]  # the last token is run
    async with engine_over(processes.load(model, workers, threads, few), model, few) as engine:
        for _ in range(2):
            crowded = await asyncio.gather(*[answer(engine.submit(one)) for one in asked])
            assert [bits_of(got) for got in crowded] == expected
        sharing = engine.snapshot().sharing
    assert sharing.evicted_blocks > 0
    assert sharing.cached_tokens > 0


async def test_no_bit_depends_on_hits_where_several_hosts_run_the_layers(
    processes: WorkerProcesses, model_of: ModelOf
) -> None:
    model = model_of(SHAPE)
    expected = await cold(processes.load(model, 1, 1, SETTINGS), model)
    pipeline = load_hosts(model, [HostOf(1, processes, 1, 2), HostOf(2, processes, 2, 1, first=1)], SETTINGS)
    async with engine_over(pipeline, model, SETTINGS) as engine:
        for _ in range(2):
            answers = await asyncio.gather(*[answer(engine.submit(one)) for one in requests_of(model)])
            assert [bits_of(got) for got in answers] == expected
    assert cached(answers) == [len(one.prompt) - 1 for one in requests_of(model)]
