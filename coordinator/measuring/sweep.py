"""llama-sweep-bench's procedure: prompts and decodes at every depth of a context, one row after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from numoe.coordinator.measuring.steps import Measurement, Steps
from numoe.protos.profile import Profile

Run = Callable[[], Measurement]


@dataclass(frozen=True, slots=True)
class Sweep:
    """What is swept: lengths in tokens."""

    context: int  # rows begin at 0, prompt, 2 prompt, ... below it
    prompt: int
    generated: int
    stride: int = 1  # every so many rows are measured; of the others only the prompt is run

    @property
    def depths(self) -> list[int]:
        """Where rows are measured."""
        return list(range(0, self.context, self.prompt * self.stride))

    @property
    def length(self) -> int:
        """Positions that the last row needs."""
        last = (self.context - 1) // self.prompt * self.prompt
        return last + max(self.prompt, self.generated)


@dataclass(frozen=True, slots=True)
class SweepRow:
    """What a prompt and a decode took after `depth` positions."""

    depth: int
    prompt: Measurement
    decode: Measurement
    decode_profile: Profile | None = None


def run_sweep(
    sweep: Sweep,
    steps: Steps,
    *,
    warm_prompt: bool = False,
    profile: Callable[[Run], tuple[Measurement, Profile | None]] = lambda run: (run(), None),  # says where time went
) -> Iterator[SweepRow]:
    """Warm up with one token, and a prompt if asked; then yield each row once it is measured.

    At each depth tokens are decoded first; the prompt then takes their places, and is the next depth's cache.
    """
    steps.decode(steps.random_tokens(1))
    if warm_prompt:
        steps.prompt(steps.random_tokens(sweep.prompt))
    measured = set(sweep.depths)
    for depth in range(0, sweep.context, sweep.prompt):
        decoded = steps.random_tokens(sweep.generated)
        found = profile(partial(steps.decode, decoded, depth)) if depth in measured else None
        prompt = steps.prompt(steps.random_tokens(sweep.prompt), depth)
        if found is not None:
            decode, where = found
            yield SweepRow(depth, prompt, decode, where)
