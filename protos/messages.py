"""Messages between coordinator and workers: a Step to all workers, a StepResult back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count, islice

import numpy as np
from numpy.typing import NDArray

from numoe.protos.expert_reduction import ALL_EXPERTS, ExpertReduction


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one token is drawn from a row of logits.

    The order is: biases, penalties, top-n-sigma, temperature, top-k, typical-p, top-p, min-p, XTC, then one draw seeded
    by (seed, position). llama.cpp's is the same, but for the temperature, which is last there.
    Temperature 0 takes the largest logit (the lowest id among equals) and ignores the filters.
    """

    temperature: float = 0.0
    top_k: int = 0  # 0: off
    top_p: float = 1.0  # 1: off
    min_p: float = 0.0  # 0: off
    repetition_penalty: float = 1.0  # 1: off; divides positive and multiplies negative logits of tokens seen
    frequency_penalty: float = 0.0  # subtracted times the number of occurrences among generated tokens
    presence_penalty: float = 0.0  # subtracted once for tokens that occur among generated tokens
    seed: int = 0  # 64 bits
    typical_p: float = 1.0  # 1: off; looks at the 512 best candidates, as do XTC and a temperature that comes last
    top_n_sigma: float = 0.0  # 0: off; standard deviations of the logits
    xtc_probability: float = 0.0  # 0: off
    xtc_threshold: float = 0.1  # of probabilities; more than 0.5: off
    temperature_last: bool = False  # whether filters look at probabilities before the temperature

    @property
    def penalises(self) -> bool:
        """Whether any penalty is on."""
        return self.repetition_penalty != 1.0 or self.frequency_penalty != 0.0 or self.presence_penalty != 0.0


NOT_DRAWN = -1  # instead of a token id
NO_BLOCK = -1  # instead of the id of a KV block
MOST_ALTERNATIVES = 20  # told of a token
BIAS_ROOM = 2048  # entries of one draw: those of the client, of what may not be drawn, of what would repeat
NOWHERE = -1  # in the residual stream
NO_TOKENS: NDArray[np.int32] = np.zeros(0, np.int32)
NO_VALUES: NDArray[np.float32] = np.zeros(0, np.float32)

# A bit for each token that may be drawn, [V / 32, rounded up]. Asked for once the workers run the step, so that they
# need not wait for it; by any thread, and any number of times. None may be drawn where it cannot be told.
Allowed = Callable[[], NDArray[np.uint32]]


@dataclass(frozen=True, slots=True)
class Biases:
    """What is added to some tokens' logits: finite, or -infinity for what may not be drawn; at most BIAS_ROOM."""

    tokens: NDArray[np.int32] = field(default_factory=lambda: NO_TOKENS)  # [n]
    values: NDArray[np.float32] = field(default_factory=lambda: NO_VALUES)  # [n]
    repeats: int = 0  # so many of the last are added after penalties, the others before


NO_BIASES = Biases()


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive positions of one sequence to run in a step: a piece of a prompt, or one generated token."""

    first_position: int
    token_ids: NDArray[np.int32]  # [n]
    kv_blocks: NDArray[np.int32]  # block ids that hold positions 0 .. first_position + n - 1, in order
    sampling: Sampling | None = None  # None: no token is drawn after this chunk (a prompt is not at its end)
    # Distinct ids in prompt and output, and how often each was generated; 0: it stands in the prompt only.
    seen_tokens: NDArray[np.int32] = field(default_factory=lambda: NO_TOKENS)
    seen_counts: NDArray[np.int32] = field(default_factory=lambda: NO_TOKENS)
    experts: ExpertReduction = ALL_EXPERTS
    # A token is drawn after each of so many of the last; where more than one is, none looks at what is seen or allowed.
    draws: int = 1
    biases: Biases = NO_BIASES
    allowed: Allowed | None = None  # None: any token may be drawn
    top: int = 0  # likeliest tokens to be told of each draw, at most MOST_ALTERNATIVES
    # [draws] tokens to tell of instead of drawing, NOT_DRAWN where one is drawn; or none: all are.
    given: NDArray[np.int32] = field(default_factory=lambda: NO_TOKENS)
    # Holds what the block of the first position is to begin with, before that; copied before the step writes anything.
    source_block: int = NO_BLOCK


@dataclass(frozen=True, slots=True)
class Step:
    """One forward pass over a batch of chunks; `number` rises by one each step."""

    number: int
    chunks: tuple[Chunk, ...]
    checked: bool = False  # whether workers look for where numbers stop to be finite, which takes time


Alternatives = tuple[tuple[int, float], ...]  # token ids and their log-probabilities


@dataclass(frozen=True, slots=True)
class Draw:
    """One token that was drawn, or given."""

    token_id: int  # NOT_DRAWN: the logits are not finite, or none may be drawn
    logprob: float
    alternatives: Alternatives = ()  # the likeliest tokens in its place, best first


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step drew: an entry for each draw of each chunk with sampling, in the order of chunks and positions.

    And what it ran for each chunk.
    """

    number: int
    token_ids: NDArray[np.int32]  # [R]; NOT_DRAWN where the logits are not finite
    logprobs: NDArray[np.float32]  # [R] natural log, of the unmodified distribution (softmax of the raw logits)
    experts_run: NDArray[np.int64]  # [chunks] of all layers and all of the chunk's tokens; 0: the model has none
    seconds: float  # from the step's publication to the coordinator's look at what was drawn, its waking up included
    not_finite: int = NOWHERE  # of a checked step: after what the residual stream was not finite first, see place_of
    # [R, n] the n likeliest tokens of the unmodified distribution, best first, as far as a draw's chunk asks for them.
    top_tokens: NDArray[np.int32] = field(default_factory=lambda: NO_TOKENS.reshape(0, 0))
    top_logprobs: NDArray[np.float32] = field(default_factory=lambda: NO_VALUES.reshape(0, 0))

    def draws(self, chunks: Iterable[Chunk]) -> Iterator[tuple[Draw, ...]]:
        """Of each chunk of the step its draws."""
        drawn = zip(count(), self.token_ids.tolist(), self.logprobs.tolist())
        for chunk in chunks:
            own = islice(drawn, chunk.draws if chunk.sampling is not None else 0)
            yield tuple(Draw(token, logprob, self.alternatives(row, chunk.top)) for row, token, logprob in own)

    def alternatives(self, row: int, count: int) -> Alternatives:
        """So many of the likeliest tokens of a draw, best first."""
        if count == 0:
            return ()
        tokens, logprobs = self.top_tokens[row, :count].tolist(), self.top_logprobs[row, :count].tolist()
        return tuple(zip(tokens, logprobs, strict=True))


@dataclass(frozen=True, slots=True)
class StepLimits:
    """What the memory of workers is laid out for; a Step never exceeds it."""

    step_tokens: int  # token positions in one step, all chunks together
    sequences: int  # chunks in one step
    context_tokens: int  # positions of one sequence
    kv_blocks: int  # blocks of the pool, ids 0 .. kv_blocks - 1
    block_positions: int  # positions in one block


def place_of(not_finite: int) -> str:
    """Which part of the model a number of StepResult.not_finite stands for, for people."""
    if not_finite == NOWHERE:
        return "the output layer"
    if not_finite == 0:
        return "the embedding"
    layer, feed_forward = divmod(not_finite - 1, 2)
    return f"the {'feed-forward' if feed_forward else 'attention'} of layer {layer}"
