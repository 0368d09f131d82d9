"""No bit of an answer depends on what was guessed and run before it was known, held by real processes."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from numoe.coordinator.requests.request import GenerationRequest
from numoe.coordinator.settings import EngineSettings, KvType
from numoe.protos.expert_reduction import ExpertReduction
from numoe.protos.messages import Sampling, Step, StepResult
from tests.coordinator.engine.serving import Answer, answer
from tests.system.conftest import ModelOf
from tests.system.groups import RecordedWorkers, TinyModel, WorkerProcesses
from tests.system.requests import engine_over
from tests.system.stages import HostOf, load_hosts
from tests.tiny_model import TinyShape

SHAPE = TinyShape(
    width=96, query_heads=6, kv_heads=3, experts=6, active_experts=3, expert_width=160, context_length=1024
)
SETTINGS = EngineSettings(step_tokens=128, sequences=16, context_tokens=1024)
FEW = (40, 41)  # tokens that are drawn by far most often, so that a text has seen all that can come
TOKENS = 150
Told = tuple[tuple[int, ...], bytes, tuple[object, ...]]  # tokens, their log-probabilities, and the likeliest ones


class EvenSteps:
    """Workers whose steps all take as long, by what they say: so guesses are run wherever one is likely right."""

    def __init__(self, workers: RecordedWorkers) -> None:
        self._workers = workers
        self.limits, self.depth, self.store = workers.limits, workers.depth, workers.store
        self.slot_files = workers.slot_files
        self.check, self.restart, self.close = workers.check, workers.restart, workers.close

    def submit(self, step: Step, hidden: NDArray[np.float32] | None = None) -> None:
        self._workers.submit(step, hidden)

    def collect(self, timeout_seconds: float) -> StepResult:
        return replace(self._workers.collect(timeout_seconds), seconds=0.01)


def requests_of(model: TinyModel) -> list[GenerationRequest]:
    """Texts of few tokens, drawn in several ways, and one of any tokens."""
    ids = np.random.default_rng(1).integers(0, model.spec.vocabulary, (6, 70)).tolist()
    biases = tuple((token_id, 30.0) for token_id in FEW)
    few = [
        GenerationRequest(
            f"{number}",
            tuple(ids[number][: 20 + 10 * number]),
            Sampling(seed=number, temperature=0.7 * (number % 3), top_p=0.95, min_p=0.01 * number),
            max_tokens=TOKENS - number,
            ignore_eos=True,
            logit_bias=biases,
            top_logprobs=number % 2 * 3,
        )
        for number in range(5)
    ]
    reduced = replace(few[2], experts=ExpertReduction(1, 0.5), sampling=Sampling(seed=7, temperature=1.0))
    return [*few, reduced, replace(few[1], logit_bias=(), sampling=Sampling(seed=8, temperature=1.0))]


def told(got: Answer) -> Told:
    logprobs = np.array([logprob for _, logprob in got.tokens], np.float32).tobytes()
    alternatives = [event.alternatives for event in got.events if hasattr(event, "alternatives")]
    return tuple(token_id for token_id, _ in got.tokens), logprobs, sum(alternatives, ())


async def one_by_one(workers: RecordedWorkers, model: TinyModel, settings: EngineSettings) -> list[Told]:
    """Each request by itself, and each token."""
    settings = replace(settings, speculate="off")
    async with engine_over(workers, model, settings) as engine:
        return [told(await answer(engine.submit(one))) for one in requests_of(model)]


def check_guesses(answers: list[Answer]) -> None:
    """Some guesses were right and some were wrong."""
    usages = [got.finished.usage for got in answers]
    drafted, accepted = (sum(getattr(one, name) for one in usages) for name in ("drafted_tokens", "accepted_tokens"))
    assert 50 < accepted < drafted


@pytest.mark.parametrize("kv_type", ["f16", "q8_0"])
@pytest.mark.parametrize(("workers", "threads"), [(1, 2), (2, 1)], ids=["1x2", "2x1"])
async def test_no_bit_depends_on_guesses(
    workers: int, threads: int, kv_type: KvType, processes: WorkerProcesses, model_of: ModelOf
) -> None:
    model, settings = model_of(SHAPE), replace(SETTINGS, kv_type=kv_type)
    expected = await one_by_one(processes.load(model, 1, 1, settings), model, settings)
    group = processes.load(model, workers, threads, settings)
    async with engine_over(EvenSteps(group), model, settings) as engine:
        alone = [await answer(engine.submit(one)) for one in requests_of(model)]
        together = await asyncio.gather(*[answer(engine.submit(one)) for one in requests_of(model)])
    for answers in (alone, together):
        assert [told(got) for got in answers] == expected
        check_guesses(answers)
    assert len(group.chunks) < 2 * sum(one.max_tokens or 0 for one in requests_of(model))


async def test_no_bit_depends_on_guesses_where_several_hosts_run_the_layers(
    processes: WorkerProcesses, model_of: ModelOf
) -> None:
    model = model_of(SHAPE)
    expected = await one_by_one(processes.load(model, 1, 1, SETTINGS), model, SETTINGS)
    pipeline = load_hosts(model, [HostOf(1, processes, 1, 2), HostOf(2, processes, 2, 1, first=1)], SETTINGS)
    async with engine_over(EvenSteps(pipeline), model, SETTINGS) as engine:
        answers = await asyncio.gather(*[answer(engine.submit(one)) for one in requests_of(model)])
    assert [told(got) for got in answers] == expected
    check_guesses(answers)
