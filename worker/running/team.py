"""The threads of a worker, pinned as a rule, each inside the compiled step until the group ends."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from numoe.kernels.records import Constants, Memory, ShardSizes, StepInput, Weights
from numoe.kernels.step.step import serve_steps
from numoe.kernels.threads.team import Team, abort_all
from numoe.kernels.threads.waiting import StepAborted
from numoe.model.planning.assignment import WorkerAssignment
from numoe.protos.arena import ABORT, DONE, STEP, STEP_SLEEPERS, TEAM_WORDS
from numoe.protos.profile import THREAD_ID
from numoe.worker.placing.thread_groups import membership, team_words, thread_groups

IDLE_SPINS_FACTOR = 4  # the coordinator needs 0.1 to 0.3 ms between steps: spin that long before sleeping


class ThreadTeam:
    """Starts one thread per CPU of the shard, and calls `fail` if one of them ends for any reason but an abort."""

    def __init__(
        self,
        assignment: WorkerAssignment,
        arena: NDArray[np.uint8],
        sizes: ShardSizes,
        constants: Constants,
        weights: Weights,
        memory: Memory,
        step: StepInput,
        states: NDArray[np.int64],  # [threads, STATE_WORDS] in the arena: what each notes of its time
        fail: Callable[[BaseException], None],
    ) -> None:
        self._assignment, self._arena, self._fail = assignment, arena, fail
        self._groups = thread_groups(assignment.shard.cpus)
        self._words = team_words(self._groups)
        self._states = states
        self._arguments = (sizes, constants, weights, memory, step)
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
