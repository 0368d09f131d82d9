"""The arena: one block of shared memory per host, seen by the coordinator and all workers; this is its whole layout.

    +--------------------------------------------------------------------------------------------+ 0
    | control    abort | step | step_sleepers | done | team words          one cache line each     |
    +--------------------------------------------------------------------------------------------+ page
    | step slot  header | token_ids | hidden_in | positions | token_sequence | kv_tables |         |  coordinator writes
    |            source_blocks | fewest_experts | expert_threshold | samples | seen_* | bias_* |   |
    |            allowed | masks_ready | expert_holders                                            |
    | results    drawn_tokens | drawn_logprobs | top_* | experts_run | not_finite                  |  workers write
    | moves      transfer                                                                          |  one worker writes
    +--------------------------------------------------------------------------------------------+ page
    | worker 0   state | counters | step_bytes | chosen_bytes | expert_hits | profile_state |      |  worker 0 writes,
    |            profile_cells | profile_events | embedding | hidden | attention | intermediate |  |  all read
    |            output | normed_integer | normed_float | chosen | shares | logits                 |
    +--------------------------------------------------------------------------------------------+ page
    | worker 1   ...                                              placed on worker 1's NUMA node   |
    +--------------------------------------------------------------------------------------------+

States of the step slot, and who may move it on:

    idle      done == step      only the coordinator touches the slot
    running   done == step - 1  workers read the slot and write the results; nobody else touches either

Order of writes: the coordinator fills the slot, then adds one to `step`, then wakes its sleepers. What a sample may
draw is the exception: `allowed` is written while the workers run, then `masks_ready` set, and its sleepers are woken;
who draws such a sample waits for that. Workers gather after
the last draw, then worker 0 adds one to `done` and wakes the coordinator. Both numbers are int32 and wrap. `abort` goes
from 0 to 1 once, by anybody who finds the group broken or wants it to end, and every wait then ends; a group is never
reused.

`state` of a worker: 0 starting, 1 loading, 2 ready, 3 failed. The block is a memfd: nothing of it outlives its
processes.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from numoe.protos.locality import PAGE
from numoe.protos.messages import BIAS_ROOM, MOST_ALTERNATIVES, StepLimits
from numoe.protos.profile import EVENT_WORDS, PHASES, STATE_WORDS, most_events

LINE = 64

# Control words: byte offsets, each an int32 on a cache line of its own (team words: drawn in kernels/threads/team.py).
ABORT, STEP, STEP_SLEEPERS, DONE, TEAM_WORDS = 0, 64, 128, 192, 256

STARTING, LOADING, READY, FAILED = range(4)

# How one token is drawn; the fields are those of messages.Sampling.
SAMPLE = np.dtype(
    [
        ("token", np.int32),  # index in the step of the token whose logits are used
        ("top_k", np.int32),
        ("first_seen", np.int32),  # the range of seen_tokens that penalties apply to
        ("seen", np.int32),
        ("first_bias", np.int32),  # the range of bias_tokens that are added before penalties
        ("biases", np.int32),
        ("repeats", np.int32),  # behind them those that are added after penalties
        ("masked", np.int32),  # 1: only tokens of its row of `allowed` may be drawn
        ("top", np.int32),  # how many of the likeliest tokens are told
        ("given", np.int32),  # the token whose probability is told, and none is drawn; NOT_DRAWN: one is
        ("temperature", np.float32),
        ("top_p", np.float32),
        ("min_p", np.float32),
        ("repetition_penalty", np.float32),
        ("frequency_penalty", np.float32),
        ("presence_penalty", np.float32),
        ("typical_p", np.float32),
        ("top_n_sigma", np.float32),
        ("xtc_probability", np.float32),
        ("xtc_threshold", np.float32),
        ("temperature_last", np.int32),
        ("position", np.int64),  # of the token to be drawn
        ("seed", np.uint64),
    ],
    align=True,
)

# What a worker counts; only it writes them, anybody may read them at any time.
COUNTERS = np.dtype(
    [
        ("steps", np.int64),
        ("tokens", np.int64),
        ("bytes_read", np.int64),  # of weights, by steps that are done
        ("bytes_begun", np.int64),  # of weights, the step that runs included
        ("step_ns", np.int64),  # time inside steps
        ("wait_ns", np.int64),  # of it, time in which all threads waited for other workers
        ("seen_ns", np.int64),  # when it last came to a gather or looked up from a wait, in CLOCK_MONOTONIC
        ("loaded_bytes", np.int64),  # of weights, while loading
        ("total_bytes", np.int64),  # of weights to load
    ]
)


@dataclass(frozen=True, slots=True)
class PartShape:
    """How large one worker's parts of the arena's arrays are."""

    width: int  # d
    attention_width: int  # h*K
    expert_width: int  # f, or F where a layer's experts are whole
    output_width: int  # D where a layer's experts are whole, else 0
    vocabulary: int  # v
    threads: int = 1


@dataclass(frozen=True, slots=True)
class ArenaShape:
    """All that the layout depends on."""

    limits: StepLimits
    layers: int
    width: int  # D
    experts: int  # E
    active_experts: int  # A
    parts: tuple[PartShape, ...]
    transfer_bytes: int = 0  # for experts on their way from worker to worker
    embeds: bool = True  # steps begin with tokens; else with rows of the residual stream


def dense_columns(tokens: int) -> int:
    """Columns that `tokens` tokens take in groups of 1, 2, 4, 8 or 12: at most 1 is padding."""
    return tokens + 1


def expert_columns(tokens: int, active: int, experts: int) -> int:
    """Columns that tokens take if each goes to `active` experts: at most 1 of padding for each expert."""
    return tokens * active + min(experts, tokens * active)


def whole_panels(rows: int) -> int:
    """`rows` rounded up to whole panels of 16."""
    return (rows + 15) // 16 * 16


def mask_words(vocabulary: int) -> int:
    """Words of 32 bits, one for each token, in the whole groups of 128 that a draw looks at (kernels/records.py)."""
    return 4 * -(-vocabulary // 128)


@dataclass(frozen=True, slots=True)
class Field:
    """One array of the arena."""

    offset: int  # bytes
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Its size."""
        return prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class ArenaLayout:
    """Where each array lies. Names of a worker's arrays are prefixed, e.g. "worker1.hidden"."""

    fields: dict[str, Field]
    parts: tuple[tuple[int, int], ...]  # first and last byte + 1 of each worker's part, whole pages
    bytes: int

    @property
    def draws(self) -> bool:
        """Whether tokens are drawn from what the last layer makes."""
        return any(field.bytes for name, field in self.fields.items() if name.endswith(".logits"))

    def view(self, memory: NDArray[np.uint8], name: str) -> NDArray[Any]:
        """The array `name` of the arena mapped as `memory`."""
        field = self.fields[name]
        return memory[field.offset : field.offset + field.bytes].view(field.dtype).reshape(field.shape)


