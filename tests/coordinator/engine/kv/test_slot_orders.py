"""What is saved of a slot is there again after a restart, without a token run, and nobody is held up by that."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from numoe.coordinator.engine.engine import Engine
from numoe.protos.errors import InvalidRequest, Unavailable, WorkerLost
from numoe.protos.messages import Step
from tests.coordinator.engine.fake_executor import LIMITS, FakeExecutor, expected_tokens
from tests.coordinator.engine.serving import Gate, answer, request, serving
from tests.coordinator.tiny_tokenizer import ALL_IDS
from tests.coordinator.workers.slot_saving import FakeRecords, saving

ROOMY = replace(LIMITS, context_tokens=1024, kv_blocks=128)
BLOCK = LIMITS.block_positions
PROMPT = tuple(n % 200 for n in range(40 * BLOCK))
ANSWER = 3 * BLOCK


def executor(folder: Path, **options: object) -> FakeExecutor:
    return saving(FakeExecutor(ALL_IDS, **({"limits": ROOMY} | options)), folder)  # type: ignore[arg-type]


async def save(engine: Engine, workers: FakeExecutor, slot: int = 0) -> tuple[int, int]:
    assert workers.slot_files is not None
    found = await asyncio.wrap_future(engine.slot_orders.find(slot))
    return workers.slot_files.save("a.bin", found, engine.slot_orders.version)


async def restore(engine: Engine, workers: FakeExecutor, slot: int = 0) -> int:
    assert workers.slot_files is not None
    saved = workers.slot_files.open("a.bin")
    return await asyncio.wrap_future(engine.slot_orders.restore(slot, saved.left, saved.read))


async def saved(folder: Path) -> tuple[int, ...]:
    """A file of a prompt and its answer, which are returned."""
    async with serving(workers := executor(folder)) as engine:
        got = await answer(engine.submit(request(PROMPT, ANSWER)))
        blocks, size = await save(engine, workers)
    assert (blocks, size) == (42, (folder / "a.bin").stat().st_size)  # the last token drawn was not run
    return (*PROMPT, *(token for token, _ in got.tokens))


async def test_what_was_asked_and_answered_is_read_after_a_restart_and_not_run(tmp_path: Path) -> None:
    known = await saved(tmp_path)
    asked = request((*known, 7, 8), 5)
    async with serving(workers := executor(tmp_path)) as engine:
        assert await restore(engine, workers, slot=3) == 42
        got = await answer(engine.submit(asked))
        assert await save(engine, workers, slot=3) == (43, (tmp_path / "a.bin").stat().st_size)
    assert got.tokens == expected_tokens(asked.prompt, 5, ALL_IDS)
    assert got.finished.usage.cached_tokens == 42 * BLOCK
    assert workers.positions_run() == BLOCK + 2 + 4


async def test_streams_go_on_between_the_parts_that_are_read(tmp_path: Path) -> None:
    await saved(tmp_path)
    gate = Gate(number=1)
    records = FakeRecords(workers := FakeExecutor(ALL_IDS, ROOMY, gate))
    workers.slot_files = records.files(tmp_path)
    async with serving(workers) as engine:
        stream = engine.submit(request((9,), 60))
        await gate.reached.wait()
        ordered = asyncio.create_task(restore(engine, workers, slot=2))
        await asyncio.sleep(0)  # until it is ordered
        gate.open()
        there, got = await asyncio.gather(ordered, answer(stream))
    assert there == 42
    assert got.tokens == expected_tokens((9,), 60, ALL_IDS)
    assert [blocks for blocks, _ in records.read] == [16, 16, 10]
    assert len({steps for _, steps in records.read}) == 3


async def test_an_order_waits_until_nobody_is_at_work_in_its_slot(tmp_path: Path) -> None:
    gate = Gate(number=1)
    workers = executor(tmp_path, before_collect=gate)
    async with serving(workers) as engine:
        running = engine.submit(request(PROMPT[:40], 20, slot=5))
        await gate.reached.wait()
        found, erased = engine.slot_orders.find(5), engine.slot_orders.erase(5)
        given_up = engine.slot_orders.find(5)
        other = await asyncio.wait_for(asyncio.to_thread(lambda: engine.requests()[0].slot), 10)
        assert (other, found.done(), given_up.cancel()) == (5, False, True)
        gate.open()
        await answer(running)
        assert len((await asyncio.wrap_future(found)).blocks) == 3
        assert await asyncio.wrap_future(erased) == 3
        assert (await asyncio.wrap_future(engine.slot_orders.find(5))).blocks == []


async def test_what_is_erased_is_run_again_but_for_what_others_have(tmp_path: Path) -> None:
    workers = executor(tmp_path)
    async with serving(workers) as engine:
        for slot, tail in enumerate((1, 2)):
            await answer(engine.submit(request((*PROMPT[: 4 * BLOCK], *[tail] * 40), 2, slot=slot)))
        assert await asyncio.wrap_future(engine.slot_orders.erase(0)) == 2
        again = [
            await answer(engine.submit(request((*PROMPT[: 4 * BLOCK], *[tail] * 40), 2, slot=slot)))
            for slot, tail in enumerate((1, 2))
        ]
        assert [got.finished.usage.cached_tokens for got in again] == [4 * BLOCK, 4 * BLOCK + 39]  # all but the last
        for slot in range(2):
            await asyncio.wrap_future(engine.slot_orders.erase(slot))
        last = await answer(engine.submit(request((*PROMPT[: 4 * BLOCK], 1), 2)))
    assert last.finished.usage.cached_tokens == 0


async def test_only_what_is_still_there_is_saved_and_only_what_has_room_restored(tmp_path: Path) -> None:
    await saved(tmp_path)
    small = replace(ROOMY, kv_blocks=30, context_tokens=480)
    async with serving(workers := executor(tmp_path, limits=small)) as engine:
        assert await restore(engine, workers) == 30
        got = await answer(engine.submit(request(PROMPT[: 20 * BLOCK], 4, slot=1)))
        assert got.finished.usage.cached_tokens == 19 * BLOCK
        await answer(engine.submit(request(tuple(n * 7 % 199 for n in range(20 * BLOCK)), 4, slot=2)))
        blocks, _ = await save(engine, workers)
        assert blocks < 20
        assert await restore(engine, workers, slot=4) == blocks


async def test_a_block_that_is_taken_while_it_is_written_ends_the_file_before_it(tmp_path: Path) -> None:
    async with serving(workers := executor(tmp_path)) as engine:
        await answer(engine.submit(request(PROMPT, 3)))
        found = await asyncio.wrap_future(engine.slot_orders.find(0))
        changed = found.blocks[17][0]
        assert workers.slot_files is not None
        blocks, _ = workers.slot_files.save(
            "a.bin", found, lambda block: engine.slot_orders.version(block) + (block == changed)
        )
        assert blocks == 17
        assert len(workers.slot_files.open("a.bin").left.tokens) == 17 * BLOCK


async def test_workers_that_are_lost_while_blocks_are_read_fail_the_order_and_nothing_else(tmp_path: Path) -> None:
    known = await saved(tmp_path)
    async with serving(workers := executor(tmp_path)) as engine:
        assert workers.slot_files is not None
        left = workers.slot_files.open("a.bin").left

        def lose(blocks: Sequence[tuple[int, bytes]]) -> int:
            raise WorkerLost("worker 1 died")

        with pytest.raises(Unavailable, match="try again"):
            await asyncio.wrap_future(engine.slot_orders.restore(0, left, lose))
        assert await restore(engine, workers) == 42
        got = await answer(engine.submit(request(known, 5)))
    assert workers.restarts == 1
    assert got.tokens == expected_tokens(known, 5, ALL_IDS)


async def test_a_loss_of_workers_empties_all_slots(tmp_path: Path) -> None:
    losing: list[Step] = []

    def lose(step: Step) -> None:
        if losing and step is not losing[0]:
            losing.clear()
            raise WorkerLost("worker 1 died")

    async with serving(workers := executor(tmp_path, before_collect=lose)) as engine:
        await answer(engine.submit(request(PROMPT, 3, slot=0)))
        losing.append(workers.steps[-1])
        await answer(engine.submit(request(PROMPT[:40], 3, slot=1)))
        assert (await save(engine, workers, slot=0))[0] == 0


async def test_orders_of_no_slot_and_of_a_service_that_ends_are_refused(tmp_path: Path) -> None:
    gate = Gate(number=1)
    workers = executor(tmp_path, before_collect=gate)
    orders: list[Callable[[], object]] = []
    async with serving(workers) as engine:
        for slot in (-1, 8):
            with pytest.raises(InvalidRequest, match="slots 0 to 7"):
                engine.slot_orders.find(slot)
            with pytest.raises(InvalidRequest, match="slots 0 to 7"):
                engine.submit(request(slot=slot))
        engine.submit(request(PROMPT[:40], 20, slot=5))
        await gate.reached.wait()
        open_ = engine.slot_orders.find(5)
        gate.open()
        await engine.stop()
        orders.append(lambda: engine.slot_orders.find(5))
    if not open_.exception():
        assert open_.result().blocks == []
    with pytest.raises(Unavailable):
        orders[0]()
