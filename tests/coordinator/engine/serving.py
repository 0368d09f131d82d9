"""An engine over fake workers for the length of a test, and what tests read off its events."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from numoe.coordinator.engine.engine import Engine
from numoe.coordinator.engine.latch import Latch
from numoe.coordinator.engine.routed_experts import RoutedExperts
from numoe.coordinator.requests.events import Delta, Event, Failed, Finished
from numoe.coordinator.requests.generation import Generation
from numoe.coordinator.requests.request import GenerationRequest
from numoe.coordinator.settings import EngineSettings
from numoe.protos.messages import Step, StepLimits
from tests.coordinator.engine.fake_executor import FakeExecutor
from tests.coordinator.tiny_tokenizer import TOKENIZER

ONE_SLOT = StepLimits(step_tokens=32, sequences=1, context_tokens=256, kv_blocks=16, block_positions=16)
PROMPT = (5, 6, 7)
EXPERTS = RoutedExperts(layers=2, active=3, bytes=100.0)
PATIENCE_SECONDS = 60.0  # a test that waits longer has failed


@asynccontextmanager
async def serving(executor: FakeExecutor, **settings: Any) -> AsyncIterator[Engine]:
    """A started engine; at the end it is stopped and must hold nothing."""
    engine = Engine(executor, TOKENIZER, EngineSettings(**settings), experts=EXPERTS)
    engine.start()
    try:
        yield engine
    finally:
        await engine.stop(PATIENCE_SECONDS)
    status = engine.snapshot()
    assert (status.running, status.queued, status.kv_blocks_used) == (0, 0, 0)
    assert executor.closed == 1


def request(prompt: tuple[int, ...] = (1, 2, 3), max_tokens: int | None = 8, **changes: Any) -> GenerationRequest:
    return GenerationRequest("r", prompt, max_tokens=max_tokens, **({"ignore_eos": True} | changes))


@dataclass(slots=True)
class Answer:
    """All of a request's events, and their sum."""

    events: list[Event]
    text: str = ""
    tokens: list[tuple[int, float]] = field(default_factory=list)

    @property
    def end(self) -> Finished | Failed:
        assert isinstance(self.events[-1], Finished | Failed)
        return self.events[-1]

    @property
    def finished(self) -> Finished:
        assert isinstance(self.end, Finished), self.end
        return self.end

    @property
    def error(self) -> Exception:
        assert isinstance(self.end, Failed), self.end
        return self.end.error


async def answer(generation: Generation) -> Answer:
    """Reads to the end; exactly one terminal event must come, and last."""
    events = [event async for event in generation]
    assert [isinstance(event, Finished | Failed) for event in events] == [False] * (len(events) - 1) + [True]
    total = Answer(events)
    for event in events:
        if isinstance(event, Delta):
            total.text += event.text
            total.tokens += zip(event.token_ids, event.logprobs, strict=True)
    return total


class Gate:
    """A `before_collect` that holds the step with this number in flight until `open` is called."""

    def __init__(self, number: int, then: Callable[[Step], None] = lambda step: None) -> None:
        self.reached = Latch()
        self._number = number
        self._opened = threading.Event()
        self._then = then

    def __call__(self, step: Step) -> None:
        if step.number == self._number:
            self.reached.set()
            assert self._opened.wait(PATIENCE_SECONDS)
            self._then(step)

    def open(self) -> None:
        self._opened.set()


def both(first: Callable[[Step], None], second: Callable[[Step], None]) -> Callable[[Step], None]:
    """Two `before_collect` in a row."""

    def run(step: Step) -> None:
        first(step)
        second(step)

    return run
