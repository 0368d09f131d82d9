"""A thread that plays all workers of a group: maps the arena, takes every step, draws what it is told to."""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from numoe.coordinator.workers.step_channel import StepChannel
from numoe.kernels.threads.system_calls import futex_wake
from numoe.kernels.threads.team import abort_all
from numoe.kernels.threads.waiting import wait_while
from numoe.protos.arena import ABORT, DONE, STEP, STEP_SLEEPERS, TEAM_WORDS, ArenaLayout

Views = dict[str, NDArray[Any]]  # the step slot's arrays by name


class StepPlayer:
    """Its own mapping of the arena; `play` sees the slot while the step runs, and writes the results."""

    def __init__(self, channel: StepChannel, layout: ArenaLayout, play: Callable[[Views], None]) -> None:
        descriptor = os.dup(channel.descriptor)
        self.memory = np.frombuffer(mmap.mmap(descriptor, layout.bytes), np.uint8)
        os.close(descriptor)
        self.slot = {name: layout.view(self.memory, name) for name in layout.fields if "." not in name}
        self.words = self.memory[:1024].view(np.int32)
        self.steps = 0
        self.profile = layout.view(self.memory, "worker0.profile_state").ctypes.data
        self.ended_by: BaseException | None = None
        self._play, self._seen = play, self.words[STEP // 4]
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        base, seen = self.memory.ctypes.data, self._seen
        try:
            while True:
                wait_while(base + STEP, seen, base + STEP_SLEEPERS, base + ABORT, 0, 0, 0, self.profile)
                seen = self.words[STEP // 4]
                self._play(self.slot)
                self.steps += 1
                with np.errstate(over="ignore"):
                    self.words[DONE // 4] += np.int32(1)
                futex_wake(base + DONE)
        except BaseException as error:
            self.ended_by = error

    def abort(self) -> None:
        base = self.memory.ctypes.data
        abort_all(base + ABORT, base + STEP, base + TEAM_WORDS)


@contextmanager
def playing(channel: StepChannel, layout: ArenaLayout, play: Callable[[Views], None]) -> Iterator[StepPlayer]:
    """Takes steps until the end of the block."""
    player = StepPlayer(channel, layout, play)
    player.thread.start()
    try:
        yield player
    finally:
        player.abort()
        player.thread.join()
