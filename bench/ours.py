"""Speeds of a worker group, measured as llama-bench and llama-batched-bench measure theirs.

Steps are those of coordinator/measuring/steps.py. The cache before a deep prompt or decode is not computed: it holds
zeros (or what was there), written when the worker started, so that it is read from memory like any other; attention
takes the same time whatever the values are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.disturbance import busy
from bench.figures import OURS, Figure, decode_name, disturbed_name, prompt_name, sampled_name, streams_name
from bench.group import PATIENCE_SECONDS, worker_group
from numoe.coordinator.measuring.peaks import operations_per_token
from numoe.coordinator.measuring.steps import GREEDY, Measurement, Steps
from numoe.coordinator.measuring.workers import MeasuredWorkers
from numoe.coordinator.settings import EngineSettings, KvType, kv_types
from numoe.model.planning.plan_size import kv_position_bytes
from numoe.protos.messages import Sampling

QWEN3 = Sampling(temperature=0.6, top_p=0.95, top_k=20)  # as generation_config.json of Qwen3-235B-A22B has them
WARM_TOKENS = 8  # decoded before anything is timed


@dataclass(frozen=True, slots=True)
class Layout:
    """Worker processes, and computing threads of each; 0 threads: all cores, shared out."""

    workers: int
    threads: int

    def __str__(self) -> str:
        return f"{self.workers}x{self.threads or 'all'}"


@dataclass(frozen=True, slots=True)
class Workload:
    """What is measured of every engine; lengths in tokens."""

    prompt: int = 512
    decode: int = 128
    depths: tuple[int, ...] = (4096, 16384, 32768)
    streams: tuple[int, ...] = (1, 4, 16, 32)
    stream_prompt: int = 64
    stream_decode: int = 32
    alike: bool = False  # streams also with the same tokens in all
    disturbed_decode: int = 16
    disturbed_cpu: int | None = None  # None: nothing disturbs
    repetitions: int = 2  # of each measurement in a round
    kv_type: KvType = "f16"

    @property
    def deepest(self) -> int:
        """Positions of the longest sequence."""
        stream = self.stream_prompt + self.stream_decode
        return max(max(self.depths, default=0) + max(self.prompt, self.decode), stream, WARM_TOKENS)

    def settings(self) -> EngineSettings:
        """Room for the deepest sequence, and for all streams side by side."""
        kv_tokens = max(self.deepest, max(self.streams, default=1) * self.stream_room)
        return EngineSettings(
            step_tokens=max(512, self.prompt),
            sequences=max(self.streams, default=1),
            context_tokens=self.deepest,
            kv_tokens=-(-kv_tokens // 64) * 64,
            kv_type=self.kv_type,
        )

    @property
    def stream_room(self) -> int:
        """Positions kept for a stream, in whole KV blocks."""
        return -(-(self.stream_prompt + self.stream_decode) // 64) * 64


class Measured:
    """A worker group under measurement."""

    def __init__(self, measured: MeasuredWorkers, workload: Workload) -> None:
        self._steps = Steps(measured.group, measured.spec.vocabulary, PATIENCE_SECONDS)
        self._workload = workload

    def warm_up(self) -> None:
        """Run both kinds of step once, without timing them."""
        self.prompt()
        self.decode(WARM_TOKENS)

    def prompt(self, depth: int = 0) -> Measurement:
        """Measure one prompt after `depth` other tokens."""
        return self._steps.prompt(self._steps.random_tokens(self._workload.prompt), depth)

    def decode(self, count: int, depth: int = 0, sampling: Sampling = GREEDY) -> Measurement:
        """Measure `count` tokens after `depth` others."""
        return self._steps.decode(self._steps.random_tokens(count), depth, sampling=sampling)

    def streams(self, count: int, *, alike: bool = False, sampling: Sampling = GREEDY) -> Measurement:
        """Measure the decoded tokens of `count` sequences, after their prompts; alike: all see the same tokens."""
        prompt, length, room = self._workload.stream_prompt, self._workload.stream_decode, self._workload.stream_room
        tokens = self._steps.random_tokens(prompt + length, 1 if alike else count)
        if alike:
            tokens = np.repeat(tokens, count, axis=0)
        self._steps.prompt(tokens[:, :prompt], 0, room)
        return self._steps.decode(tokens[:, prompt:], prompt, room, sampling)


@dataclass(frozen=True, slots=True)
class _Plan:
    """One row of the table to be: what to run, for how many tokens, seeing how many positions on average."""

    metric: str
    run: Callable[[], Measurement]
    tokens: int
    positions: float = 0.0
    prompt: bool = False


def _plans(measured: Measured, work: Workload, *, everything: bool) -> Iterator[_Plan]:
    yield _Plan(prompt_name(work.prompt), measured.prompt, work.prompt, prompt=True)
    yield _Plan(decode_name(work.decode), lambda: measured.decode(work.decode), work.decode, work.decode / 2)
    if not everything:
        return
    for depth in work.depths:
        yield _Plan(
            prompt_name(work.prompt, depth),
            lambda depth=depth: measured.prompt(depth),  # type: ignore[misc]
            work.prompt,
            prompt=True,
        )
        yield _Plan(
            decode_name(work.decode, depth),
            lambda depth=depth: measured.decode(work.decode, depth),  # type: ignore[misc]
            work.decode,
            depth + work.decode / 2,
        )
    unlike = [(count, False) for count in work.streams]
    for count, alike in unlike + [(count, True) for count in work.streams if work.alike and count > 1]:
        yield _Plan(
            streams_name(count, work.stream_decode, alike=alike),
            lambda count=count, alike=alike: measured.streams(count, alike=alike),  # type: ignore[misc]
            count * work.stream_decode,
            work.stream_prompt + work.stream_decode / 2,
        )
    yield _Plan(
        sampled_name(decode_name(work.decode)),
        lambda: measured.decode(work.decode, sampling=QWEN3),
        work.decode,
        work.decode / 2,
    )
    for count in work.streams:
        yield _Plan(
            sampled_name(streams_name(count, work.stream_decode)),
            lambda count=count: measured.streams(count, sampling=QWEN3),  # type: ignore[misc]
            count * work.stream_decode,
            work.stream_prompt + work.stream_decode / 2,
        )


def measure_ours(
    case: str, model: Path, layout: Layout, work: Workload, round_number: int, *, everything: bool
) -> list[Figure]:
    """One round: start the workers, measure, end them. Not `everything`: prompt and plain decode only."""
    figures = []
    with worker_group(model, layout.workers, layout.threads or None, work.settings()) as workers:
        spec, threads = workers.spec, workers.threads
        measured = Measured(workers, work)
        measured.warm_up()

        def figure(plan: _Plan) -> Figure:
            runs = [plan.run() for _ in range(work.repetitions)]
            return Figure(
                case=case,
                engine=OURS,
                metric=plan.metric,
                round=round_number,
                tokens_per_second=tuple(plan.tokens / run.seconds for run in runs),
                layout=str(layout),
                threads=threads,
                weight_bytes=sum(run.weight_bytes for run in runs) / len(runs) / plan.tokens,
                kv_bytes=plan.positions * kv_position_bytes(spec, spec.kv_heads, kv_types(work.settings())),
                operations=operations_per_token(spec, with_output=not plan.prompt),
            )

        figures = [figure(plan) for plan in _plans(measured, work, everything=everything)]
        if everything and work.disturbed_cpu is not None:
            count = work.disturbed_decode
            plan = _Plan(disturbed_name(count), lambda: measured.decode(count), count, count / 2)
            with busy(work.disturbed_cpu):
                figures.append(figure(plan))
    return figures
