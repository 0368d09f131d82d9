"""How a thread waits for a word to change, inside a step and between steps.

It spins for a while, then sleeps on the word's futex; `sleepers`, another word, counts who must be woken. Every wait
watches the abort word, and a wait inside a step its deadline: it raises StepAborted or StepTimedOut, and never hangs.
"""

from __future__ import annotations

import numpy as np

from numoe.kernels.cpu.jit import kernel
from numoe.kernels.threads.atomics import atomic_add, atomic_load, long_store, relax
from numoe.kernels.threads.profile import beat
from numoe.kernels.threads.system_calls import clock_ns, futex_wait, offer_core

_SPINS_PER_YIELD = 32


class StepAborted(Exception):
    """The abort word was set while a thread waited."""


class StepTimedOut(Exception):
    """A wait inside a step passed its deadline: another worker is stuck."""


@kernel
def wait_while(
    word: int, seen: np.int32, sleepers: int, abort: int, spins: int, timeout_ns: int, sign: int, profile: int
) -> None:
    """Return once the int32 at `word` is no longer `seen`; a `timeout_ns` of 0 is no deadline.

    At every look after the spinning the thread whose state is at `profile` gives a sign of life, and the int64 at
    `sign`, unless that is 0, is set to the time.

    Raises:
        StepAborted: the int32 at `abort` is no longer 0.
        StepTimedOut: the deadline has passed.
    """
    for _ in range(spins):
        if atomic_load(word) != seen:
            return
        relax()
    started = clock_ns()
    while atomic_load(word) == seen:
        beat(profile)
        if sign != 0:
            long_store(sign, clock_ns())
        if atomic_load(abort) != 0:
            raise StepAborted("the step was aborted")
        if timeout_ns > 0 and clock_ns() - started > timeout_ns:
            raise StepTimedOut("a wait inside a step passed its deadline")
        atomic_add(sleepers, 1)
        futex_wait(word, seen)
        atomic_add(sleepers, -1)


@kernel
def wait_idle(word: int, seen: np.int32, sleepers: int, abort: int, spins: int, sign: int, profile: int) -> None:
    """Wait between steps: as `wait_while` without a deadline, but offer the core to others while spinning.

    The others are before all the coordinator. A step's end wakes it, and where threads spin on every core it would have
    to wait for a time slice of theirs: with 2 threads on 2 cores it takes 0.13 ms from one step to the next, and took
    0.32.
    """
    for spin in range(spins):
        if atomic_load(word) != seen:
            return
        relax()
        if spin % _SPINS_PER_YIELD == 0:
            beat(profile)  # an offer that is taken lasts some milliseconds, and there are thousands
            offer_core()
    wait_while(word, seen, sleepers, abort, 0, 0, sign, profile)
