"""What the draws of one request depend on beside logits: what was seen, biases, its thought, and its grammar.

A grammar describes what follows the thought, if there is one: in it any token may be drawn but those that end the
answer, and the guide hears of none. Where a thought may still begin, the token that opens it may be drawn as well.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from numoe.coordinator.requests.constraint import Guide
from numoe.coordinator.requests.request import GenerationRequest
from numoe.coordinator.requests.seen_tokens import SeenTokens
from numoe.coordinator.requests.thought import FollowedThought
from numoe.coordinator.requests.token_biases import TokenBiases
from numoe.coordinator.requests.token_masks import TokenMask, mask_of, with_tokens
from numoe.model.text.tokenizer import Tokenizer
from numoe.protos.messages import NO_TOKENS, NOT_DRAWN, Allowed, Chunk, Draw, Sampling

_GREEDY = Sampling()  # of chunks that tell of tokens and draw none


class Drawing:
    """How the next token of a request is drawn; the engine's thread alone calls it, others only for its masks."""

    __slots__ = ("_biases", "_free", "_guide", "_request", "_seen", "_thinks", "_thought", "_tokenizer")

    def __init__(self, request: GenerationRequest, budget: int, tokenizer: Tokenizer, guide: Guide | None) -> None:
        """`budget`: tokens that may be drawn; `guide`: None where any token may be."""
        self._request, self._tokenizer = request, tokenizer
        self._seen = SeenTokens(request.prompt, budget) if request.sampling.penalises else None
        self._biases, self._guide = TokenBiases(request, tokenizer), guide
        self._thought = None if request.thought is None else FollowedThought(request.thought, tokenizer)
        self._thinks = False  # whether the last token was part of a thought
        self._free: TokenMask | None = None  # the mask of a thought's tokens, once it is asked for

    def ask(self, chunk: Chunk, tokens: NDArray[np.int32]) -> Chunk:
        """The chunk with a draw after its last token; `tokens`: all that are known."""
        seen, counts = (NO_TOKENS, NO_TOKENS) if self._seen is None else self._seen.arrays()
        return replace(
            chunk,
            sampling=self._request.sampling,
            seen_tokens=seen,
            seen_counts=counts,
            biases=self._biases.at(len(tokens) - len(self._request.prompt), tokens),
            allowed=self._allowed(first=len(tokens) == len(self._request.prompt)),
            top=self._request.top_logprobs,
        )

    def alike(self, drawn: int) -> int:
        """How many tokens that follow so many drawn ones may be drawn in one step, as none depends on those before."""
        if self._guide is not None or self._seen is not None:
            return 1
        alike = self._biases.alike(drawn)
        return alike if self._thought is None else min(alike, 1 + self._thought.free)

    def tell(self, chunk: Chunk, tokens: NDArray[np.int32], first: int) -> Chunk:
        """The chunk, telling of each token that follows one from position `first` on how likely it was."""
        end = chunk.first_position + len(chunk.token_ids)
        following = tokens[first + 1 : end + 1]
        given = np.append(following, np.full(end - first - len(following), NOT_DRAWN, np.int32))
        sampling, top = chunk.sampling or _GREEDY, self._request.top_logprobs
        return replace(chunk, sampling=sampling, draws=end - first, given=given, top=top)

    def follow(self, draw: Draw) -> Draw:
        """What counts as drawn."""
        if self._thought is not None:
            within = self._thought.under_way
            if (put := self._thought.follow(draw.token_id)) is not None:
                draw = Draw(put, 0.0)
            self._thinks = within or self._thought.under_way
        if self._seen is not None:
            self._seen.add(draw.token_id)
        return draw

    def completes(self, token_id: int) -> bool:
        """Whether the token that was followed last, which ends nothing by itself, is the last that may be drawn."""
        if self._guide is None or self._thinks:
            return False
        self._guide.take(token_id)
        return self._guide.complete

    def dead_end(self, tokens: NDArray[np.int32]) -> str:
        """Why no token may follow these; "": one may."""
        drawn = len(tokens) - len(self._request.prompt)
        allowed = self._allowed(first=drawn == 0)
        if allowed is None or self._guide is None:
            return ""
        bits = np.unpackbits(allowed().view(np.uint8), bitorder="little")
        biases = self._biases.at(drawn, tokens)
        bits[biases.tokens[np.isneginf(biases.values)]] = 0
        return "" if bits.any() else self._guide.problem or "no token continues what it allows"

    def _allowed(self, *, first: bool) -> Allowed | None:
        """What tells which tokens may be drawn next; `first`: none was so far."""
        if self._guide is None:
            return None
        if self._thought is not None and self._thought.under_way:
            return self._all_but_ends
        return self._guide.allowed if self._thought is None or not first else self._allowed_or_thought

    def _all_but_ends(self) -> TokenMask:
        if self._free is None:
            free = np.ones(self._tokenizer.vocabulary, np.bool_)
            free[list(self._tokenizer.end_ids)] = False
            self._free = mask_of(free)
        return self._free

    def _allowed_or_thought(self) -> TokenMask:
        assert self._guide is not None
        assert self._request.thought is not None
        return with_tokens(self._guide.allowed(), [self._request.thought.opening])
