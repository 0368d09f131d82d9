"""Several requests' events come to one consumer in each one's order, and silence is told."""

from __future__ import annotations

from numoe.coordinator.requests.events import Accepted, Delta, Failed, Finished
from numoe.coordinator.requests.merging import MergedEvents
from tests.coordinator.engine.fake_executor import FakeExecutor
from tests.coordinator.engine.serving import PATIENCE_SECONDS, Gate, request, serving
from tests.coordinator.tiny_tokenizer import LETTERS


async def test_all_events_of_all_come_each_in_its_order() -> None:
    async with serving(FakeExecutor(LETTERS)) as engine:
        merged = MergedEvents([engine.submit(request(max_tokens=tokens)) for tokens in (3, 9, 1)])
        came: list[list[object]] = [[], [], []]
        while not merged.over:
            told = await merged.next(PATIENCE_SECONDS)
            assert told is not None
            came[told[0]].append(told[1])
    for events, tokens in zip(came, (3, 9, 1), strict=True):
        assert isinstance(events[0], Accepted)
        assert isinstance(events[-1], Finished)
        assert sum(len(event.token_ids) for event in events if isinstance(event, Delta)) == tokens


async def test_silence_is_told_and_loses_nothing() -> None:
    gate = Gate(number=0)
    async with serving(FakeExecutor(LETTERS, before_collect=gate)) as engine:
        merged = MergedEvents([engine.submit(request())])
        assert isinstance((await merged.next(PATIENCE_SECONDS) or (0, None))[1], Accepted)
        await gate.reached.wait()
        assert await merged.next(0.01) is None
        gate.open()
        tokens = 0
        while not merged.over:
            told = await merged.next(PATIENCE_SECONDS)
            assert told is not None
            tokens += len(told[1].token_ids) if isinstance(told[1], Delta) else 0
    assert tokens == 8


async def test_all_are_cancelled_together() -> None:
    gate = Gate(number=0)
    async with serving(FakeExecutor(LETTERS, before_collect=gate)) as engine:
        merged = MergedEvents([engine.submit(request()), engine.submit(request())])
        await gate.reached.wait()
        merged.cancel()
        gate.open()
        ends = []
        while not merged.over:
            told = await merged.next(PATIENCE_SECONDS)
            ends += [told[1]] if told and isinstance(told[1], Failed) else []
    assert [type(end.error).__name__ for end in ends] == ["RequestCancelled"] * 2
