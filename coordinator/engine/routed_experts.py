"""The experts that a request's tokens run, counted: for its answer's usage."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RoutedExperts:
    """What there is to run for each token."""

    layers: int  # L
    active: int  # A
    bytes: float  # of one expert's weights, on average over the layers

    def mean(self, run: int, tokens: int) -> float:
        """Experts run per token and layer, of `run` in all layers for `tokens` tokens."""
        return run / (self.layers * tokens)

    def saved_bytes(self, run: int, tokens: int) -> int:
        """Bytes of the experts that were left out, counted for each token as if it were alone in its steps."""
        return round((self.layers * self.active * tokens - run) * self.bytes)
