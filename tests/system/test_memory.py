"""What a plan counts of memory is what real processes have, after a request that filled a whole step."""

from __future__ import annotations

import re
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from numoe.coordinator.limits import step_limits
from numoe.coordinator.machine.model_file import read_spec
from numoe.coordinator.settings import EngineSettings
from numoe.model.gguf.tensors import TensorType
from numoe.model.machine.topology_reading import read_topology
from numoe.model.planning.splitting import PlanOptions, make_plan
from numoe.model.planning.worker_memory import MEBIBYTE, SERVICE_BYTES, worker_memory
from tests.system.clients import ask, connected
from tests.system.serve_process import serving
from tests.tiny_model import TinyShape, write_tiny_model

STEP_TOKENS = 2048
# 32,832 expert columns: working memory is more than all that a worker has beside it.
SHAPE = TinyShape(
    layers=1, width=512, experts=64, active_experts=16, expert_width=128, context_length=4096, type=TensorType.Q8_0
)
# Counted may be more than there is, for what only large models need: lists of pieces, a page of each buffer.
MARGIN, SERVICE_MARGIN = 0.45, 0.5


def resident_bytes(pid: int) -> int:
    """Memory of a process, of what it shares its part."""
    found = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) * 1024


async def test_a_service_has_the_memory_that_its_plan_counts(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    write_tiny_model(path, SHAPE)
    engine = EngineSettings(step_tokens=STEP_TOKENS, context_tokens=4096)
    spec, flags = read_spec(path), ("--step-tokens", str(STEP_TOKENS), "--context-tokens", "4096")
    made = make_plan(spec, read_topology(), PlanOptions(workers=2, threads_per_worker=1))
    counted = worker_memory(made, spec, step_limits(engine, spec.context_length))
    with serving(
        tmp_path / "log", str(path), "--address", "127.0.0.1:0", "--workers", "2", "--threads-per-worker", "1", *flags
    ) as server:
        async with connected(server.address) as client:
            await client.tokens(ask(3, tuple(index % 300 for index in range(3000))))
        processes = psutil.Process(server.process.pid).children(recursive=True)
        workers = [process.pid for process in processes if "WorkerActor" in " ".join(process.cmdline())]
        others = [process.pid for process in processes if process.pid not in workers]
        sizes = [resident_bytes(pid) for pid in workers]
        service = resident_bytes(server.process.pid) + sum(map(resident_bytes, others))
    assert len(sizes) == 2
    for memory in counted:
        assert memory.working > memory.weights + memory.kv_cache
    expected = sum(memory.total for memory in counted)
    found = f"{[size // MEBIBYTE for size in sizes]} of {expected // MEBIBYTE}, {service // MEBIBYTE} beside"
    assert expected * (1 - MARGIN) <= sum(sizes) <= expected, found
    assert SERVICE_BYTES * (1 - SERVICE_MARGIN) <= service <= SERVICE_BYTES, found
