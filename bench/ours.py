"""Speeds of a worker group, measured as llama-bench and llama-batched-bench measure theirs.

A prompt is one step that draws from its last token. Decoded tokens are random, one step each, and what is drawn is not
looked at. The cache before a deep decode is not computed: it holds zeros (or what was there), written when the worker
started, so that it is read from memory like any other; attention takes the same time whatever the values are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.disturbance import busy
from bench.figures import OURS, Figure, decode_name, disturbed_name, prompt_name, streams_name
from bench.group import PATIENCE_SECONDS, bytes_read, chunk, worker_group
from numoe.coordinator.machine.model_file import read_spec
from numoe.coordinator.settings import EngineSettings, KvType, kv_types
from numoe.coordinator.workers.group import HostGroup
from numoe.model.architectures.spec import ModelSpec
from numoe.model.planning.plan_size import kv_position_bytes
from numoe.protos.messages import Chunk, Step

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
        return max(self.prompt, max(self.depths, default=0) + self.decode, stream, WARM_TOKENS)

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


def operations_per_token(spec: ModelSpec, *, with_output: bool) -> float:
    """Products and additions with the weights that a token meets, counted as two; attention's own are left out."""
    experts_share = spec.active_experts / spec.experts
    values = 0.0
    for layer in spec.layer_tensors:
        for matrix in layer.matrices:
            share = experts_share if matrix in (layer.gate, layer.up, layer.down) else 1.0
            values += share * float(np.prod(matrix.shape))
    return 2 * (values + (spec.vocabulary * spec.width if with_output else 0))


class Measured:
    """A worker group under measurement."""

    def __init__(self, group: HostGroup, spec: ModelSpec, workload: Workload) -> None:
        self._group, self._spec, self._workload = group, spec, workload
        self._random = np.random.default_rng(0)
        self._steps = 0

    def warm_up(self) -> None:
        """Run both kinds of step once, without timing them."""
        self.prompt()
        self.decode(WARM_TOKENS)

    def prompt(self) -> tuple[float, float]:
        """Seconds, and bytes of weights, of one prompt."""
        tokens = self._tokens(self._workload.prompt)
        return self._timed(lambda: self._step(self._chunk(0, 0, tokens)))

    def decode(self, count: int, depth: int = 0) -> tuple[float, float]:
        """Seconds, and bytes of weights, of `count` tokens after `depth` others."""
        tokens = self._tokens(count)

        def run() -> None:
            for number, token in enumerate(tokens):
                self._step(self._chunk(0, depth + number, [token]))

        return self._timed(run)

    def streams(self, count: int, *, alike: bool) -> tuple[float, float]:
        """Seconds, and bytes of weights, of the decoded tokens of `count` sequences, after their prompts.

        alike: all see the same tokens.
        """
        prompt, length, room = self._workload.stream_prompt, self._workload.stream_decode, self._workload.stream_room
        tokens = [self._tokens(prompt + length) for _ in range(count)]
        if alike:
            tokens = tokens[:1] * count
        for row in range(count):
            self._step(self._chunk(row, 0, tokens[row][:prompt], room))

        def run() -> None:
            for position in range(prompt, prompt + length):
                self._step(*(self._chunk(row, position, [tokens[row][position]], room) for row in range(count)))

        return self._timed(run)

    def _tokens(self, count: int) -> list[int]:
        found: list[int] = self._random.integers(0, self._spec.vocabulary, count).tolist()
        return found

    def _chunk(self, row: int, first_position: int, token_ids: list[int], room: int | None = None) -> Chunk:
        return chunk(self._group, row, first_position, token_ids, row_tokens=room)

    def _step(self, *chunks: Chunk) -> None:
        self._steps += 1
        self._group.submit(Step(self._steps, chunks))
        self._group.collect(PATIENCE_SECONDS)

    def _timed(self, run: Callable[[], None]) -> tuple[float, float]:
        before, start = bytes_read(self._group), time.perf_counter()
        run()
        seconds = time.perf_counter() - start
        return seconds, float(bytes_read(self._group) - before)


@dataclass(frozen=True, slots=True)
class _Plan:
    """One row of the table to be: what to run, for how many tokens, seeing how many positions on average."""

    metric: str
    run: Callable[[], tuple[float, float]]
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


def measure_ours(
    case: str, model: Path, layout: Layout, work: Workload, round_number: int, *, everything: bool
) -> list[Figure]:
    """One round: start the workers, measure, end them. Not `everything`: prompt and plain decode only."""
    spec, settings = read_spec(model), work.settings()
    figures = []
    with worker_group(model, layout.workers, layout.threads or None, settings) as group:
        threads = sum(len(worker.shard.cpus) for worker in group.placement().workers)
        measured = Measured(group, spec, work)
        measured.warm_up()

        def figure(plan: _Plan) -> Figure:
            runs = [plan.run() for _ in range(work.repetitions)]
            return Figure(
                case=case,
                engine=OURS,
                metric=plan.metric,
                round=round_number,
                tokens_per_second=tuple(plan.tokens / seconds for seconds, _ in runs),
                layout=str(layout),
                threads=threads,
                weight_bytes=sum(read for _, read in runs) / len(runs) / plan.tokens,
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
