"""What a worker answers that cannot get what it was ordered to have."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from numoe.coordinator.workers.step_channel import StepChannel
from numoe.model.gguf.kv_types import HALF_FLOATS
from numoe.model.planning.assignment import WorkerAssignment, layout_of
from tests.tiny_model import TinyShape, write_tiny_model
from tests.worker.running.shard_process import LIMITS, ROOT, even_plan, read_spec

# The actor's own class, without Ray, in a process that may map 4 GiB more than it has when the order comes.
LOADING = """
import pickle, resource, sys
from pathlib import Path
from numoe.worker.running.actor import WorkerActor
mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (mapped + (4 << 30), resource.RLIM_INFINITY))
print(WorkerActor.__ray_metadata__.modified_class().load(pickle.load(sys.stdin.buffer)))
"""


def test_a_shard_that_its_node_has_no_memory_for_is_told_as_that(tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "tiny.gguf", TinyShape(layers=1))
    spec = read_spec(tmp_path / "tiny.gguf")
    plan, limits = even_plan(spec, [(min(os.sched_getaffinity(0)),)]), replace(LIMITS, kv_blocks=1 << 24)
    channel = StepChannel(layout_of(spec, plan, limits), plan.experts)
    try:
        assignment = WorkerAssignment(0, spec, plan, limits, HALF_FLOATS, os.getpid(), channel.descriptor, 100, 30.0)
        process = subprocess.run(
            [sys.executable, "-c", LOADING], input=pickle.dumps(assignment), cwd=ROOT, check=False, capture_output=True
        )
    finally:
        channel.close()
    expected = "worker 0 found no memory for its shard on NUMA node 0; use more nodes or less KV\n"
    assert process.stdout.decode() == expected, process.stderr.decode()
