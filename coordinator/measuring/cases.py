"""What llama-bench and llama-batched-bench measure, and their names; numoe's benches measure the same.

pp512            a prompt of 512 tokens; only its last one is drawn after
tg128            128 tokens one by one
pp512+tg128      both, timed together
tg128 @ d4096    after 4096 tokens, which are run before and not timed
16 x tg128       128 tokens of each of 16 sequences, one of each in a step; 16 x pp512: a prompt of each
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from numoe.coordinator.limits import BLOCK_POSITIONS
from numoe.coordinator.measuring.steps import Measurement, Steps
from numoe.coordinator.settings import EngineSettings
from numoe.model.architectures.spec import ModelSpec
from numoe.model.gguf.kv_types import KvTypes
from numoe.model.planning.plan_size import kv_position_bytes


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the table to be: how many tokens of each sequence are run."""

    prompt: int
    generated: int
    depth: int = 0  # positions that are there before
    streams: int = 1

    @property
    def name(self) -> str:
        """As llama-bench calls it."""
        parts = [f"pp{self.prompt}"] * (self.prompt > 0) + [f"tg{self.generated}"] * (self.generated > 0)
        before = f"{self.streams} x " if self.streams > 1 else ""
        return before + "+".join(parts) + (f" @ d{self.depth}" if self.depth else "")

    @property
    def length(self) -> int:
        """Positions of the longest sequence."""
        return self.depth + self.prompt + self.generated

    @property
    def tokens(self) -> int:
        """Tokens that are timed, of all sequences."""
        return self.streams * (self.prompt + self.generated)

    def kv_bytes(self, spec: ModelSpec, kv_types: KvTypes) -> float:
        """Bytes of keys and values that the decoded tokens read, each those of all positions before it."""
        seen = self.depth + self.prompt + self.generated / 2
        return self.streams * self.generated * seen * kv_position_bytes(spec, spec.kv_heads, kv_types)


@dataclass(frozen=True, slots=True)
class CaseResult:
    """What a case took, each time."""

    case: Case
    samples: tuple[Measurement, ...]

    @property
    def speeds(self) -> list[float]:
        """Tokens per second, of all sequences, of each sample."""
        return [self.case.tokens / sample.seconds for sample in self.samples]

    @property
    def speed(self) -> float:
        """Their mean."""
        return statistics.fmean(self.speeds)

    @property
    def deviation(self) -> float:
        """Their standard deviation, 0 of a single one."""
        return statistics.stdev(self.speeds) if len(self.samples) > 1 else 0.0


def list_cases(
    prompts: Sequence[int],
    generated: Sequence[int],
    pairs: Sequence[tuple[int, int]],
    depths: Sequence[int],
    streams: Sequence[int],
) -> list[Case]:
    """The cases in llama-bench's order; 0 tokens are no case.

    Of several streams, decoding comes after each prompt, as in llama-batched-bench, and its name says so by its depth.
    """
    found = []
    for count in streams:
        for depth in depths:
            found += [Case(prompt, 0, depth, count) for prompt in prompts if prompt]
            befores = prompts if count > 1 and prompts else (0,)
            found += [Case(0, one, depth + before, count) for before in befores for one in generated if one]
            found += [Case(*pair, depth, count) for pair in pairs if any(pair)]
    return list(dict.fromkeys(found))


def rooms_for(cases: Sequence[Case]) -> dict[int, int]:
    """Positions kept for each sequence, in whole KV blocks, by how many sequences there are at once."""
    rooms: dict[int, int] = {}
    for case in cases:
        room = -(-case.length // BLOCK_POSITIONS) * BLOCK_POSITIONS
        rooms[case.streams] = max(room, rooms.get(case.streams, 0))
    return rooms


def settings_for(cases: Sequence[Case], settings: EngineSettings) -> EngineSettings:
    """The settings with room for the longest and the most sequences of these cases, and no more."""
    return replace(
        settings,
        sequences=max(case.streams for case in cases),
        context_tokens=max(case.length for case in cases),
        kv_tokens=max(streams * room for streams, room in rooms_for(cases).items()),
    )


class CaseRunner:
    """Runs cases on one group of workers; what one case left in the KV cache serves as depth of the next."""

    def __init__(self, steps: Steps, cases: Sequence[Case]) -> None:
        """`cases`: all that will be run, for the room that their sequences need."""
        self._steps, self._rooms = steps, rooms_for(cases)
        self._streams, self._filled = 0, 0  # how many positions of how many sequences hold tokens

    def run(self, case: Case, repetitions: int) -> Iterator[Measurement]:
        """Warm up as llama-bench does, a prompt and a token, then yield each of the measurements."""
        if self._streams != case.streams:
            self._streams, self._filled = case.streams, 0
        if case.depth > self._filled:
            more = self._steps.random_tokens(case.depth - self._filled, case.streams)
            self._steps.prompt(more, self._filled, self._rooms[case.streams])
        self._once(replace(case, generated=min(1, case.generated)))
        for _ in range(repetitions):
            yield self._once(case)
        self._filled = max(self._filled, case.length)

    def _once(self, case: Case) -> Measurement:
        room, parts = self._rooms[case.streams], []
        if case.prompt:
            tokens = self._steps.random_tokens(case.prompt, case.streams)
            parts.append(self._steps.prompt(tokens, case.depth, room))
        if case.generated:
            tokens = self._steps.random_tokens(case.generated, case.streams)
            parts.append(self._steps.decode(tokens, case.depth + case.prompt, room))
        seconds = sum(part.seconds for part in parts)
        waiting = sum(part.waiting * part.seconds for part in parts) / seconds
        return Measurement(seconds, sum(part.weight_bytes for part in parts), waiting)
