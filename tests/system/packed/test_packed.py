"""A service that starts from a packed folder is the one that starts from the model's file, to the last bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from numoe.coordinator.machine.model_file import read_model
from numoe.coordinator.settings import ModelSettings, ServeSettings
from numoe.model.architectures.spec import ModelSpec
from numoe.model.planning.expert_owners import ExpertOwners
from numoe.model.planning.splitting import Shares
from tests.packed_model import flip, pack_here
from tests.system.clients import NOT_SERVING, SERVE_FLAGS, SERVING, SHAPE, ask, connected
from tests.system.conftest import ModelOf
from tests.system.groups import TinyModel, WorkerProcesses
from tests.system.requests import run_alone, run_together
from tests.system.serve_process import NUMOE, PATIENCE_SECONDS, serving
from tests.system.test_invariance import SHAPES, engine, whole_experts
from tests.tiny_model import write_tiny_model

UNEVEN = Shares((4.0, 2.0), (1.0, 5.0), (3.0, 2.0), (1.0, 1.0))
PLANS: dict[str, tuple[int, Callable[[ModelSpec], tuple[ExpertOwners | None, ...]], Shares | None]] = {
    "one worker": (1, lambda spec: (), None),
    "rows of 3": (3, lambda spec: (), None),
    "unequal rows of 2": (2, lambda spec: (), UNEVEN),
    "whole experts of 2": (2, lambda spec: whole_experts(spec, 2, 1), None),
    "some so, some so": (2, lambda spec: (None, *whole_experts(spec, 2, 0)[1:]), None),
}


def packed_twin(model: TinyModel, folder: Path) -> TinyModel:
    """The same model, as it is read of a folder."""
    pack_here(model.path, folder)
    spec, tokenizer, _ = read_model(None, ServeSettings(model=ModelSettings(packed=folder)))
    return replace(model, spec=spec, tokenizer=tokenizer)


@pytest.mark.parametrize("kind", ["F32", "Q8_0", "K mix"])
async def test_no_bit_of_an_answer_depends_on_where_the_weights_were_read(
    kind: str, processes: WorkerProcesses, model_of: ModelOf, tmp_path: Path
) -> None:
    """One folder serves all plans."""
    model, settings, folder = model_of(SHAPES[kind]), engine("f16", 512), tmp_path / "packed"
    expected = await run_alone(processes.load(model, 1, 1, settings), model, settings)
    twin = packed_twin(model, folder)
    for plan, (workers, experts, shares) in PLANS.items():
        loaded = processes.load(twin, workers, 1, settings, experts(model.spec), shares, packed=folder)
        assert await run_together(loaded, twin, settings) == expected, plan


async def test_a_folder_serves_without_its_model_file_and_workers_start_anew_from_it(tmp_path: Path) -> None:
    path, folder = tmp_path / "tiny.gguf", tmp_path / "packed"
    write_tiny_model(path, SHAPE)
    done = subprocess.run([NUMOE, "pack", str(path), "-o", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with serving(tmp_path / "log", str(path), *SERVE_FLAGS) as server:
        async with connected(server.address) as client:
            expected = await client.tokens(ask(20))
    path.unlink()
    with serving(tmp_path / "log", "--packed", folder.name, *SERVE_FLAGS, folder=tmp_path) as server:
        assert '"event": "packed_model"' in (tmp_path / "log").read_text()
        async with connected(server.address) as client:
            assert await client.tokens(ask(20)) == expected
            health = client.health()
            os.kill((await client.workers())[0], signal.SIGKILL)
            for state in (SERVING, NOT_SERVING, SERVING):
                await health.becomes(state)
            assert await client.tokens(ask(20)) == expected


def test_a_folder_is_measured_without_its_model_file(served_model: Path, tmp_path: Path) -> None:
    folder = pack_here(served_model, tmp_path / "packed")
    command = [NUMOE, "bench", "--packed", str(folder), "-p", "0", "-n", "4", "-r", "1", "-o", "jsonl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS)
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    assert (row["model_filename"], row["n_gen"]) == (str(folder), 4)


def test_a_damaged_folder_ends_the_start_with_one_line(served_model: Path, tmp_path: Path) -> None:
    folder = pack_here(served_model, tmp_path / "packed")
    flip(folder / "layer-001.panels", 5000)
    command = [NUMOE, "serve", "--packed", str(folder), *SERVE_FLAGS]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS)
    assert done.returncode == 2
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert f"{folder}/layer-001.panels: bytes " in line
    assert "were changed or damaged" in line
