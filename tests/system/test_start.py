"""What starting a group of workers does, and does not do."""

from __future__ import annotations

import subprocess
import sys

from numoe.kernels.jit import cache_folder
from tests.system.conftest import ModelOf
from tests.system.groups import WorkerProcesses
from tests.tiny_model import TinyShape


def kept() -> dict[str, int]:
    """The files of compiled code, and when each was written."""
    return {str(path): path.stat().st_mtime_ns for path in cache_folder().rglob("*") if path.is_file()}


def test_workers_find_all_compiled_code_in_the_cache_and_write_none(ray_node: None, model_of: ModelOf) -> None:
    subprocess.run([sys.executable, "-m", "numoe.worker.warm"], check=True)
    before = kept()
    WorkerProcesses(model_of(TinyShape()), 1).close()
    assert kept() == before
