"""What a load came to, for people and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from numoe.coordinator.measuring.load.driving import Outcome
from numoe.coordinator.measuring.load.figures import PERCENTILES, LoadFigures, Waits
from numoe.coordinator.measuring.load.questions import Mix
from numoe.protos.foreign_text import harmless


def describe_load(title: str, figures: LoadFigures) -> RenderableType:
    """A table of waits below a line of throughput; what failed comes last."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("seconds")
    for name in ("mean", *(f"p{percent}" for percent in PERCENTILES), "longest"):
        table.add_column(name, justify="right")
    for name, waits in (
        ("to the first token", figures.first_token),
        ("between tokens", figures.between_tokens),
        ("to the end", figures.whole),
    ):
        table.add_row(name, *map(_seconds, (waits.mean, *waits.percentiles.values(), waits.longest)))
    told = (
        f"{figures.requests} answered in {figures.seconds:.1f} s: {figures.answer_tokens_per_second:.1f} tokens/s, "
        f"{figures.requests_per_second:.2f} requests/s; {figures.prompt_tokens} tokens of prompts, "
        f"{figures.answer_tokens} of answers"
    )
    errors = [Text(f"{count} failed: {harmless(error)}", "red") for error, count in figures.errors.items()]
    return Group(Text(title), Text(told, "bold"), table, *errors)


def load_json(asked: str, mix: Mix, figures: LoadFigures, outcomes: Sequence[Outcome]) -> str:
    """All of it, in seconds; what there is none of is null."""
    told = {
        "asked": asked,
        "mix": asdict(mix),
        "requests": figures.requests,
        "errors": figures.errors,
        "seconds": figures.seconds,
        "prompt_tokens": figures.prompt_tokens,
        "answer_tokens": figures.answer_tokens,
        "answer_tokens_per_second": figures.answer_tokens_per_second,
        "requests_per_second": figures.requests_per_second,
        "first_token_seconds": _waits(figures.first_token),
        "between_tokens_seconds": _waits(figures.between_tokens),
        "whole_seconds": _waits(figures.whole),
        "questions": [_question(one) for one in outcomes],
    }
    return json.dumps(told, indent=1, allow_nan=False)


def _question(outcome: Outcome) -> dict[str, Any]:
    return {
        "began": outcome.began,
        "first_token": outcome.pieces[0] if outcome.pieces else None,
        "ended": outcome.ended,
        "pieces": len(outcome.pieces),
        "prompt_tokens": outcome.usage.prompt,
        "answer_tokens": outcome.answer_tokens,
        "error": outcome.error or None,
    }


def _waits(waits: Waits) -> dict[str, float | None]:
    named = {"mean": waits.mean, **{f"p{percent}": value for percent, value in waits.percentiles.items()}}
    every = named | {"longest": waits.longest}
    return {name: None if math.isnan(value) else value for name, value in every.items()}


def _seconds(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"
