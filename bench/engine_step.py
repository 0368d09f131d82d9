"""What the coordinator's Python costs per decode step: python -m bench.engine_step [sequences ...]

Two figures per batch size, medians over the steps: *gap*, from one step's answer to the next step's sending, in which
the workers wait; and *round*, the gap and the delivery of the texts, which the workers' computing hides. The workers
are an array of constants, every request has a reader in the event loop and one stop string.
"""

from __future__ import annotations

import asyncio
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
from rich.console import Console
from rich.table import Table

from numoe.coordinator.engine.engine import Engine
from numoe.coordinator.requests.request import GenerationRequest
from numoe.coordinator.settings import EngineSettings
from numoe.protos.messages import Sampling, Step, StepLimits, StepResult
from tests.coordinator.tiny_tokenizer import TOKENIZER

TOKENS = 2000
COMPUTE_SECONDS = 0.002  # as long as a step of a small model; event loop and engine share the interpreter meanwhile


class ConstantWorkers:
    """Workers, as the engine knows them, that draw the letter a for everyone and note when they are called."""

    def __init__(self, sequences: int) -> None:
        self.limits = StepLimits(512, sequences, 4096, 64 * sequences, 64)
        self.depth = 1
        self.store = None
        self.gaps: list[float] = []
        self.rounds: list[float] = []
        self._letter = TOKENIZER.encode("a")[0]
        self._step: Step | None = None
        self._answered = 0.0
        self._gap = 0.0

    def submit(self, step: Step) -> None:
        """Note how long the engine took since the last answer."""
        self._gap = time.perf_counter() - self._answered
        self._step = step

    def collect(self, timeout_seconds: float) -> StepResult:
        """Answer after COMPUTE_SECONDS."""
        assert self._step is not None
        full = len(self._step.chunks) == self.limits.sequences
        if full and all(len(chunk.token_ids) == 1 for chunk in self._step.chunks):
            self.gaps.append(self._gap)
            self.rounds.append(time.perf_counter() - self._answered)
        time.sleep(COMPUTE_SECONDS)
        draws = sum(chunk.draws for chunk in self._step.chunks if chunk.sampling is not None)
        self._answered = time.perf_counter()
        return StepResult(
            self._step.number,
            np.full(draws, self._letter, np.int32),
            np.zeros(draws, np.float32),
            np.zeros(len(self._step.chunks), np.int64),
            COMPUTE_SECONDS,
        )

    def check(self) -> None:
        """They are always well."""

    def restart(self, look: Callable[[], None]) -> None:
        """They are never lost."""
        raise NotImplementedError

    def close(self) -> None:
        """There is nothing to end."""


async def measure(sequences: int, sampling: Sampling) -> ConstantWorkers:
    """Decode TOKENS tokens of so many sequences; the workers know how long it took."""
    workers = ConstantWorkers(sequences)
    engine = Engine(workers, TOKENIZER, EngineSettings())
    engine.start()

    async def read() -> None:
        asked = GenerationRequest("r", (1, 2, 3), sampling, TOKENS, stop=("\nUser:",), ignore_eos=True)
        async with engine.submit(asked) as generation:
            async for _ in generation:
                pass

    await asyncio.gather(*[read() for _ in range(sequences)])
    await engine.stop()
    return workers


def main() -> None:
    """Print the table."""
    table = Table("sequences", "penalties", "gap us", "round us", "gap p99 us")
    for sequences in [int(argument) for argument in sys.argv[1:]] or [1, 8, 32]:
        for sampling in (Sampling(), Sampling(repetition_penalty=1.1)):
            workers = asyncio.run(measure(sequences, sampling))
            figures = (
                statistics.median(workers.gaps),
                statistics.median(workers.rounds),
                statistics.quantiles(workers.gaps, n=100)[98],
            )
            table.add_row(
                str(sequences), "yes" if sampling.penalises else "no", *[f"{seconds * 1e6:.0f}" for seconds in figures]
            )
    console = Console()
    console.print(f"{platform.node()}, {os.cpu_count()} CPUs, Python {platform.python_version()}, {time.ctime()}")
    console.print(table)


if __name__ == "__main__":
    main()
