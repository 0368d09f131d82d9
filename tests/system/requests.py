"""Eight requests of all kinds, run alone or all at once, and every bit of what they were answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from numoe.coordinator.engine.engine import Engine
from numoe.coordinator.engine.executor import StepExecutor
from numoe.coordinator.engine.routed_experts import RoutedExperts
from numoe.coordinator.requests.generation import Generation
from numoe.coordinator.requests.request import GenerationRequest
from numoe.coordinator.settings import EngineSettings
from numoe.protos.expert_reduction import ALL_EXPERTS, ExpertReduction
from numoe.protos.messages import Sampling
from tests.coordinator.engine.serving import Answer, answer
from tests.system.groups import PATIENCE_SECONDS, RecordedWorkers, TinyModel

CONTEXT_TOKENS = 1024
# Each request's own, of a model of three active experts.
REDUCTIONS = (
    None,
    ExpertReduction(1, 0.3),
    ExpertReduction(2, 1.0),
    ExpertReduction(1, 1.0),
    ExpertReduction(3, 1.0),
    ExpertReduction(1, 0.8),
    ExpertReduction(2, 0.1),
    ALL_EXPERTS,
)
# A sampling's seed tells its request's logits from the others'.
KINDS = (
    (560, 6, Sampling(seed=1)),  # two pieces of attention, nine KV blocks
    (3, 24, Sampling(seed=2, temperature=0.8, top_p=0.9)),
    (17, 20, Sampling(seed=3, temperature=1.0, top_k=20, repetition_penalty=1.2)),
    (65, 14, Sampling(seed=4, temperature=0.7, min_p=0.05, frequency_penalty=0.5, presence_penalty=0.3)),
    (130, 10, Sampling(seed=5, repetition_penalty=1.3)),
    (9, 24, Sampling(seed=2**64 - 6, temperature=1.5)),
    (40, 20, Sampling(seed=7)),
    (1, 24, Sampling(seed=8, temperature=0.9, top_k=50, top_p=0.95, presence_penalty=1.0)),
)
LATE = slice(5, 8)  # those arrive when the others are in work
NEIGHBOURS = ((33, Sampling(seed=100)), (70, Sampling(seed=101, temperature=1.0)))  # cancelled in the middle
LATE_STEP, FIRST_CANCEL_STEP, SECOND_CANCEL_STEP = 2, 6, 9


# The experts of wrong guesses count as run, so that they are compared without; guesses/test_bits.py holds the rest.
EXACT: Mapping[str, Any] = MappingProxyType({"speculate": "off"})


@dataclass(frozen=True, slots=True)
class Answers:
    """Of each request the tokens, and the bits of each token's log-probability and of the logits it was drawn from."""

    tokens: tuple[tuple[int, ...], ...]
    experts: tuple[float | None, ...]  # run per token and layer
    logprobs: tuple[bytes, ...]
    logits: dict[tuple[int, int], bytes]


def tiny_requests(model: TinyModel) -> tuple[GenerationRequest, ...]:
    reductions = REDUCTIONS if model.spec.routed else (None,) * len(KINDS)
    return tuple(_request(model, *kind, one) for kind, one in zip(KINDS, reductions, strict=True))


def _request(
    model: TinyModel, length: int, tokens: int, sampling: Sampling, experts: ExpertReduction | None = None
) -> GenerationRequest:
    prompt = np.random.default_rng(length).integers(0, model.spec.vocabulary, length).tolist()
    return GenerationRequest(f"{length}", tuple(prompt), sampling, max_tokens=tokens, ignore_eos=True, experts=experts)


@asynccontextmanager
async def engine_over(workers: StepExecutor, model: TinyModel, settings: EngineSettings) -> AsyncIterator[Engine]:
    spec = model.spec
    experts = RoutedExperts(spec.layers, spec.active_experts, bytes=1.0) if spec.routed else None
    engine = Engine(workers, model.tokenizer, settings, experts=experts, step_timeout_seconds=PATIENCE_SECONDS)
    engine.start()
    try:
        yield engine
    finally:
        await engine.stop(PATIENCE_SECONDS)
    assert engine.snapshot().restarts == 0


async def run_alone(workers: RecordedWorkers, model: TinyModel, settings: EngineSettings) -> Answers:
    """One request after the other, nothing else in any step."""
    async with engine_over(workers, model, replace(settings, **EXACT)) as engine:
        told = [await answer(engine.submit(request)) for request in tiny_requests(model)]
    assert all(len(chunks) == 1 for chunks in workers.chunks)
    return _answers(told, workers)


async def run_together(workers: RecordedWorkers, model: TinyModel, settings: EngineSettings) -> Answers:
    """All at once, three of them arriving late, and two more that are cancelled on the way."""
    requests, open_ones = tiny_requests(model), list[Generation]()
    settings = replace(settings, **EXACT, prompt_slowdown=0.0)  # so that all are in work before the first ones end
    neighbours = [_request(model, length, 200, sampling) for length, sampling in NEIGHBOURS]
    async with engine_over(workers, model, settings) as engine:

        def submit(*asked: GenerationRequest) -> None:
            open_ones.extend(engine.submit(request) for request in asked)

        actions: dict[int, Callable[[], None]] = {
            LATE_STEP: lambda: submit(*requests[LATE]),
            FIRST_CANCEL_STEP: lambda: open_ones[0].cancel(),
            SECOND_CANCEL_STEP: lambda: open_ones[1].cancel(),
        }
        workers.before_step = _in_loop(actions)
        submit(*neighbours, *requests[: LATE.start])
        await asyncio.wait_for(_all_submitted(open_ones), PATIENCE_SECONDS)
        cancelled, told = open_ones[:2], [await answer(generation) for generation in open_ones[2:]]
        assert [(await answer(generation)).error.__class__.__name__ for generation in cancelled] == [
            "RequestCancelled"
        ] * 2
    assert max(len(chunks) for chunks in workers.chunks) * workers.depth >= len(requests)
    assert any(1 in chunks and max(chunks) > 1 for chunks in workers.chunks), "no step mixed prefill and decode"
    return _answers(told, workers)


async def _all_submitted(open_ones: list[Generation]) -> None:
    while len(open_ones) < len(KINDS) + len(NEIGHBOURS):
        await asyncio.sleep(0.001)


def _in_loop(actions: dict[int, Callable[[], None]]) -> Callable[[int], None]:
    """Runs the action of a step in the event loop before the workers get the step: arrivals are the same each time."""
    loop = asyncio.get_running_loop()

    async def run(action: Callable[[], None]) -> None:
        action()

    def before_step(number: int) -> None:
        if number in actions:
            asyncio.run_coroutine_threadsafe(run(actions[number]), loop).result(PATIENCE_SECONDS)

    return before_step


def _answers(told: list[Answer], workers: RecordedWorkers) -> Answers:
    seeds = {sampling.seed for _, _, sampling in KINDS}
    return Answers(
        tokens=tuple(tuple(token_id for token_id, _ in one.tokens) for one in told),
        experts=tuple(one.finished.usage.mean_experts for one in told),
        logprobs=tuple(np.array([logprob for _, logprob in one.tokens], np.float32).tobytes() for one in told),
        logits={key: row.tobytes() for key, row in workers.logits.items() if key[0] in seeds},
    )
