"""The three ways of `numoe perplexity`: to estimate, to save all log-probabilities, to compare with saved ones."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from numoe.coordinator.commands.measuring.divergence_report import HEADING, LEAST_COUNT, chunk_line, report
from numoe.coordinator.commands.measuring.running import Rows, remark
from numoe.coordinator.measuring.divergence import Comparison, compare_all, join, pack_all, statistics_of
from numoe.coordinator.measuring.evaluation import Predictions, evaluate, first_position, rows_of
from numoe.coordinator.measuring.likelihoods import Likelihoods
from numoe.coordinator.measuring.saved_logits import SavedLogits, saving
from numoe.coordinator.measuring.workers import MeasuredWorkers


@dataclass(frozen=True, slots=True)
class Task:
    """What is to be evaluated."""

    chunks: NDArray[np.int32]  # [chunks, context]
    bos_id: int | None  # in the place of each chunk's first token
    saved: SavedLogits | None  # to compare with

    @property
    def context(self) -> int:
        """Tokens of a chunk."""
        return int(self.chunks.shape[1])


def evaluate_text(measured: MeasuredWorkers, task: Task) -> None:
    """Print the running estimate chunk by chunk, then the final one."""
    _estimate(measured, task, lambda found: None)


def save_all(measured: MeasuredWorkers, task: Task, path: Path) -> None:
    """The same, and write all log-probabilities to a file."""
    vocabulary = measured.spec.vocabulary
    with saving(path, task.chunks, vocabulary) as writer, _threads() as threads:
        _estimate(measured, task, lambda found: writer.write(pack_all(found, threads, vocabulary)))


def compare_with_saved(measured: MeasuredWorkers, task: Task, saved: SavedLogits) -> None:
    """Print the divergence from saved log-probabilities after each chunk, then its statistics."""
    parts: list[Comparison] = []
    read = 0
    with Rows(len(task.chunks), "evaluating") as rows, _threads() as threads:
        rows.write(HEADING)

        def take(found: Predictions) -> None:
            nonlocal read
            words = saved.rows(read, len(found.targets))
            read += len(words)
            parts.append(compare_all(found, words, threads, saved.vocabulary))

        for number in _chunks(measured, task, take):
            parts[:] = [join(parts)]
            rows.write(chunk_line(number, statistics_of(parts[0])))
            rows.advance()
        found = join(parts)
        if len(found.nll) < LEAST_COUNT:
            remark(f"no statistics: there are {len(found.nll)} positions, expected at least {LEAST_COUNT}")
        else:
            rows.write("\n" + report(found))


def _estimate(measured: MeasuredWorkers, task: Task, look: Callable[[Predictions], None]) -> None:
    likelihoods = Likelihoods()

    def take(found: Predictions) -> None:
        likelihoods.add(found.log_likelihoods)
        look(found)

    with Rows() as rows:  # the running estimate tells how far it is
        try:
            for number in _chunks(measured, task, take):
                rows.write(f"[{number}]{likelihoods.perplexity.value:.4f},")
        finally:
            rows.write("\n")
        final = likelihoods.perplexity
        rows.write(f"Final estimate: PPL = {final.value:.4f} +/- {final.error:.5f}\n")


def _chunks(measured: MeasuredWorkers, task: Task, take: Callable[[Predictions], None]) -> Iterator[int]:
    """Evaluate, let predictions be taken as they come, and yield the number of each chunk once it is whole."""
    count, context = task.chunks.shape
    counted = f"of which {first_position(context) + 1} to {context - 1} count"
    remark(f"perplexity over {count} chunks of {context} tokens, {counted}")
    steps = measured.steps()
    begin, taking, left = time.perf_counter(), 0.0, rows_of(context)
    with closing(evaluate(measured.group, steps, task.chunks, task.bos_id)) as found:
        for one in found:
            before = time.perf_counter()
            take(one)
            taking += time.perf_counter() - before
            left -= len(one.targets)
            if not left:
                left = rows_of(context)
                yield one.chunk + 1
    seconds = time.perf_counter() - begin
    remark(f"{count * context / seconds:.1f} tokens/s; {taking / seconds:.0%} of the time went into comparing logits")


def _threads() -> ThreadPoolExecutor:
    """As many as this process may use: workers sleep meanwhile, and NumPy lets go of the GIL."""
    return ThreadPoolExecutor(len(os.sched_getaffinity(0)), thread_name_prefix="logits")
