"""Which steps a text is evaluated in, and which tokens count."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray

from numoe.coordinator.limits import step_limits
from numoe.coordinator.measuring.evaluation import evaluate, settings_for
from numoe.coordinator.measuring.steps import Steps
from numoe.coordinator.settings import EngineSettings
from numoe.coordinator.workers.group import HostGroup
from numoe.protos.errors import LogitsNotFinite
from numoe.protos.messages import NOT_DRAWN, Step, StepResult
from tests.coordinator.measuring.fake_group import FakeGroup

VOCABULARY = 100


class Predicting(FakeGroup):
    """Its logits are a function of the token before; the likeliest token is 3."""

    broken = False

    def _table(self) -> NDArray[np.float32]:  # [R, V]
        seen = [chunk.token_ids[-chunk.draws :] for chunk in self.steps[-1].chunks if chunk.sampling is not None]
        rows = [np.random.default_rng(int(token)).standard_normal(VOCABULARY) for token in np.concatenate(seen)]
        table = np.array(rows, np.float32)
        table[:, 3] = 9
        return table

    def collect(self, timeout_seconds: float) -> StepResult:
        result = super().collect(timeout_seconds)
        if not len(result.token_ids):
            return result
        table = self._table().astype(np.float64)
        logprobs = 9 - np.logaddexp.reduce(table, axis=1)
        drawn = np.full(len(table), NOT_DRAWN if self.broken else 3, np.int32)
        return replace(result, token_ids=drawn, logprobs=logprobs.astype(np.float32))

    def logits(self, rows: slice = slice(None)) -> NDArray[np.float32]:
        return self._table()[rows]

    def logits_of(self, token_ids: NDArray[np.int32]) -> NDArray[np.float32]:
        return self._table()[np.arange(len(token_ids)), token_ids]


def group_for(context: int, step_tokens: int) -> Predicting:
    settings = settings_for(context, EngineSettings(step_tokens=step_tokens))
    return Predicting(step_limits(settings, 1 << 20))


@pytest.mark.parametrize(
    ("context", "step_tokens", "shapes"),
    [
        (8, 8, [[(0, 7, 3)], [(0, 7, 3)], [(0, 7, 3)]]),
        (9, 8, [[(0, 8, 4)], [(0, 8, 4)], [(0, 8, 4)]]),
        (8, 16, [[(0, 7, 3), (0, 7, 3)], [(0, 7, 3)]]),
        (8, 3, [[(0, 3, 0)], [(3, 3, 2)], [(6, 1, 1)]] * 3),
    ],
)
def test_the_second_half_of_each_chunk_counts_whatever_the_steps(
    context: int, step_tokens: int, shapes: list[list[tuple[int, int, int]]]
) -> None:
    chunks = np.random.default_rng(0).integers(0, VOCABULARY, (3, context), np.int32)
    group = group_for(context, step_tokens)
    steps = Steps(cast(HostGroup, group), VOCABULARY, 60.0)
    found: dict[int, list[float]] = {}
    rows: dict[int, list[NDArray[np.float32]]] = {}
    for one in evaluate(cast(HostGroup, group), steps, chunks, None):
        found.setdefault(one.chunk, []).extend(one.log_likelihoods.tolist())
        rows.setdefault(one.chunk, []).append(one.logits(0, len(one.targets)))
    assert [[(first, count, draws) for first, count, _, draws in step] for step in group.seen] == shapes
    assert list(found) == [0, 1, 2]
    for number, tokens in enumerate(chunks):
        for index, position in enumerate(range(context // 2, context - 1)):
            logits = np.random.default_rng(int(tokens[position])).standard_normal(VOCABULARY).astype(np.float32)
            logits[3] = 9
            np.testing.assert_array_equal(np.concatenate(rows[number])[index], logits)
            expected = float(logits[tokens[position + 1]]) - np.logaddexp.reduce(logits.astype(np.float64))
            assert found[number][index] == pytest.approx(expected, abs=1e-6)


def test_bos_takes_the_place_of_each_chunks_first_token() -> None:
    chunks, seen = np.full((2, 8), 5, np.int32), []

    class Noting(Predicting):
        def submit(self, step: Step) -> None:
            super().submit(step)
            seen.append(step.chunks[0].token_ids.tolist())

    group = Noting(group_for(8, 8).limits)
    list(evaluate(cast(HostGroup, group), Steps(cast(HostGroup, group), VOCABULARY, 60.0), chunks, 1))
    assert seen == [[1, 5, 5, 5, 5, 5, 5]] * 2
    assert (chunks == 5).all()


def test_numbers_that_are_none_end_it_and_say_where() -> None:
    group = group_for(8, 8)
    group.broken = True
    steps = Steps(cast(HostGroup, group), VOCABULARY, 60.0)
    with pytest.raises(LogitsNotFinite, match="no numbers in chunks 1 to 1"):
        list(evaluate(cast(HostGroup, group), steps, np.zeros((2, 8), np.int32), None))