def _step_slot(shape: ArenaShape) -> list[tuple[str, Any, tuple[int, ...]]]:
    limits = shape.limits
    tables = -(-limits.context_tokens // limits.block_positions)
    seen = limits.sequences * limits.context_tokens
    return [
        # tokens, sequences, samples, what is noted of the step (profile.py), if checked, copies
        ("header", np.int32, (6,)),
        ("token_ids", np.int32, (limits.step_tokens,)),
        ("hidden_in", np.float32, (0 if shape.embeds else limits.step_tokens, shape.width)),
        ("positions", np.int32, (limits.step_tokens,)),
        ("token_sequence", np.int32, (limits.step_tokens,)),  # row of kv_tables
        ("kv_tables", np.int32, (limits.sequences, tables)),
        ("source_blocks", np.int32, (limits.sequences,)),  # copied to where each one's positions begin; NO_BLOCK
        ("fewest_experts", np.int32, (limits.sequences,)),
        ("expert_threshold", np.float32, (limits.sequences,)),
        ("samples", SAMPLE, (limits.sequences,)),
        ("seen_tokens", np.int32, (seen,)),
        ("seen_counts", np.int32, (seen,)),
        ("bias_tokens", np.int32, (limits.sequences * BIAS_ROOM,)),
        ("bias_values", np.float32, (limits.sequences * BIAS_ROOM,)),
        ("allowed", np.uint32, (limits.sequences, mask_words(sum(part.vocabulary for part in shape.parts)))),
        ("masks_ready", np.int32, (2 * LINE // 4,)),  # a line each: 1 once they are written, and who sleeps until then
        ("expert_holders", np.int32, (shape.layers, shape.experts)),
        ("drawn_tokens", np.int32, (limits.sequences,)),
        ("drawn_logprobs", np.float32, (limits.sequences,)),
        ("top_tokens", np.int32, (limits.sequences, MOST_ALTERNATIVES)),
        ("top_logprobs", np.float32, (limits.sequences, MOST_ALTERNATIVES)),
        ("experts_run", np.int64, (limits.sequences,)),
        ("not_finite", np.int32, (1,)),  # of a checked step, see messages.place_of
        ("transfer", np.uint8, (shape.transfer_bytes,)),
    ]


def _worker_part(shape: ArenaShape, part: PartShape) -> list[tuple[str, Any, tuple[int, ...]]]:
    limits = shape.limits
    tokens = dense_columns(limits.step_tokens)
    columns = expert_columns(limits.step_tokens, shape.active_experts, shape.experts)
    return [
        ("state", np.int32, (1,)),
        ("counters", COUNTERS, (1,)),
        ("step_bytes", np.int64, (len(PHASES),)),  # of weights that every step reads, by phase
        ("chosen_bytes", np.int64, (len(PHASES),)),  # of weights that steps read beyond, so far
        ("expert_hits", np.int64, (shape.layers, shape.experts)),
        ("profile_state", np.int64, (part.threads, STATE_WORDS)),  # drawn in kernels/threads/profile.py
        ("profile_cells", np.int64, (part.threads, shape.layers + 1, len(PHASES), 3)),
        ("profile_events", np.int64, (part.threads, most_events(shape.layers), EVENT_WORDS)),
        ("embedding", np.float32, (limits.step_tokens if shape.embeds else 0, shape.width)),
        ("hidden", np.float32, (tokens, part.width)),
        # Groups and columns as in kernels/matmul/groups.py: at most 4 bytes a value, most of them rounded to less.
        ("attention", np.float32, (tokens, part.attention_width)),
        ("intermediate", np.float32, (columns, part.expert_width)),
        ("output", np.float32, (columns, part.output_width)),
        ("normed_integer", np.float32, (limits.step_tokens, shape.width)),
        ("normed_float", np.float32, (limits.step_tokens, shape.width)),
        ("chosen", np.int32, (limits.step_tokens, shape.active_experts)),
        ("shares", np.float32, (limits.step_tokens, shape.active_experts)),
        ("logits", np.float32, (dense_columns(limits.sequences), whole_panels(part.vocabulary))),
    ]


def arena_layout(shape: ArenaShape) -> ArenaLayout:
    """Lay the arena out: every array on cache lines of its own, every worker's part on pages of its own."""
    fields: dict[str, Field] = {}
    offset = PAGE

    def place(prefix: str, arrays: list[tuple[str, Any, tuple[int, ...]]]) -> None:
        nonlocal offset
        for name, dtype, extent in arrays:
            fields[prefix + name] = field = Field(offset, np.dtype(dtype), extent)
            offset = -(-(offset + field.bytes) // LINE) * LINE
        offset = -(-offset // PAGE) * PAGE

    place("", _step_slot(shape))
    parts = []
    for worker, part in enumerate(shape.parts):
        start = offset
        place(f"worker{worker}.", _worker_part(shape, part))
        parts.append((start, offset))
    return ArenaLayout(fields, tuple(parts), offset)
