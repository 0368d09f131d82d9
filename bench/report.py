"""The table of python -m bench: medians over all rounds, and how they compare."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.table import Table

from bench.figures import OURS, Figure, Machine


@dataclass(frozen=True, slots=True)
class Row:
    """One metric of one case, by one layout of numoe's workers and by the peers."""

    case: str
    metric: str
    layout: str
    speeds: dict[str, float]  # median tokens per second by engine
    weight_bytes: float  # per token
    read_bytes_per_second: float  # of weights and of keys and values
    fill: float  # that over what the machine gives; 0: not known
    peak: float  # operations over what the cores can do, of prompts only; 0: not known
    kept: dict[str, float]  # of the undisturbed speed, by engine; disturbed decodes only

    @property
    def ratio(self) -> float:
        """Our speed over the best other; 0: one of them is missing."""
        others = [speed for engine, speed in self.speeds.items() if engine != OURS]
        return self.speeds.get(OURS, 0.0) / max(others) if others else 0.0


def median_speed(figures: Iterable[Figure]) -> float:
    """The median over all repetitions of all rounds, in tokens per second; 0: there is none."""
    speeds = [speed for figure in figures for speed in figure.tokens_per_second]
    return statistics.median(speeds) if speeds else 0.0


def rows(figures: Sequence[Figure], machine: Machine) -> list[Row]:
    """The rows of the table, in the order in which metrics were first measured; what only peers have ends each case."""
    measured = [figure for figure in figures if figure.tokens_per_second]
    ours = dict.fromkeys((one.case, one.metric, one.layout) for one in measured if one.engine == OURS)
    answered = {key[:2] for key in ours}
    alone = dict.fromkeys(
        (one.case, one.metric, "") for one in measured if one.engine != OURS and (one.case, one.metric) not in answered
    )
    cases = list(dict.fromkeys(one.case for one in measured))
    keys = sorted([*ours, *alone], key=lambda key: cases.index(key[0]))
    return [_row(measured, machine, *key) for key in keys]


def _row(figures: Sequence[Figure], machine: Machine, case: str, metric: str, layout: str) -> Row:
    own = [one for one in figures if one.engine == OURS and one.layout == layout]
    own = [one for one in own if (one.case, one.metric) == (case, metric)]
    found = _speeds(figures, case, metric, layout)
    speed = found.get(OURS, 0.0)
    weight_bytes = statistics.mean(one.weight_bytes for one in own) if own else 0.0
    read = speed * (weight_bytes + (own[0].kv_bytes if own else 0.0))
    prompt = metric.startswith("pp")
    peak = machine.operations_per_second * own[0].threads if own and prompt else 0.0
    usual = _speeds(figures, case, _undisturbed(figures, case), layout) if metric.endswith(" disturbed") else {}
    return Row(
        case=case,
        metric=metric,
        layout=layout,
        speeds=found,
        weight_bytes=weight_bytes,
        read_bytes_per_second=read,
        fill=read / machine.read_bytes_per_second if machine.read_bytes_per_second else 0.0,
        peak=speed * own[0].operations / peak if peak else 0.0,
        kept={engine: value / usual[engine] for engine, value in found.items() if usual.get(engine)},
    )


def _speeds(figures: Sequence[Figure], case: str, metric: str, layout: str) -> dict[str, float]:
    chosen = [one for one in figures if (one.case, one.metric) == (case, metric)]
    chosen = [one for one in chosen if one.engine != OURS or one.layout == layout]
    by_engine = {one.engine: [other for other in chosen if other.engine == one.engine] for one in chosen}
    return {engine: median_speed(found) for engine, found in by_engine.items()}


def _undisturbed(figures: Sequence[Figure], case: str) -> str:
    """The metric of decoding that nothing disturbs, "" if there is none."""
    names = (one.metric for one in figures if one.case == case)
    return next((name for name in names if name.startswith("tg") and " " not in name), "")


def table(found: Sequence[Row], engines: Sequence[str]) -> Table:
    """The table to print; figures are tokens per second unless their column says otherwise."""
    made = Table("case", "metric", "layout")
    for name in (*engines, "ratio to the best", "MB/token", "GB/s", "fill", "share of peak"):
        made.add_column(name, justify="right")
    for row in found:
        cells = [_speed(row, engine) for engine in engines]
        made.add_row(
            row.case,
            row.metric,
            row.layout,
            *cells,
            f"{row.ratio:.2f}" if row.ratio else "",
            f"{row.weight_bytes / 1e6:.1f}" if row.weight_bytes else "",
            f"{row.read_bytes_per_second / 1e9:.1f}" if row.read_bytes_per_second else "",
            f"{row.fill:.0%}" if row.fill else "",
            f"{row.peak:.0%}" if row.peak else "",
        )
    return made


def _speed(row: Row, engine: str) -> str:
    if engine not in row.speeds:
        return ""
    kept = f" ({row.kept[engine]:.0%} kept)" if engine in row.kept else ""
    return f"{row.speeds[engine]:.1f}{kept}"


def failures(figures: Sequence[Figure]) -> list[str]:
    """One line per kind of failure."""
    lines = [f"{one.case}: {one.engine}: {one.metric} {one.error}" for one in figures if one.error]
    return list(dict.fromkeys(lines))
