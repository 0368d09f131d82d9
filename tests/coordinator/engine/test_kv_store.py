"""What is kept beyond the memory of workers is read instead of run, in parts between steps, as far as it fits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

from numoe.protos.messages import StepLimits
from tests.coordinator.engine.fake_executor import LIMITS, FakeExecutor, expected_tokens
from tests.coordinator.engine.serving import answer, request, serving
from tests.coordinator.tiny_tokenizer import ALL_IDS

ROOMY = replace(LIMITS, context_tokens=1024, kv_blocks=128)
BLOCK = LIMITS.block_positions
SYSTEM = tuple(n % 200 for n in range(40 * BLOCK))


class Keeping(FakeExecutor):
    """Implements BlockStore, too: what `kept` outlives it. Written when `write` is called, as a thread would."""

    def __init__(self, kept: dict[bytes, list[int]], limits: StepLimits = ROOMY) -> None:
        super().__init__(ALL_IDS, limits)
        self.store = self
        self.kept = kept
        self.reads: list[int] = []
        self.fails_at: set[bytes] = set()
        self._ordered: list[tuple[int, bytes, int]] = []
        self._unchanged: Callable[[int], int] = lambda block: 0

    def find(self, keys: Sequence[bytes]) -> int:
        return next((place for place, key in enumerate(keys) if key not in self.kept), len(keys))

    def save(self, blocks: Sequence[tuple[int, bytes]], unchanged: Callable[[int], int]) -> None:
        self._unchanged = unchanged
        self._ordered += [(block, key, unchanged(block)) for block, key in blocks]

    def write(self) -> None:
        for block, key, version in self._ordered:
            if self._unchanged(block) == version:
                self.kept[key] = [self._cells[block, offset] for offset in range(BLOCK)]
        self._ordered.clear()

    def restore(self, blocks: Sequence[tuple[int, bytes]]) -> int:
        assert not self._in_flight, "blocks are read while a step runs"
        self.reads.append(len(blocks))
        for place, (block, key) in enumerate(blocks):
            if key in self.fails_at:
                del self.kept[key]
                return place
            for offset, digest in enumerate(self.kept[key]):
                self._cells[block, offset] = digest
        return len(blocks)

    def forget(self, key: bytes) -> None:
        self.kept.pop(key, None)


async def kept_of(prompt: tuple[int, ...]) -> dict[bytes, list[int]]:
    """What is kept after one request."""
    executor = Keeping({})
    async with serving(executor) as engine:
        await answer(engine.submit(request(prompt, 3)))
        executor.write()
    return executor.kept


async def test_a_prompt_of_before_a_restart_is_read_and_not_run() -> None:
    executor = Keeping(await kept_of(SYSTEM))
    assert len(executor.kept) == 40
    asked = request((*SYSTEM, 7, 8), 5)
    async with serving(executor) as engine:
        got = await answer(engine.submit(asked))
        again = await answer(engine.submit(asked))
    assert got.tokens == again.tokens == expected_tokens(asked.prompt, 5, ALL_IDS)
    assert [one.finished.usage.cached_tokens for one in (got, again)] == [len(SYSTEM), len(SYSTEM) + 1]
    assert executor.reads == [16, 16, 8]
    assert executor.positions_run() == (2 + 4) + (1 + 4)


async def test_requests_go_on_between_the_parts_that_are_read() -> None:
    executor = Keeping(await kept_of(SYSTEM))
    other = request((9,), 60)
    async with serving(executor) as engine:
        running = engine.submit(other)
        while not engine.snapshot().generated_tokens:
            await asyncio.sleep(0.001)
        answers = await asyncio.gather(answer(running), answer(engine.submit(request(SYSTEM, 9))))
    assert answers[0].tokens == expected_tokens((9,), 60, ALL_IDS)
    assert answers[1].tokens == expected_tokens(SYSTEM, 9, ALL_IDS)
    assert answers[1].finished.usage.cached_tokens == len(SYSTEM) - BLOCK


async def test_what_cannot_be_read_is_run() -> None:
    kept = await kept_of(SYSTEM)
    executor = Keeping(kept)
    executor.fails_at = {list(kept)[20]}
    async with serving(executor) as engine:
        got = await answer(engine.submit(request(SYSTEM, 5)))
    assert got.tokens == expected_tokens(SYSTEM, 5, ALL_IDS)
    assert got.finished.usage.cached_tokens == 20 * BLOCK


async def test_nothing_is_read_for_who_has_no_room_yet_and_a_small_pool_reads_again_what_it_lost() -> None:
    kept = await kept_of(SYSTEM)
    executor = Keeping(kept, replace(ROOMY, kv_blocks=48))
    prompts = [(*SYSTEM[: 39 * BLOCK], *range(index, index + 30)) for index in range(3)]
    async with serving(executor) as engine:
        answers = await asyncio.gather(*[answer(engine.submit(request(prompt, 40))) for prompt in prompts])
        other = request(tuple(n % 7 for n in range(600)), 20)
        await answer(engine.submit(other))
        last = await answer(engine.submit(request(SYSTEM, 4)))
    for prompt, got in zip(prompts, answers, strict=True):
        assert got.tokens == expected_tokens(prompt, 40, ALL_IDS)
    assert last.tokens == expected_tokens(SYSTEM, 4, ALL_IDS)
    assert last.finished.usage.cached_tokens == 39 * BLOCK
    assert sum(executor.reads) < 2 * 40


async def test_a_block_that_was_taken_for_something_else_before_it_was_written_is_not_kept() -> None:
    executor = Keeping({}, replace(ROOMY, kv_blocks=48))
    async with serving(executor) as engine:
        await answer(engine.submit(request(SYSTEM, 3)))
        await answer(engine.submit(request(tuple(n * 7 % 199 for n in range(40 * BLOCK)), 3)))
        executor.write()
    whole = await kept_of(SYSTEM)
    assert 40 < len(executor.kept) < 60
    assert all(digests == whole[key] for key, digests in executor.kept.items() if key in whole)


async def test_what_a_slot_held_is_erased_from_files_too() -> None:
    executor = Keeping({})
    async with serving(executor) as engine:
        await answer(engine.submit(request(SYSTEM, 3, slot=2)))
        executor.write()
        assert len(executor.kept) == 40
        assert await asyncio.wrap_future(engine.slot_orders.erase(2)) == 40
        executor.write()
        again = await answer(engine.submit(request(SYSTEM, 3)))
    assert executor.reads == []
    assert again.finished.usage.cached_tokens == 0


async def test_what_was_erased_before_it_was_written_is_not_kept() -> None:
    executor = Keeping({})
    async with serving(executor) as engine:
        await answer(engine.submit(request(SYSTEM, 3, slot=2)))
        await asyncio.wrap_future(engine.slot_orders.erase(2))
        executor.write()
    assert executor.kept == {}
