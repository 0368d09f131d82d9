"""Where a thread's time inside steps goes, by layer and phase: what `numoe profile` shows. Off, it is one look a wait.

Every phase ends with a wait (team.py), so that two readings of the clock at each wait say all: from the last wait's
end to this wait is work, then comes the wait, first for the threads of the own team, then, in a gather, for other
teams. All of the time inside a step is in one cell or another.

Each thread writes words of its own, all int64, which lie in the arena:

    state   0 level    8 since   16 cell   24 layer   32 event   40 steps   48 inside   56 noted
            64 cells   72 events  80 end  104 beats
    cells   [layers + 1, PHASES] of: ns of work, of waiting for threads, of waiting for workers; the last row: embedding
            and head
    events  [...] of: layer * PHASES + phase, begun, arrived, came, released: when the thread came to the wait, when the
            last of its team had, and when the wait was over, in the clock's nanoseconds

`level` of a step: 0 nothing is noted, 1 cells are, 2 events too: those of the last step of this level stay. `since` is
where the time that is being measured began, `cell`, `layer` and `event` are addresses of what is written next, `cells`,
`events` and `end` those of the arrays. `steps` counts the steps that were noted, `inside` the time inside them, and
`noted` the events of the last step of level 2.

`beats` is no time, but a sign of life: it rises, whatever the level, with every item of work and every look of a wait
that has become long, so that a thread that computes or waits raises it several times a second.
"""

from __future__ import annotations

import numpy as np

from numoe.kernels.cpu.jit import kernel
from numoe.kernels.threads.atomics import atomic_store, long_load, long_store
from numoe.kernels.threads.system_calls import clock_ns

# The phases of a step, by the names of PHASES in protos/profile.py.
EMBED, ATTENTION_NORM, QKV, HEADS, ATTEND, ATTENTION_EXCHANGE, ATTENTION_OUTPUT = range(7)
FEED_FORWARD_NORM, ROUTER, CHOOSE, GATE_UP, EXPERT_EXCHANGE, DOWN, ADD, HEAD, DRAW = range(7, 16)
PHASES = 16

LEVEL, SINCE, CELL, LAYER, EVENT, STEPS, INSIDE, NOTED, CELLS, EVENTS, END = range(0, 88, 8)
BEATS = 104
STATE_BYTES = 128
CELL_BYTES, EVENT_BYTES = 24, 40
_LAYER_BYTES = PHASES * CELL_BYTES
TIME_LINE = 2  # the level at which events are noted


@kernel
def _add(place: int, value: int) -> None:
    long_store(place, long_load(place) + value)


@kernel
def begin_profile(profile: int, level: int, began: int) -> None:
    """Note, or do not, the step that began now; `profile` is the address of the thread's state."""
    if level != 0:
        long_store(profile + SINCE, began)
        long_store(profile + EVENT, long_load(profile + (EVENTS if level == TIME_LINE else END)))
    long_store(profile + LEVEL, level)


@kernel
def beat(profile: int) -> None:
    """Give a sign of life."""
    _add(profile + BEATS, 1)


@kernel
def enter_layer(profile: int, layer: int) -> None:
    """What follows belongs to this layer; the number of layers stands for what belongs to none."""
    if long_load(profile + LEVEL) != 0:
        long_store(profile + LAYER, long_load(profile + CELLS) + layer * _LAYER_BYTES)


@kernel
def enter(profile: int, phase: int) -> None:
    """What the thread does from its last wait on belongs to this phase."""
    if long_load(profile + LEVEL) != 0:
        long_store(profile + CELL, long_load(profile + LAYER) + phase * CELL_BYTES)


@kernel
def note_wait(profile: int, arrived: int, came: int, released: int) -> None:
    """Note a wait that is over, and the work before it; called only while the level is not 0."""
    since, cell = long_load(profile + SINCE), long_load(profile + CELL)
    _add(cell, arrived - since)
    _add(cell + 8, came - arrived)
    _add(cell + 16, released - came)
    event = long_load(profile + EVENT)
    if event < long_load(profile + END):
        long_store(event, (cell - long_load(profile + CELLS)) // CELL_BYTES)
        long_store(event + 8, since)
        long_store(event + 16, arrived)
        long_store(event + 24, came)
        long_store(event + 32, released)
        long_store(profile + EVENT, event + EVENT_BYTES)
    long_store(profile + SINCE, released)


@kernel
def end_profile(profile: int, began: int) -> None:
    """Count the step that began then; what was noted of it can be read once it is counted.

    What came after the last wait, as a rule the waking of others, is work of the last phase.
    """
    level = long_load(profile + LEVEL)
    if level == TIME_LINE:
        long_store(profile + NOTED, (long_load(profile + EVENT) - long_load(profile + EVENTS)) // EVENT_BYTES)
    if level != 0:
        now = clock_ns()
        _add(long_load(profile + CELL), now - long_load(profile + SINCE))
        long_store(profile + SINCE, now)
        _add(profile + INSIDE, now - began)
        atomic_store(profile + STEPS, np.int32(long_load(profile + STEPS) + 1))
