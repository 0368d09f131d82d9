"""The coordinator's end of the arena: creates it, publishes steps, waits for what the workers drew."""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from numoe.model.machine.memory_policy import DEFAULT_POLICY, MemoryPolicy, place_range
from numoe.model.planning.expert_owners import ExpertOwners
from numoe.protos.arena import ABORT, COUNTERS, DONE, STEP, ArenaLayout
from numoe.protos.mapping import map_memory, shared_memory
from numoe.protos.messages import NO_BLOCK, NOT_DRAWN, NOWHERE, Allowed, Chunk, Step, StepResult
from numoe.protos.profile import NOTHING

_SYS_FUTEX, _FUTEX_WAIT, _FUTEX_WAKE = 202, 0, 1  # x86-64, shared between processes
_ALL = 2**31 - 1
_LIBC = ctypes.CDLL(None, use_errno=True)  # calls release the GIL


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


def _wrap(number: int) -> int:
    """As an int32 that overflows."""
    return (number + 2**31) % 2**32 - 2**31


@dataclass(slots=True)
class _Room:
    """How much of the arrays that samples share is taken."""

    seen: int = 0
    biases: int = 0


class StepChannel:
    """One arena and the step in flight; used by one thread at a time but for `abort` and the counters."""

    def __init__(
        self,
        layout: ArenaLayout,
        experts: Iterable[ExpertOwners | None] = (),
        policies: Iterable[MemoryPolicy] = (),
    ) -> None:
        """`policies`: how each worker's part is to lie; none: where it is touched first.

        Raises MemoryError: there is no room for the arena.
        """
        self.descriptor = shared_memory("numoe-arena", layout.bytes)
        self._layout = layout
        try:
            self._arena = np.frombuffer(map_memory(self.descriptor, layout.bytes, mmap.MAP_SHARED), np.uint8)
        except MemoryError:
            os.close(self.descriptor)
            raise
        self._words = self._arena[: 4 * 1024].view(np.int32)
        self._draws = layout.draws
        for policy, (first, last) in zip(policies, layout.parts, strict=False):
            self._place(first, last - first, policy)
        self._published = 0
        self.profile_level = NOTHING  # what threads note of the steps to come, see protos/profile.py
        self.noted_positions = 0  # that decoded tokens saw, in the steps of which something was noted
        self._step = Step(0, ())
        self._started = 0.0
        self._view = {name: layout.view(self._arena, name) for name in layout.fields if "." not in name}
        for layer, owners in enumerate(experts):
            if owners is not None:
                self.share_experts(layer, owners)

    def share_experts(self, layer: int, owners: ExpertOwners) -> None:
        """Let the next step find a layer's experts with these workers; no step may be running."""
        self._view["expert_holders"][layer] = owners.masks

    def _place(self, first: int, size: int, policy: MemoryPolicy) -> None:
        """A policy of the memory itself, so that a look at a counter puts no page here; where refused, first touch."""
        if policy != DEFAULT_POLICY:
            with suppress(OSError):
                place_range(self._arena.ctypes.data + first, size, policy)

    def publish(self, step: Step, hidden: NDArray[np.float32] | None = None) -> None:
        """Write the step into the slot and wake the workers; the last one must be done.

        `hidden`: [T, D] what the layers before these made of its tokens; None: there are none before.
        """
        if hidden is not None:
            self._view["hidden_in"][: len(hidden)] = hidden
        view, token, sample, room = self._view, 0, 0, _Room()
        allowed: dict[int, Allowed] = {}
        for row, chunk in enumerate(step.chunks):
            count = len(chunk.token_ids)
            view["token_ids"][token : token + count] = chunk.token_ids
            view["positions"][token : token + count] = np.arange(chunk.first_position, chunk.first_position + count)
            view["token_sequence"][token : token + count] = row
            view["kv_tables"][row, : len(chunk.kv_blocks)] = chunk.kv_blocks
            view["source_blocks"][row] = chunk.source_block
            view["fewest_experts"][row] = chunk.experts.fewest
            view["expert_threshold"][row] = chunk.experts.threshold
            token += count
            if chunk.sampling is not None and self._draws:
                last = sample + chunk.draws - 1
                self._write_sample(last, chunk, token - 1, room)
                if chunk.allowed is not None:
                    allowed[last] = chunk.allowed
                if chunk.draws > 1:
                    self._write_earlier(sample, last)
                if len(chunk.given):
                    view["samples"]["given"][sample : last + 1] = chunk.given
                sample = last + 1
        copies = sum(chunk.source_block != NO_BLOCK for chunk in step.chunks)
        view["header"][:] = token, len(step.chunks), sample, self.profile_level, step.checked, copies
        view["not_finite"][0] = NOWHERE
        view["masks_ready"][0] = 0
        if self.profile_level != NOTHING:
            self.noted_positions += sum(c.first_position + 1 for c in step.chunks if len(c.token_ids) == 1)
        self._step, self._started = step, time.monotonic()
        self._published += 1
        self._words[STEP // 4] = _wrap(self._published)
        self._wake(STEP)
        if allowed:
            self._tell_allowed(allowed)

    def _tell_allowed(self, allowed: dict[int, Allowed]) -> None:
        """Write what samples may draw while the workers run the step, at whose end they wait for it."""
        for number, ask in allowed.items():
            row, words = self._view["allowed"][number], ask()
            row[: len(words)], row[len(words) :] = words, 0
        self._view["masks_ready"][0] = 1
        self._wake(self._layout.fields["masks_ready"].offset)

    def _write_sample(self, number: int, chunk: Chunk, token: int, room: _Room) -> None:
        sampling, biases, view = chunk.sampling, chunk.biases, self._view
        assert sampling is not None
        seen = slice(room.seen, room.seen + (len(chunk.seen_tokens) if sampling.penalises else 0))
        if seen.stop > seen.start:
            view["seen_tokens"][seen], view["seen_counts"][seen] = chunk.seen_tokens, chunk.seen_counts
        biased = slice(room.biases, room.biases + len(biases.tokens))
        if biased.stop > biased.start:
            view["bias_tokens"][biased], view["bias_values"][biased] = biases.tokens, biases.values
        room.seen, room.biases = seen.stop, biased.stop
        view["samples"][number] = (
            token,
            sampling.top_k,
            seen.start,
            seen.stop - seen.start,
            biased.start,
            len(biases.tokens) - biases.repeats,
            biases.repeats,
            chunk.allowed is not None,
            chunk.top,
            NOT_DRAWN,
            sampling.temperature,
            sampling.top_p,
            sampling.min_p,
            sampling.repetition_penalty,
            sampling.frequency_penalty,
            sampling.presence_penalty,
            sampling.typical_p,
            sampling.top_n_sigma,
            sampling.xtc_probability,
            sampling.xtc_threshold,
            sampling.temperature_last,
            chunk.first_position + len(chunk.token_ids),
            sampling.seed % 2**64,
        )

    def _write_earlier(self, first: int, last: int) -> None:
        """Draw after the tokens before the one of sample `last` too, as after that."""
        samples = self._view["samples"]
        behind = np.arange(first - last, 0)
        samples[first:last] = samples[last]
        for field in ("token", "position"):
            samples[field][first:last] = samples[field][last] + behind

    def wait(self, seconds: float) -> StepResult | None:
        """What the step drew; None if it is not done within `seconds`."""
        end = time.monotonic() + seconds
        while (done := int(self._words[DONE // 4])) != _wrap(self._published):
            left = end - time.monotonic()
            if left <= 0:
                return None
            self._sleep_on(DONE, done, left)
        samples, top = int(self._view["header"][2]), max((chunk.top for chunk in self._step.chunks), default=0)
        return StepResult(
            number=self._step.number,
            token_ids=self._view["drawn_tokens"][:samples].copy(),
            logprobs=self._view["drawn_logprobs"][:samples].copy(),
            experts_run=self._view["experts_run"][: len(self._step.chunks)].copy(),
            seconds=time.monotonic() - self._started,
            not_finite=int(self._view["not_finite"][0]),
            top_tokens=self._view["top_tokens"][:samples, :top].copy(),
            top_logprobs=self._view["top_logprobs"][:samples, :top].copy(),
        )

    def hidden(self) -> NDArray[np.float32]:  # [T, D]
        """What the last layer made of the last step's tokens, put together from all workers."""
        tokens, workers = int(self._view["header"][0]), range(len(self._layout.parts))
        parts = [self._layout.view(self._arena, f"worker{worker}.hidden")[:tokens] for worker in workers]
        return np.concatenate(parts, axis=1)

    def logits(self, rows: slice = slice(None)) -> NDArray[np.float32]:  # [R, V rounded up to 16]
        """The logits that the last step drew from, put together from all workers; for measuring, not for serving."""
        return np.concatenate([part[rows] for part in self._logits()], axis=1)

    def logits_of(self, token_ids: NDArray[np.int32]) -> NDArray[np.float32]:  # [R], [R]
        """Of each row of the logits that of one token."""
        found, first = np.zeros(len(token_ids), np.float32), 0
        for part in self._logits():
            column = token_ids - first
            [own] = np.nonzero((column >= 0) & (column < part.shape[1]))
            found[own] = part[own, column[own]]
            first += part.shape[1]
        return found

    def _logits(self) -> list[NDArray[np.float32]]:  # of each worker [R, v]
        samples, workers = int(self._view["header"][2]), range(len(self._layout.parts))
        return [self._layout.view(self._arena, f"worker{worker}.logits")[:samples] for worker in workers]

    def abort(self) -> None:
        """End every wait of the workers; the arena is of no use afterwards."""
        self._words[ABORT // 4] = 1
        self._wake(STEP)

    def counters(self, worker: int) -> np.void:
        """What a worker has counted, see COUNTERS in protos/arena.py."""
        field = self._layout.view(self._arena, f"worker{worker}.counters")
        assert field.dtype == COUNTERS
        counted: np.void = field[0]
        return counted

    def part(self, worker: int, name: str) -> NDArray[np.int64]:
        """An array of a worker's part, which it may be writing."""
        return self._layout.view(self._arena, f"worker{worker}.{name}")

    @property
    def published(self) -> int:
        """How many steps were published."""
        return self._published

    def expert_hits(self) -> NDArray[np.int64]:  # [L, E]
        """Tokens routed to each expert so far, as worker 0 counts them; all count alike."""
        return self._layout.view(self._arena, "worker0.expert_hits").copy()

    @property
    def idle(self) -> bool:
        """Whether the workers are done with every step that was published."""
        return int(self._words[DONE // 4]) == _wrap(self._published)

    def state(self, worker: int) -> int:
        """STARTING, LOADING, READY or FAILED of protos/arena.py."""
        return int(self._layout.view(self._arena, f"worker{worker}.state")[0])

    def close(self) -> None:
        """Give the descriptor back; the memory goes when the last process that maps it ends."""
        os.close(self.descriptor)

    def _address(self, word: int) -> ctypes.c_void_p:
        return ctypes.c_void_p(self._arena.ctypes.data + word)

    def _wake(self, word: int) -> None:
        _LIBC.syscall(_SYS_FUTEX, self._address(word), _FUTEX_WAKE, _ALL, None, None, 0)

    def _sleep_on(self, word: int, seen: int, seconds: float) -> None:
        pause = _Timespec(int(seconds), int(seconds % 1 * 1e9))
        _LIBC.syscall(_SYS_FUTEX, self._address(word), _FUTEX_WAIT, seen, ctypes.byref(pause), None, 0)
