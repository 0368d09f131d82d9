"""What prompts left in files is read by the next service with the very bits, by real processes."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from numoe.coordinator.settings import EngineSettings, KvType
from tests.coordinator.engine.serving import Answer, answer
from tests.system.conftest import ModelOf
from tests.system.groups import RecordedWorkers, TinyModel, WorkerProcesses
from tests.system.prefix.test_bits import SETTINGS, SHAPE, bits_of, cached, cold, requests_of
from tests.system.requests import engine_over

FULL = [448, 512, 512, 512, 576, 640, 576]  # of each request, all that stands in full blocks


async def answers_of(workers: RecordedWorkers, model: TinyModel, settings: EngineSettings) -> list[Answer]:
    """One request after the other."""
    async with engine_over(workers, model, settings) as engine:
        return [await answer(engine.submit(one)) for one in requests_of(model)]


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("kv_type", ["f16", "q8_0"])
async def test_a_restart_has_the_same_bits_from_files_and_others_files_are_no_hit(
    kv_type: KvType, tmp_path: Path, processes: WorkerProcesses, model_of: ModelOf
) -> None:
    model = model_of(SHAPE)
    settings = replace(SETTINGS, kv_store=tmp_path, kv_type=kv_type)
    expected = await cold(processes.load(model, 1, 1, replace(settings, kv_store=None)), model)

    async def check(workers: int, settings: EngineSettings = settings) -> list[int]:
        answers = await answers_of(processes.load(model, workers, 1, settings), model, settings)
        assert [bits_of(got) for got in answers] == expected
        return cached(answers)

    assert await check(2) == [0, *[512] * 5, 0]
    written = files(tmp_path)
    assert len(written) == 2 * (8 + 1 + 1 + 2 + 9)  # of 2 workers; the last request's, of fewer experts, all its own
    assert await check(2) == FULL
    assert await check(1) == [0, *[512] * 5, 0]  # other shares of heads
    assert await check(1, replace(settings, context_tokens=512 + 200)) == FULL
    assert await check(2, replace(settings, prefill_chunk=64)) == FULL
    for path in written[::3]:
        path.write_bytes(path.read_bytes()[:-1] + b"\x77")
    shutil.copyfile(written[1], written[4])
    assert min(await check(2)) < 448
    for _ in written[::3]:  # each time the first one of a prompt that does not fit is found, run, and kept anew
        found = await check(2)
    assert found == FULL


async def test_workers_that_share_a_head_keep_it_once(
    tmp_path: Path, processes: WorkerProcesses, model_of: ModelOf
) -> None:
    model, settings = model_of(replace(SHAPE, kv_heads=1)), replace(SETTINGS, kv_store=tmp_path)
    first, second = [await answers_of(processes.load(model, 2, 1, settings), model, settings) for _ in range(2)]
    assert [bits_of(got) for got in second] == [bits_of(got) for got in first]
    assert (cached(second), len(files(tmp_path))) == (FULL, 21)


async def test_the_folder_holds_no_more_than_it_may(
    tmp_path: Path, processes: WorkerProcesses, model_of: ModelOf
) -> None:
    model, gib = model_of(SHAPE), 1 << 30
    whole = replace(SETTINGS, kv_store=tmp_path / "whole")
    await answers_of(processes.load(model, 2, 1, whole), model, whole)
    size = files(tmp_path / "whole")[0].stat().st_size * 2
    small = replace(SETTINGS, kv_store=tmp_path / "small", kv_store_gib=10.5 * size / gib)
    expected = await cold(processes.load(model, 1, 1, SETTINGS), model)
    for _ in range(2):
        answers = await answers_of(processes.load(model, 2, 1, small), model, small)
        assert [bits_of(got) for got in answers] == expected
        assert 0 < sum(path.stat().st_size for path in files(tmp_path / "small")) <= 10.5 * size
