"""Predictions of a text by real workers: those of decoding one token at a time, and of a plain computation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from numoe.coordinator.measuring.evaluation import evaluate, rows_of, settings_for
from numoe.coordinator.measuring.steps import Steps
from numoe.coordinator.settings import EngineSettings
from numoe.coordinator.workers.group import HostGroup
from numoe.model.gguf.tensors import TensorType
from tests.system.conftest import ModelOf
from tests.system.groups import PATIENCE_SECONDS, WorkerProcesses
from tests.tiny_model import TinyShape

CONTEXT = 24
SHAPE = TinyShape()  # of F32 weights
CHUNKS = np.random.default_rng(3).integers(0, SHAPE.vocabulary, (3, CONTEXT), np.int32)


def predictions(group: HostGroup, vocabulary: int) -> tuple[NDArray[np.float32], NDArray[np.float64]]:  # [R, V], [R]
    """All logits that count, and the log-likelihoods of what follows."""
    found = evaluate(group, Steps(group, vocabulary, PATIENCE_SECONDS), CHUNKS, None)
    rows = [(one.logits(0, len(one.targets)), one.log_likelihoods) for one in found]
    return np.concatenate([logits for logits, _ in rows]), np.concatenate([likelihoods for _, likelihoods in rows])


def decoded(group: HostGroup, vocabulary: int) -> NDArray[np.float32]:  # [R, V]
    """The same logits, of one token after the other."""
    steps, rows = Steps(group, vocabulary, PATIENCE_SECONDS), []
    [table] = steps.tables(1, CONTEXT)
    for tokens in CHUNKS:
        for position in range(CONTEXT - 1):
            steps.run([steps.chunk(table, position, tokens[position : position + 1])])
            if position >= CONTEXT // 2:
                rows.append(group.logits()[0].copy())
    return np.array(rows)


@pytest.mark.parametrize(("workers", "step_tokens"), [(1, 64), (2, 64), (2, 7)])
def test_no_bit_depends_on_how_many_rows_a_step_draws_from(
    workers: int, step_tokens: int, processes: WorkerProcesses, model_of: ModelOf
) -> None:
    model = model_of(replace(SHAPE, type=TensorType.Q8_0))
    settings = settings_for(CONTEXT, EngineSettings(step_tokens=step_tokens))
    with_rows = processes.load(model, workers, 1, settings)
    logits, likelihoods = predictions(with_rows.workers, model.spec.vocabulary)
    with_rows.close()
    alone = processes.load(model, 1, 1, settings)
    np.testing.assert_array_equal(logits, decoded(alone.workers, model.spec.vocabulary))
    alone.close()
    assert logits.shape == (3 * rows_of(CONTEXT), model.spec.vocabulary)
    targets = CHUNKS[:, CONTEXT // 2 + 1 :].reshape(-1)
    exact = logits.astype(np.float64)
    exact -= np.logaddexp.reduce(exact, axis=1, keepdims=True)
    # Two logits below 32 and a log-probability, each rounded to float32.
    np.testing.assert_allclose(likelihoods, exact[np.arange(len(targets)), targets], atol=3 * 32 * 2.0**-24)


def test_likelihoods_are_those_of_a_plain_computation(processes: WorkerProcesses, model_of: ModelOf) -> None:
    model = model_of(SHAPE)
    group = processes.load(model, 2, 1, settings_for(CONTEXT, EngineSettings(kv_type="f32")))
    _, likelihoods = predictions(group.workers, model.spec.vocabulary)
    group.close()
    expected = []
    for tokens in CHUNKS.tolist():
        logits = model.forward(tokens[:-1]).logits.astype(np.float64)[CONTEXT // 2 :]
        logits -= np.logaddexp.reduce(logits, axis=1, keepdims=True)
        expected += logits[np.arange(len(logits)), tokens[CONTEXT // 2 + 1 :]].tolist()
    # Float32 sums of 64 to 96 products in two layers, of values near 1 and logits of some 3: 1e-4 is tenfold.
    np.testing.assert_allclose(likelihoods, expected, atol=1e-4)
