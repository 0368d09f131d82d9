"""A slot that is saved is restored by the next service with the very bits, by real processes."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from numoe.coordinator.engine.engine import Engine
from numoe.coordinator.requests.request import GenerationRequest
from numoe.coordinator.settings import EngineSettings, KvType
from numoe.protos.errors import InvalidRequest
from tests.coordinator.engine.serving import Answer, answer
from tests.system.conftest import ModelOf
from tests.system.groups import RecordedWorkers, WorkerProcesses
from tests.system.prefix.test_bits import BLOCK, SETTINGS, SHAPE, bits_of, cached, requests_of
from tests.system.requests import engine_over

NAME = "conversation.bin"


def next_turn(first: GenerationRequest, got: Answer) -> GenerationRequest:
    """A request that goes on with what was asked and answered, in whichever slot."""
    return replace(first, prompt=(*first.prompt, *(token for token, _ in got.tokens), 1, 2, 3), slot=None)


async def save(engine: Engine, workers: RecordedWorkers, slot: int) -> int:
    assert workers.slot_files is not None
    found = await asyncio.wrap_future(engine.slot_orders.find(slot))
    return (await asyncio.to_thread(workers.slot_files.save, NAME, found, engine.slot_orders.version))[0]


async def restore(engine: Engine, workers: RecordedWorkers, slot: int, name: str = NAME) -> int:
    assert workers.slot_files is not None
    saved = await asyncio.to_thread(workers.slot_files.open, name)
    return await asyncio.wrap_future(engine.slot_orders.restore(slot, saved.left, saved.read))


@pytest.mark.parametrize(("workers", "kv_type"), [(1, "q8_0"), (2, "f16")])
async def test_a_slot_outlives_the_service_with_its_bits(
    workers: int, kv_type: KvType, tmp_path: Path, processes: WorkerProcesses, model_of: ModelOf
) -> None:
    model = model_of(SHAPE)
    settings = replace(SETTINGS, slot_save_path=tmp_path, kv_type=kv_type)
    first = replace(requests_of(model)[5], max_tokens=80, slot=2)
    blocks = (len(first.prompt) + 79) // BLOCK

    group = processes.load(model, workers, 1, settings)
    async with engine_over(group, model, settings) as engine:
        got = await answer(engine.submit(first))
        second = next_turn(first, got)
        saved = await save(engine, group, 2)
    async with engine_over(processes.load(model, workers, 1, settings), model, settings) as engine:
        cold = await answer(engine.submit(second))  # with nothing to take over
    assert (saved, [path.name for path in tmp_path.iterdir()], cached([cold])) == (blocks, [NAME], [0])

    group = processes.load(model, workers, 1, settings)
    async with engine_over(group, model, settings) as engine:
        assert await restore(engine, group, 5) == blocks
        warm = await answer(engine.submit(second))
        assert await asyncio.wrap_future(engine.slot_orders.erase(5)) == (len(second.prompt) + 79) // BLOCK
        again = await answer(engine.submit(second))
    assert [bits_of(one) for one in (warm, again)] == [bits_of(cold)] * 2
    assert cached([warm, again]) == [blocks * BLOCK, 0]


async def test_what_does_not_fit_is_refused_and_leaves_the_service_as_it_was(
    tmp_path: Path, processes: WorkerProcesses, model_of: ModelOf
) -> None:
    model = model_of(SHAPE)
    settings = replace(SETTINGS, slot_save_path=tmp_path)
    asked = requests_of(model)[4]
    group = processes.load(model, 2, 1, settings)
    async with engine_over(group, model, settings) as engine:
        expected = await answer(engine.submit(asked))
        assert await save(engine, group, 0) == 9
        data = bytearray((tmp_path / NAME).read_bytes())
        data[len(data) * 2 // 3] ^= 1
        (tmp_path / "changed.bin").write_bytes(data)

    async def check(workers: int, settings: EngineSettings, name: str, why: str) -> None:
        group = processes.load(model, workers, 1, settings)
        async with engine_over(group, model, settings) as engine:
            with pytest.raises(InvalidRequest, match=why):
                await restore(engine, group, 0, name)
            got = await answer(engine.submit(asked))
        assert bits_of(got) == bits_of(expected)
        assert cached([got])[0] < 512

    await check(1, settings, NAME, "was saved by 2 workers")
    await check(2, settings, "changed.bin", "its digest differs: save it anew")
    group = processes.load(model, 2, 1, other := replace(settings, kv_type="q8_0"))
    async with engine_over(group, model, other):
        assert group.slot_files is not None
        with pytest.raises(InvalidRequest, match="of another model, by other kernels, or with other formats"):
            group.slot_files.open(NAME)
