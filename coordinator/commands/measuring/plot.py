"""Draws a sweep as reports of ik_llama.cpp's users show it, speeds of prompts and decodes over N_KV; saves pictures."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from numoe.coordinator.measuring.sweep import Sweep, SweepRow
from numoe.protos.errors import SetupError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ENDINGS = (".png", ".svg", ".pdf")


def refuse_without_matplotlib(path: Path) -> None:
    """Raise SetupError where no picture of this name can be drawn."""
    if path.suffix.lower() not in ENDINGS:
        raise SetupError(f"--plot is {path}, expected a name that ends with {', '.join(ENDINGS)}")
    if find_spec("matplotlib") is None:
        raise SetupError("--plot needs matplotlib, which is not installed: pip install 'numoe[plot]'")


def draw_sweep(path: Path, title: str, sweep: Sweep, rows: Sequence[SweepRow]) -> None:
    """Write the picture of these rows. Raises SetupError where it cannot be written."""
    from matplotlib.figure import Figure  # 0.5 s, and no part of what everybody installs

    depths = [row.depth for row in rows]
    figure = Figure(figsize=(12, 5), layout="constrained")
    panels = figure.subplots(1, 2)
    speeds = (
        (f"PP {sweep.prompt}", [sweep.prompt / row.prompt.seconds for row in rows]),
        (f"TG {sweep.generated}", [sweep.generated / row.decode.seconds for row in rows]),
    )
    for panel, (name, values) in zip(panels, speeds, strict=True):
        panel.plot(depths, values, marker="o", markersize=3)
        panel.set_title(name)
        panel.set_xlabel("N_KV, tokens")
        panel.set_ylabel("tokens/s")
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.3)
    figure.suptitle(title, parse_math=False)
    save(path, figure)


def save(path: Path, figure: Figure) -> None:
    """Raises SetupError where it cannot be written."""
    try:
        figure.savefig(path, dpi=120)
    except OSError as error:
        raise SetupError(f"--plot {path} cannot be written: {error.strerror}") from error
