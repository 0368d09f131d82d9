"""How often a model's router chose each expert of each layer, and the file that keeps these counts.

JSON, one line per layer, so that it can be read, checked and compared:

{
"numoe_expert_stats": 1,
"model": "Qwen3-30B-A3B",
"tokens": 1000,
"active_experts": 8,
"counts": [
[70, 51, ... one number per expert; the sum is tokens x active_experts],
... one line per layer
]
}

Where requests left some of their experts out, a sum is less, and so where a host that was lost took with it what its
layers had counted last; `tokens` are as few as explain the largest one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numoe.model.architectures.spec import ModelSpec
from numoe.protos.errors import SetupError
from numoe.protos.foreign_text import one_line

VERSION = 1
_VERSION_KEY = "numoe_expert_stats"
_KEYS = {_VERSION_KEY, "model", "tokens", "active_experts", "counts"}
MOST_COUNT = 1 << 63  # as counters hold them


@dataclass(frozen=True, slots=True)
class ExpertStats:
    """How often experts were chosen while a model was served."""

    model: str
    active_experts: int  # A
    counts: tuple[tuple[int, ...], ...]  # [L, E]

    @property
    def tokens(self) -> int:
        """Positions that were routed, those of prompts too; more where requests left experts out."""
        return max(-(-sum(row) // self.active_experts) for row in self.counts)

    def shares(self, layer: int) -> tuple[float, ...]:
        """[E] the share of a layer's choices that each expert got; equal shares where nothing was counted."""
        counts, total = self.counts[layer], sum(self.counts[layer])
        return tuple(count / total if total else 1 / len(counts) for count in counts)

    def plus(self, counts: Sequence[Sequence[int]]) -> ExpertStats:
        """The statistics after more choices, [L, E]."""
        pairs = zip(self.counts, counts, strict=True)
        added = tuple(tuple(a + int(b) for a, b in zip(old, new, strict=True)) for old, new in pairs)
        return ExpertStats(self.model, self.active_experts, added)


def no_stats(spec: ModelSpec) -> ExpertStats:
    """The statistics of a model of which nothing was counted yet."""
    return ExpertStats(spec.name, spec.active_experts, ((0,) * spec.experts,) * spec.layers)


def load_stats(path: Path, spec: ModelSpec) -> ExpertStats:
    """Read the counts of a model. Raises SetupError unless the file is whole and of this model."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"the expert statistics {path} cannot be read: {error}") from error
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SetupError(f"the expert statistics {path} are no JSON: {error}; remove the file to begin anew") from error
    if fault := _fault(document, spec):
        raise SetupError(
            f"the expert statistics {path}: {one_line(fault, 300)}; name another file, or remove it to begin anew"
        )
    counts = tuple(tuple(row) for row in document["counts"])
    return ExpertStats(spec.name, spec.active_experts, counts)


def save_stats(path: Path, stats: ExpertStats) -> None:
    """Write the file beside `path` and rename it, so that it is whole at any time. Raises OSError."""
    head = {_VERSION_KEY: VERSION, "model": stats.model, "tokens": stats.tokens, "active_experts": stats.active_experts}
    lines = [f"{json.dumps(key)}: {json.dumps(value)}," for key, value in head.items()]
    rows = ",\n".join(json.dumps(row) for row in stats.counts)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text("\n".join(["{", *lines, '"counts": [', rows, "]", "}", ""]))
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _fault(document: Any, spec: ModelSpec) -> str | None:
    """What is wrong with a file's content, found and expected."""
    if not isinstance(document, dict) or document.get(_VERSION_KEY) != VERSION:
        return f"found no {_VERSION_KEY} of version {VERSION}"
    if set(document) != _KEYS:
        return f"found the keys {', '.join(sorted(document))}, expected {', '.join(sorted(_KEYS))}"
    if document["model"] != spec.name:
        return f"they are of the model {document['model']!r}, expected {spec.name!r}"
    counts, tokens = document["counts"], document["tokens"]
    if document["active_experts"] != spec.active_experts:
        return f"found {document['active_experts']!r} active experts, expected {spec.active_experts}"
    if not _is_count(tokens):
        return f"found tokens = {tokens!r}, expected a whole number"
    if not isinstance(counts, list) or len(counts) != spec.layers:
        return f"expected a list of counts for each of {spec.layers} layers"
    for layer, row in enumerate(counts):
        if not isinstance(row, list) or len(row) != spec.experts or not all(_is_count(count) for count in row):
            return f"layer {layer}: expected {spec.experts} counts, one per expert"
        if sum(row) > tokens * spec.active_experts:
            expected = f"{tokens} tokens x {spec.active_experts} at most"
            return f"layer {layer}: the counts add up to {sum(row)}, expected {expected}"
    return None


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MOST_COUNT
