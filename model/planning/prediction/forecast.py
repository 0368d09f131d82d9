"""What is predicted of a step: how long it takes, and where that time goes."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class Seconds:
    """Where the time of a step, or of a part of it, goes."""

    attention: float = 0.0  # its matrices
    kv_cache: float = 0.0
    router: float = 0.0
    experts: float = 0.0
    output: float = 0.0  # logits
    exchanges: float = 0.0  # gathers, and reading what other workers made
    rest: float = 0.0  # activations, barriers of threads, drawing, the coordinator

    @property
    def total(self) -> float:
        """All of it together."""
        return float(sum(getattr(self, field.name) for field in fields(self)))

    def __add__(self, other: Seconds) -> Seconds:
        return Seconds(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))


@dataclass(frozen=True, slots=True)
class ExpertSeconds:
    """The predicted time of one layer's router and experts."""

    seconds: Seconds  # of the slowest worker, exchanges included
    mean: float  # of the experts alone, on average over all workers


@dataclass(frozen=True, slots=True)
class Forecast:
    """A predicted step."""

    seconds: Seconds
    batch: int  # sequences that decode a token each
    imbalance: float  # the slowest worker's experts, over the mean of all workers

    @property
    def tokens_per_second(self) -> float:
        """Of all sequences together."""
        return self.batch / self.seconds.total
