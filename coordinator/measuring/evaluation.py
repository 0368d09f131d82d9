"""Runs the chunks of a text and looks at the logits of each one's second half.

Of a chunk of n tokens those from n // 2 + 1 on are predicted, each by all that stand before it in its chunk; so logits
of positions n // 2 to n - 2 are needed, and the last token is not run at all. A step is one prompt's chunk of many
tokens that draws after several of them: nothing is decoded one by one. Short chunks share a step.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from numoe.coordinator.limits import BLOCK_POSITIONS
from numoe.coordinator.measuring.steps import Steps
from numoe.coordinator.settings import EngineSettings
from numoe.coordinator.workers.group import HostGroup
from numoe.protos.errors import LogitsNotFinite
from numoe.protos.messages import NOT_DRAWN


@dataclass(frozen=True, slots=True)
class Predictions:
    """Rows of logits of the step that ran last, of consecutive positions of one chunk; gone with the next step."""

    chunk: int
    first_row: int  # of the step's
    targets: NDArray[np.int32]  # [R] the tokens that follow in the text
    log_likelihoods: NDArray[np.float64]  # [R] of each ln p, as the workers computed it
    _group: HostGroup

    def logits(self, first: int, stop: int) -> NDArray[np.float32]:  # [stop - first, V]
        """Those of some of the rows."""
        return self._group.logits(slice(self.first_row + first, self.first_row + stop))


@dataclass(frozen=True, slots=True)
class _Piece:
    """Positions begin to end - 1 of a chunk, run in one step; after so many of the last a token is drawn."""

    begin: int
    end: int
    draws: int


def first_position(context: int) -> int:
    """The first position of a chunk whose prediction counts."""
    return context // 2


def rows_of(context: int) -> int:
    """How many predictions of a chunk count."""
    return context - 1 - first_position(context)


def _pieces(context: int, step_tokens: int) -> list[_Piece]:
    first, pieces = first_position(context), []
    for begin in range(0, context - 1, step_tokens):
        end = min(begin + step_tokens, context - 1)
        pieces.append(_Piece(begin, end, max(0, end - max(begin, first))))
    return pieces


def _chunks_at_once(context: int, step_tokens: int) -> int:
    return max(1, step_tokens // context)


def settings_for(context: int, settings: EngineSettings) -> EngineSettings:
    """The settings with room for the chunks of a step, and for the logits that are drawn from."""
    chunks = _chunks_at_once(context, settings.step_tokens)
    room = -(-context // BLOCK_POSITIONS) * BLOCK_POSITIONS
    most = max(piece.draws for piece in _pieces(context, settings.step_tokens))
    return replace(settings, sequences=chunks * most, context_tokens=context, kv_tokens=chunks * room)


def evaluate(
    group: HostGroup,
    steps: Steps,
    chunks: NDArray[np.int32],  # [chunks, context]
    bos_id: int | None,  # stands in the place of each chunk's first token; None: nothing does
) -> Generator[Predictions, None, None]:
    """Run all chunks, and yield their predictions in the order of the text.

    Raises:
        LogitsNotFinite: the model computed infinities or no numbers.
        WorkerLost: a worker died.
    """
    count, context = chunks.shape
    at_once = _chunks_at_once(context, steps.limits.step_tokens)
    tables, pieces, inputs = steps.tables(at_once, context), _pieces(context, steps.limits.step_tokens), chunks.copy()
    if bos_id is not None:
        inputs[:, 0] = bos_id
    for first in range(0, count, at_once):
        numbers = range(first, min(first + at_once, count))
        for piece in pieces:
            result = steps.run(
                steps.chunk(tables[row], piece.begin, inputs[number, piece.begin : piece.end], piece.draws)
                for row, number in enumerate(numbers)
            )
            if not piece.draws:
                continue
            targets = chunks[first : numbers.stop, piece.end - piece.draws + 1 : piece.end + 1]
            if NOT_DRAWN in result.token_ids:
                raise LogitsNotFinite(f"the model computed no numbers in chunks {first + 1} to {numbers.stop}")
            following, likeliest = group.logits_of(targets.reshape(-1)), group.logits_of(result.token_ids)
            # ln p of any token is that of the likeliest, which workers give, and the difference of the two logits.
            found = result.logprobs.astype(np.float64) + following - likeliest.astype(np.float64)
            for row, number in enumerate(numbers):
                rows = slice(row * piece.draws, (row + 1) * piece.draws)
                yield Predictions(number, rows.start, targets[row], found[rows], group)
