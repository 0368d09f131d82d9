"""A shard in a process of its own, as Ray would start it, and the step channel that the test holds the other end of.

    python -m tests.worker.running.shard_process < a pickled WorkerAssignment

writes "ready" once the shard runs steps, and ends when the process that gave the order ends.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from numoe.coordinator.workers.step_channel import StepChannel
from numoe.model.architectures.reading import model_spec
from numoe.model.architectures.spec import ModelSpec
from numoe.model.gguf.kv_types import HALF_FLOATS, KvTypes
from numoe.model.gguf.model_file import open_gguf
from numoe.model.planning.assignment import WorkerAssignment, layout_of
from numoe.model.planning.plan import BLOCK_ROWS, PANEL_ROWS, Shard, ShardPlan, kv_heads_of, split_evenly
from numoe.protos.messages import Chunk, Sampling, Step, StepLimits, StepResult
from numoe.worker.running.process_end import end_with
from numoe.worker.running.running_shard import RunningShard

LIMITS = StepLimits(step_tokens=16, sequences=4, context_tokens=128, kv_blocks=8, block_positions=64)
ROOT = Path(__file__).parents[3]
SECONDS = 60.0  # until a test gives a worker up; a step takes milliseconds


def read_spec(path: Path) -> ModelSpec:
    """What the file holds."""
    return model_spec(open_gguf(path))


def even_plan(spec: ModelSpec, cpus: Sequence[tuple[int, ...]]) -> ShardPlan:
    """One worker for each of `cpus`, all of node 0."""
    workers = len(cpus)
    shards = []
    for worker in range(workers):
        heads = split_evenly(spec.query_heads, 1, workers)[worker]
        sizes = ((spec.width, PANEL_ROWS), (spec.expert_width, BLOCK_ROWS), (spec.vocabulary, PANEL_ROWS))
        width, expert, vocabulary = (split_evenly(size, unit, workers)[worker] for size, unit in sizes)
        shards.append(Shard(worker, 0, cpus[worker], heads, kv_heads_of(spec, heads), width, expert, vocabulary))
    return ShardPlan(spec.name, tuple(shards), (None,) * spec.layers)


class ShardGroup:
    """Workers that run, and the channel to them."""

    def __init__(self, channel: StepChannel, processes: list[subprocess.Popen[bytes]]) -> None:
        self.channel, self.processes = channel, processes
        self._number = 0

    def run(self, *chunks: Chunk, checked: bool = False, hidden: NDArray[np.float32] | None = None) -> StepResult:
        """One step; fails the test where the workers do not answer. `hidden`: of the layers before."""
        self._number += 1
        self.channel.publish(Step(self._number, chunks, checked), hidden)
        result = self.channel.wait(SECONDS)
        assert result is not None, [process.poll() for process in self.processes]
        return result


@contextmanager
def running_shards(
    model: Path | ModelSpec, cpus: Sequence[tuple[int, ...]], kv_types: KvTypes = HALF_FLOATS
) -> Iterator[ShardGroup]:
    """Start a process per worker and end them afterwards."""
    spec = read_spec(model) if isinstance(model, Path) else model
    plan = even_plan(spec, cpus)
    channel = StepChannel(layout_of(spec, plan, LIMITS), plan.experts)
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for worker in range(len(cpus)):
            assignment = WorkerAssignment(
                worker, spec, plan, LIMITS, kv_types, os.getpid(), channel.descriptor, 100, SECONDS / 2
            )
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.worker.running.shard_process"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT,
            )  # fmt: skip
            processes.append(process)
            assert process.stdin is not None
            process.stdin.write(pickle.dumps(assignment))
            process.stdin.close()
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
        yield ShardGroup(channel, processes)
    finally:
        channel.abort()
        for process in processes:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        channel.close()


def chunk(first_position: int, tokens: Sequence[int], blocks: Sequence[int], sampling: Sampling | None = None) -> Chunk:
    """A chunk from plain numbers."""
    return Chunk(first_position, np.array(tokens, np.int32), np.array(blocks, np.int32), sampling)


def main() -> None:
    """Be the shard that the order on standard input names."""
    assignment: WorkerAssignment = pickle.loads(sys.stdin.buffer.read())
    end_with(assignment.coordinator)
    shard = RunningShard(assignment)
    shard.load()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    signal.pause()


if __name__ == "__main__":
    main()
