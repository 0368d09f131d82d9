"""The threads of a worker, pinned as a rule, each inside the compiled step until the group ends."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from numoe.kernels.step.step import serve_steps
from numoe.kernels.threads.team import Team, abort_all
from numoe.kernels.threads.waiting import StepAborted
from numoe.model.gguf.tensors import TensorType
from numoe.model.planning.assignment import WorkerAssignment
from numoe.protos.arena import ABORT, DONE, STEP, STEP_SLEEPERS, TEAM_WORDS, ArenaLayout
from numoe.protos.profile import THREAD_ID
from numoe.worker.loading.loader import LoadedWeights
from numoe.worker.placing.thread_groups import membership, team_words, thread_groups
from numoe.worker.running.step_memory import memory_of, profile_states, step_input
from numoe.worker.running.step_records import constants_of, formats_of, sizes_of, weights_of

IDLE_SPINS_FACTOR = 4  # the coordinator needs 0.1 to 0.3 ms between steps: spin that long before sleeping


class ThreadTeam:
    """Starts one thread per CPU of the shard, and calls `fail` if one of them ends for any reason but an abort."""

    def __init__(
        self,
        assignment: WorkerAssignment,
        layout: ArenaLayout,
        arena: NDArray[np.uint8],
        loaded: LoadedWeights,
        kv: NDArray[np.uint8],  # all of the KV cache
        fail: Callable[[BaseException], None],
    ) -> None:
        kv_types, memory = assignment.kv_types, memory_of(assignment, layout, arena, kv)
        formats, values = formats_of(assignment.spec, kv_types), kv_types.values == TensorType.Q8_0
        self._assignment, self._arena, self._fail = assignment, arena, fail
        self._groups = thread_groups(assignment.shard.cpus)
        self._words = team_words(self._groups)
        self._states = profile_states(assignment, layout, arena)
        self._arguments = (
            sizes_of(assignment),
            constants_of(assignment),
            weights_of(loaded, formats, values=values),
            memory,
            step_input(layout, arena),
        )
        self._signs = memory.counters["wait_ns"].ctypes.data  # seen_ns lies behind it
        self.threads = [
            threading.Thread(target=self._run, args=(number,), name=f"numoe-{assignment.worker}.{number}", daemon=True)
            for number in range(len(assignment.shard.cpus))
        ]

    def start(self) -> None:
        """Let all threads run."""
        for thread in self.threads:
            thread.start()

    def abort(self) -> None:
        """End every wait of the whole group."""
        base = self._arena.ctypes.data
        abort_all(base + ABORT, base + STEP, base + TEAM_WORDS)

    def join(self, timeout: float) -> None:
        """Wait until all threads have ended, for so many seconds each."""
        for thread in self.threads:
            thread.join(timeout)

    def _team(self, number: int) -> Team:
        assignment, base = self._assignment, self._arena.ctypes.data
        return Team(
            **membership(self._words, self._groups, number),
            shared=base + TEAM_WORDS,
            abort=base + ABORT,
            signs=self._signs,
            profile=self._states[number].ctypes.data,
            workers=len(assignment.plan.shards),
            spins=assignment.spins,
            timeout_ns=int(assignment.step_timeout_seconds * 1e9),
        )

    def _run(self, number: int) -> None:
        if self._assignment.shard.pinned:
            os.sched_setaffinity(0, {self._assignment.shard.cpus[number]})
        self._states[number, THREAD_ID] = threading.get_native_id()
        base = self._arena.ctypes.data
        try:
            serve_steps(
                self._team(number),
                *self._arguments,
                base + STEP,
                base + STEP_SLEEPERS,
                base + DONE,
                IDLE_SPINS_FACTOR * self._assignment.spins,
            )
        except StepAborted:
            return
        except BaseException as error:
            self._fail(error)
