"""What requests notice of experts that move: python -m bench.rebalance MODEL.gguf [--streams 4] [--threads 1]

Serves the file with two workers that hold whole experts, lets some streams decode, and while they do drains worker 1,
evens the load out again, drains worker 0, and evens it out again. A *gap* is the time between two answers that one
client gets; *pause* is the longest gap less the median one of the quiet time before. No move may make it longer than
the 50 ms of LEAVE_SECONDS. On a machine that others use, look at the pauses of the quiet times first.
"""

from __future__ import annotations

import math
import platform
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread

import numpy as np
from cyclopts import App
from rich.console import Console
from rich.table import Table

from bench.service import serving
from numoe.coordinator.commands.asking.client import CallError, Client
from numoe.coordinator.machine.model_file import read_spec
from numoe.model.architectures.spec import ModelSpec
from numoe.model.planning.plan_size import whole_expert_bytes
from numoe.v1.generation_pb2 import GenerateRequest, Sampling, Stopping, TokenIds
from numoe.v1.placement_pb2 import GetPlacementResponse, RebalanceRequest

app = App(help=__doc__)

LEAVE_SECONDS = 0.050  # that a move may add to one step
PROMPT_TOKENS = 64
WARM_TOKENS = 8  # of each stream before anything is measured
DRAIN_FIRST, DRAIN_SECOND, EVEN_OUT = (
    RebalanceRequest(drain_worker=1),
    RebalanceRequest(drain_worker=0),
    RebalanceRequest(),
)


@dataclass(slots=True)
class Stream:
    """One request that decodes until it is told to end, and when each of its answers came."""

    request: GenerateRequest
    times: list[float] = field(default_factory=list)
    error: str = ""

    def read(self, address: str, ending: Event) -> None:
        """Read the answers until `ending` is set; the body of a thread."""
        try:
            with Client(address, None) as client:
                for answer in client.generate(self.request):
                    if ending.is_set():
                        return
                    if answer.delta.tokens:
                        self.times.append(time.monotonic())
            self.error = "a stream came to its end while it was measured: give it more --context-tokens"
        except CallError as error:
            self.error = str(error)


@dataclass(frozen=True, slots=True)
class Phase:
    """A time in which something was asked of the service, or nothing."""

    name: str
    start: float
    end: float
    moves: int = 0
    bytes: int = 0  # of experts that came to a worker

    def gaps(self, streams: Sequence[Stream]) -> list[float]:
        """Seconds between answers of a stream, of all pairs that overlap with it."""
        pairs = [pair for stream in streams for pair in zip(stream.times, stream.times[1:], strict=False)]
        return [after - before for before, after in pairs if after > self.start and before < self.end]

    def tokens_per_second(self, streams: Sequence[Stream]) -> float:
        """Of all streams together, during the phase."""
        seen = sum(self.start < at <= self.end for stream in streams for at in stream.times)
        return seen / (self.end - self.start)


def service_flags(streams: int, threads: int | None, context_tokens: int) -> list[str]:
    """Of `numoe serve`, for two workers that hold whole experts."""
    flags = ["--workers", "2", "--split", "expert", "--replicas", "0"]
    flags += ["--sequences", str(streams), "--context-tokens", str(context_tokens)]
    flags += ["--kv-tokens", str(streams * context_tokens)]
    return flags + (["--threads-per-worker", str(threads)] if threads else [])


@contextmanager
def decoding(address: str, spec: ModelSpec, count: int, context_tokens: int) -> Iterator[list[Stream]]:
    """Streams that decode, all of them past their prompts."""
    random, ending = np.random.default_rng(0), Event()
    streams = []
    for number in range(count):
        prompt = TokenIds(ids=random.integers(0, spec.vocabulary, PROMPT_TOKENS).tolist())
        stopping = Stopping(max_tokens=context_tokens - PROMPT_TOKENS, ignore_eos=True)
        sampling = Sampling(temperature=1.0, seed=number)
        streams.append(Stream(GenerateRequest(token_ids=prompt, sampling=sampling, stopping=stopping)))
    readers = [Thread(target=stream.read, args=(address, ending), daemon=True) for stream in streams]
    for reader in readers:
        reader.start()
    try:
        while min(len(stream.times) for stream in streams) < WARM_TOKENS:
            check(streams)
            time.sleep(0.05)
        yield streams
        check(streams)
    finally:
        ending.set()
        for reader in readers:
            reader.join()


