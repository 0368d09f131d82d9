"""What a service gives those who ask it over OpenAI's HTTP."""

from __future__ import annotations

import asyncio

from numoe.coordinator.access.credentials import Access
from numoe.coordinator.measuring.load.driving import Outcome, drive
from numoe.coordinator.measuring.load.figures import LoadFigures, figures_of
from numoe.coordinator.measuring.load.http_target import HttpTarget, read_url
from numoe.coordinator.measuring.load.questions import Mix, make_questions

GREEDY, SAMPLED = "greedy", "0.6, 20, 0.95"
SETTINGS = {GREEDY: (0.0, 0, 1.0), SAMPLED: (0.6, 20, 0.95)}  # temperature, top-k, top-p; the latter are Qwen3's own
PATIENCE_SECONDS = 600.0


def ask(url: str, streams: int, mix: Mix) -> LoadFigures:
    """What all questions of a mix get."""
    target = HttpTarget(read_url(url), Access(), "", chat=False)

    async def all_of_them() -> list[Outcome]:
        await target.find_model()
        return await drive(make_questions(mix), target, streams, PATIENCE_SECONDS)

    figures = figures_of(asyncio.run(all_of_them()))
    if figures.errors:
        raise SystemExit(f"{url}: {figures.errors}")
    return figures
