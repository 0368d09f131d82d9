"""What a profile is made of: the phases of a step, the words that each thread writes of its time, and what is read.

kernels/threads/profile.py draws the words and writes them; it repeats these numbers, as kernels import nothing of ours,
and a test holds the two together. Phases come in this order in a layer; embedding and head belong to no layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PHASES = (
    "embed",  # the residual stream of each token, and what begins a step
    "attention_norm",
    "qkv",
    "heads",  # norm and rotation of queries and keys; keys and values are put into the cache
    "attend",
    "attention_exchange",  # blocks that other workers made are copied
    "attention_output",
    "feed_forward_norm",
    "router",
    "choose",  # experts for each token, which are packed by expert; of a lone token within "router"
    "gate_up",
    "expert_exchange",  # as attention_exchange
    "down",
    "add",  # of the experts' outputs to the residual stream
    "head",
    "draw",
)

# What they are for, in the order in which people look for them.
GROUPS: Mapping[str, tuple[str, ...]] = {
    "attention": ("attention_norm", "qkv", "heads", "attend", "attention_output"),
    "router": ("feed_forward_norm", "router", "choose"),
    "experts": ("gate_up", "down", "add"),
    "exchanges": ("attention_exchange", "expert_exchange"),
    "head": ("head", "draw"),
    "embedding": ("embed",),
}

# What a thread does with its time, of each phase.
WORK, FOR_THREADS, FOR_WORKERS = range(3)

# Levels of a step: what threads note of it.
NOTHING, TIMES, TIME_LINE = range(3)

STATE_WORDS, EVENT_WORDS = 16, 5
STEPS, INSIDE, NOTED, THREAD_ID, BEATS = 5, 6, 7, 12, 13  # words of a thread's state; THREAD_ID is written by Python


def most_events(layers: int) -> int:
    """Room for the waits of a step: a layer has at most 15, embedding and head 6."""
    return 16 * (layers + 1)


@dataclass(frozen=True, slots=True)
class WorkerProfile:
    """What a worker's threads did in some steps. Times are nanoseconds."""

    worker: int
    node: int
    cells: NDArray[np.int64]  # [threads, layers + 1, PHASES, 3] work, waiting for threads, waiting for workers
    inside: NDArray[np.int64]  # [threads] inside steps
    step_ns: int  # inside steps, as the worker counts for itself, whether it is profiled or not
    weight_bytes: NDArray[np.int64]  # [PHASES] read
    kv_bytes: float  # of decodes: keys and values of all positions before each token
    peak: float  # bytes per second that its memory gives it at most
    events: NDArray[np.int64]  # [events, 6] of the last step: thread, layer * PHASES + phase, and its four times
    instructions: int | None = None  # None: the kernel does not tell
    cycles: int | None = None
    local_loads: int | None = None  # that no cache had, from the worker's own node
    remote_loads: int | None = None
    host: str = ""  # its address; "": the service's own


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes of memory that the cores of one last-level cache moved, all programs' together, as resctrl tells."""

    domain: str
    local: int
    remote: int


@dataclass(frozen=True, slots=True)
class Profile:
    """What all workers did in some steps."""

    layers: int
    steps: int
    tokens: int
    seconds: float  # from the first look to the last
    peak_source: str  # where peaks are from, for people
    workers: tuple[WorkerProfile, ...]
    traffic: tuple[Traffic, ...] = ()
    remarks: tuple[str, ...] = ()  # what the kernel does not tell, and why, a line each
