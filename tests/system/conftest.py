"""Processes that the tests of this folder share: one Ray node, one group of workers per instruction set."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from numoe.coordinator.cluster.ray_node import RayNode
from numoe.kernels.cpu.instruction_sets import INSTRUCTION_SET, runnable
from tests.system.clients import SHAPE
from tests.system.groups import TinyModel, WorkerProcesses, tiny_model
from tests.tiny_model import TinyShape, write_tiny_model

MOST_WORKERS = 4
ModelOf = Callable[[TinyShape], TinyModel]


OTHER_SETS = [one.name for one in runnable() if one != INSTRUCTION_SET]
COMPILE_EACH = """
import os, subprocess, sys
for name in sys.argv[1:]:
    subprocess.run([sys.executable, "-m", "numoe.worker.running.warm"], env={**os.environ, "NUMOE_ISA": name})
"""


def compile_all() -> None:
    """Fill the cache, as `start_workers` does for the types of one model."""
    subprocess.run([sys.executable, "-m", "numoe.worker.running.warm"], check=True)


@pytest.fixture(scope="session")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> ModelOf:
    """Writes a model of a shape, once."""
    folder: Path = tmp_path_factory.mktemp("models")
    made: dict[TinyShape, TinyModel] = {}

    def get(shape: TinyShape) -> TinyModel:
        if shape not in made:
            made[shape] = tiny_model(folder / f"{len(made)}.gguf", shape)
        return made[shape]

    return get


@pytest.fixture(scope="session")
def served_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file for `numoe serve`."""
    path = tmp_path_factory.mktemp("served") / "tiny.gguf"
    write_tiny_model(path, SHAPE)
    return path


@pytest.fixture(scope="session")
def ray_node(model_of: ModelOf) -> Iterator[None]:
    """Ray as the launcher starts it, with room for two groups, and tiles of all types for models that come later."""
    compile_all()
    node = RayNode({"numa0": 2.0 * MOST_WORKERS})
    node.start()
    yield
    node.end(keep_logs=False)


@pytest.fixture(scope="session")
def compiling() -> Iterator[None]:
    """Fills the caches of other instruction sets, a minute and a half each, while tests wait for their processes.

    For tests to begin with that nobody times.
    """
    with subprocess.Popen([sys.executable, "-c", COMPILE_EACH, *OTHER_SETS], process_group=0) as process:
        yield
        os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture(scope="session")
def processes(ray_node: None, model_of: ModelOf) -> Iterator[WorkerProcesses]:
    """Workers that run this CPU's best instructions."""
    started = WorkerProcesses(model_of(TinyShape()), MOST_WORKERS)
    yield started
    started.close()


@pytest.fixture(scope="module", params=OTHER_SETS)
def other_processes(
    request: pytest.FixtureRequest, ray_node: None, model_of: ModelOf
) -> Iterator[tuple[str, WorkerProcesses]]:
    """An instruction set that is not this CPU's best, and workers that run it; their NumPy runs on every CPU."""
    features = np.show_config(mode="dicts")["SIMD Extensions"]["found"]
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("NUMOE_ISA", request.param)
        environment.setenv("NPY_DISABLE_CPU_FEATURES", " ".join(features))
        compile_all()
        started = WorkerProcesses(model_of(TinyShape()), 2)
    yield request.param, started
    started.close()
