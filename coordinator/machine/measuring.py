"""Measures how fast every node's cores read every node's memory, with one process per memory node, and how they wait.

Each process is bound to its node's memory as a worker is. All start at once, then they measure one after the other, so
that nothing else reads meanwhile. Together they hold the cores for some MEASURING_SECONDS.
"""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from numoe.coordinator.programs import last_line, open_errors, python_command
from numoe.model.machine.bandwidth import Bandwidth, Read, cores_of_nodes
from numoe.model.machine.cgroups import memory_limit
from numoe.model.machine.id_lists import format_id_list
from numoe.model.machine.topology import Node, Topology
from numoe.model.machine.waits import TeamWait, Waits, pairs_to_try, teams_to_try
from numoe.protos.errors import ServiceError

MEASURING_SECONDS = 6.0  # for all pairs of nodes
MOST_SECONDS, LEAST_SECONDS = 0.4, 0.06  # for a pair
BYTES_PER_CORE = 64 << 20  # a pass over it takes some 10 ms, and leaves nothing in the caches next to it
CACHE_MULTIPLE = 8  # a buffer is this many times the last-level caches of any node's cores
MOST_BYTES = 8 << 30
LEAST_BYTES = 1 << 20
MEMORY_SHARE = 4  # at most a quarter of what a node has available, and of what a cgroup leaves
ANSWER_SECONDS = 120.0  # for one process: compiling at first, then measuring
MISPLACED_SHARE = 0.99  # of the buffer's pages at least lie where they should, or the figures are of another node

Progress = Callable[[int, int], None]  # memory nodes done, in all


@dataclass(frozen=True, slots=True)
class Measurement:
    """The figures, and what kept others from being taken."""

    bandwidth: Bandwidth
    remarks: tuple[str, ...]


def measure_bandwidth(
    topology: Topology, bytes_per_node: int | None = None, progress: Progress = lambda done, total: None
) -> Measurement:
    """Measure for 2 to 10 s. Raises ServiceError where a measuring process fails."""
    readers = [node for node in topology.nodes if node.cores]
    memories = [node for node in topology.nodes if node.memory_bytes]
    seconds = min(MOST_SECONDS, max(LEAST_SECONDS, MEASURING_SECONDS / max(1, len(readers) * len(memories))))
    reads: list[Read] = []
    remarks: list[str] = []
    with ExitStack() as stack:
        started = []
        for memory in memories:
            size = bytes_per_node or _buffer_bytes(topology, memory, readers)
            if size < LEAST_BYTES:
                remarks.append(f"node {memory.id} has too little free memory to measure")
            else:
                started.append((memory, stack.enter_context(_reading(memory, readers, size, seconds))))
        for _, process in started:
            process.await_ready()  # all of them: none shall compile while another one measures
        for done, (memory, process) in enumerate(started):
            progress(done, len(started))
            answer = process.answer()
            placed = answer["placed"]
            if placed is not None and placed < MISPLACED_SHARE:
                remarks.append(f"{1 - placed:.0%} of the memory asked for on node {memory.id} came from elsewhere")
                continue
            if placed is None:
                remarks.append(f"the kernel does not tell whether node {memory.id}'s memory lay there")
            reads += [Read(int(node), memory.id, rate) for node, rate in answer["rates"].items()]
    measured_at = time.strftime("%Y-%m-%d %H:%M")
    ordered = tuple(sorted(reads, key=lambda read: (read.cores_of, read.memory_of)))
    return Measurement(
        Bandwidth(topology.processor.name, measured_at, cores_of_nodes(topology), ordered), tuple(remarks)
    )


def measure_waits(topology: Topology) -> Waits | None:
    """Measure for a second or two; None where there is one core only. Raises ServiceError as measure_bandwidth does."""
    pairs, teams = pairs_to_try(topology), teams_to_try(topology)
    if not teams:
        return None
    command = python_command("numoe.worker.placing.wait_speed", json.dumps({"pairs": pairs, "teams": teams}))
    with _MeasuringProcess(command, "how cores wait") as process:
        process.await_ready()
        answer = process.answer()
    return Waits(answer["passes"], tuple(TeamWait(**team) for team in answer["teams"]))


def _buffer_bytes(topology: Topology, memory: Node, readers: Sequence[Node]) -> int:
    """The size of a buffer that is larger than the caches of every node that reads it."""
    last = max((cache.level for cache in topology.caches), default=0)
    wanted = 0
    for node in readers:
        caches = [cache for cache in topology.caches if cache.level == last and set(cache.cpus) & set(node.cpus)]
        cached = sum(cache.bytes for cache in caches)
        wanted = max(wanted, BYTES_PER_CORE * len(node.cores), CACHE_MULTIPLE * cached)
    limit, used = memory_limit(Path("/")) or (memory.available_bytes, 0)
    return min(wanted, MOST_BYTES, memory.available_bytes // MEMORY_SHARE, (limit - used) // MEMORY_SHARE)


def _reading(memory: Node, readers: Sequence[Node], size: int, seconds: float) -> _MeasuringProcess:
    """A process that measures how fast one node's memory is read."""
    cpus = {node.id: [core[0] for core in node.cores] for node in readers}
    touching = cpus.get(memory.id) or next(iter(cpus.values()))
    order = {"node": memory.id, "bytes": size, "touching": touching, "seconds": seconds}
    order["readers"] = list(cpus.items())
    every = format_id_list(cpu for own in cpus.values() for cpu in own)
    reading = python_command("numoe.worker.placing.read_speed", json.dumps(order))
    command = python_command("numoe.worker.placing.binding", str(memory.id), every, *reading)
    return _MeasuringProcess(command, f"node {memory.id}'s memory")


class _MeasuringProcess:
    """One measuring process; killed with what it holds when the block ends."""

    def __init__(self, command: list[str], what: str) -> None:
        self._command, self._what, self._late = command, what, False

    def __enter__(self) -> _MeasuringProcess:
        pipe = subprocess.PIPE
        self._errors = open_errors()
        try:
            self._process = subprocess.Popen(self._command, stdin=pipe, stdout=pipe, stderr=self._errors, text=True)
        except BaseException:
            self._errors.close()
            raise
        return self

    def await_ready(self) -> None:
        """Wait until it has imported and compiled all it needs."""
        assert self._process.stdout is not None
        with self._deadline():
            ready = self._process.stdout.readline()
        if not ready:
            self._process.wait()
            self._fail()

    def answer(self) -> dict[str, Any]:
        """Let it measure, and wait for the figures."""
        with self._deadline():
            out, _ = self._process.communicate("go\n")
        if self._process.returncode != 0 or not out:
            self._fail()
        found: dict[str, Any] = json.loads(out)
        return found

    @contextmanager
    def _deadline(self) -> Iterator[None]:
        timer = threading.Timer(ANSWER_SECONDS, self._give_up)
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _give_up(self) -> None:
        self._late = True
        self._process.kill()

    def _fail(self) -> NoReturn:
        said = last_line(self._errors) or f"the process ended with {self._process.returncode} and no word"
        if self._process.returncode == -signal.SIGKILL:
            said = "the process was killed, most likely for its memory"
        if self._late:
            said = f"it took more than {ANSWER_SECONDS:.0f} s; is the machine overloaded?"
        raise ServiceError(f"measuring {self._what} failed: {said}")

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()
