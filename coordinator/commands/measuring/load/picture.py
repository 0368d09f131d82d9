"""Draws a load: what the service gave over time, and what its clients waited."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from numoe.coordinator.commands.measuring.plot import save
from numoe.coordinator.measuring.load.driving import Outcome
from numoe.coordinator.measuring.load.figures import LoadFigures

BARS = 60  # over the whole time


def draw_load(path: Path, title: str, figures: LoadFigures, outcomes: Sequence[Outcome]) -> None:
    """Write the picture. Raises SetupError where it cannot be written."""
    from matplotlib.figure import Figure  # 0.5 s, and no part of what everybody installs

    answered = [one for one in outcomes if not one.error]
    figure = Figure(figsize=(15, 5), layout="constrained")
    flow, first, gaps = figure.subplots(1, 3)

    width = figures.seconds / BARS
    counted = Counter(math.floor(at / width) for one in answered for at in one.pieces)
    flow.bar([bar * width for bar in counted], [number / width for number in counted.values()], width, align="edge")
    flow.set(title="pieces of answers a second", xlabel="seconds", ylabel="1/s")

    begun = [(one.began, one.pieces[0] - one.began) for one in answered if one.pieces]
    first.scatter([at for at, _ in begun], [waited for _, waited in begun], s=8)
    first.set(title="time to the first token", xlabel="asked at, seconds", ylabel="seconds")

    waited = sorted(later - earlier for one in answered for earlier, later in pairwise(one.pieces))
    shares = [(number + 1) / len(waited) for number in range(len(waited))]
    gaps.plot(waited, shares)
    gaps.set(title="time between tokens", xlabel="seconds, no longer", ylabel="share")

    for panel in (flow, first, gaps):
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.3)
    figure.suptitle(title, parse_math=False)
    save(path, figure)