def check(streams: Sequence[Stream]) -> None:
    """Exit with the error of a stream that failed."""
    for stream in streams:
        if stream.error:
            raise SystemExit(stream.error)


def quiet(seconds: float) -> Phase:
    """Measure a time in which nothing but the streams runs."""
    start = time.monotonic()
    time.sleep(seconds)
    return Phase("quiet", start, time.monotonic())


def moving(client: Client, spec: ModelSpec, name: str, request: RebalanceRequest) -> Phase:
    """Have experts moved, and return when all are."""
    before = held(client.placement())
    start, moves = time.monotonic(), 0
    for answer in client.rebalance(request):
        moves = answer.made
    end = time.monotonic()
    came = held(client.placement()) - before
    return Phase(name, start, end, moves, sum(whole_expert_bytes(spec.layer_tensors[layer]) for _, layer, _ in came))


def held(placement: GetPlacementResponse) -> set[tuple[int, int, int]]:
    """Every (worker, layer, expert) that is held whole."""
    return {
        (worker.worker, layer, expert)
        for worker in placement.workers
        for some in worker.experts
        for layer in some.layers
        for expert in some.experts
    }


def measure(
    address: str, spec: ModelSpec, streams: int, seconds: float, context_tokens: int
) -> tuple[list[Phase], list[Stream]]:
    """Measure all phases in turn while streams decode."""
    with decoding(address, spec, streams, context_tokens) as running, Client(address, None) as client:
        phases = [quiet(seconds)]
        for name, request in (
            ("drain 1", DRAIN_FIRST),
            ("even out", EVEN_OUT),
            ("drain 0", DRAIN_SECOND),
            ("even out", EVEN_OUT),
        ):
            phases.append(moving(client, spec, name, request))
        phases.append(quiet(seconds))
    return phases, running


def tabulate(phases: Sequence[Phase], streams: Sequence[Stream]) -> tuple[Table, float, float]:
    """A row per phase; and the longest pauses with moves and without, in seconds."""
    step, speed = statistics.median(phases[0].gaps(streams)), phases[0].tokens_per_second(streams)
    table = Table("phase", "s", "moves", "MiB", "tokens/s", "kept", "gap, median ms", "p99", "longest", "pause")
    pauses: dict[bool, list[float]] = {True: [0.0], False: [0.0]}
    for phase in phases:
        gaps, rate = sorted(phase.gaps(streams)), phase.tokens_per_second(streams)
        pause = gaps[-1] - step
        pauses[phase.moves > 0].append(pause)
        marks = (statistics.median(gaps), gaps[math.ceil(0.99 * len(gaps)) - 1], gaps[-1], pause)
        table.add_row(
            phase.name,
            f"{phase.end - phase.start:.1f}",
            str(phase.moves),
            f"{phase.bytes / (1 << 20):.0f}",
            f"{rate:.1f}",
            f"{rate / speed:.0%}",
            *(f"{1000 * mark:.1f}" for mark in marks),
        )
    return table, max(pauses[True]), max(pauses[False])


@app.default
def main(
    model: Path,
    /,
    *,
    streams: int = 4,
    threads: int | None = None,
    seconds: float = 10.0,
    context_tokens: int = 8192,
) -> None:
    """Print the gaps between tokens while nothing moves, and while experts do.

    Parameters
    ----------
    model
        A GGUF file; one worker must have room for all of its experts.
    streams
        Requests that decode at once.
    threads
        Computing threads of each of the two workers. Default: one per core it owns.
    seconds
        Length of the quiet times before and after.
    context_tokens
        Room of each stream, which must not come to its end.
    """
    spec = read_spec(model)
    with serving(model, *service_flags(streams, threads, context_tokens)) as service:
        phases, running = measure(service.grpc, spec, streams, seconds, context_tokens)
    table, pause, noise = tabulate(phases, running)
    console = Console()
    console.print(f"{platform.node()}, {model.name}, {streams} streams, {time.ctime()}")
    console.print(table)
    verdict = "within" if pause <= LEAVE_SECONDS else "over"
    allowed, told = f"{1000 * LEAVE_SECONDS:.0f} ms", f"{1000 * pause:.0f} ms while experts moved"
    console.print(f"Longest pause: {told}, {verdict} the {allowed} that moves may take; {1000 * noise:.0f} ms without.")


if __name__ == "__main__":
    app()
