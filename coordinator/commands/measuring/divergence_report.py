"""What `numoe perplexity --kl-divergence` prints: llama-perplexity's lines, to the letter."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from numoe.coordinator.measuring.divergence import Comparison, Statistics, statistics_of
from numoe.coordinator.measuring.likelihoods import Uncertain

HEADING = (
    "chunk             PPL               ln(PPL(Q)/PPL(base))          KL Divergence              Δp RMS"
    "            Same top p\n"
)
LEAST_COUNT = 100  # positions for the statistics of all
DIVERGENCE_SHARES = (0.999, 0.99, 0.95, 0.9, 0.5, 0.1, 0.05, 0.01, 0.001)
CHANGE_SHARES = (0.999, 0.99, 0.95, 0.9, 0.75, 0.5, 0.25, 0.1, 0.05, 0.01, 0.001)


def chunk_line(number: int, found: Statistics) -> str:
    """The line that follows a chunk, of all so far."""
    cells = (
        _cell(found.perplexity, 9, 4),
        _cell(found.log_ratio, 10, 5),
        _cell(found.divergence, 10, 5),
        _cell(_percent(found.change_rms), 6, 3) + " %",
        _cell(_percent(found.same_top), 6, 3) + " %",
    )
    return "    ".join((f"{number:4d}", *cells)) + "\n"


def report(found: Comparison) -> str:
    """The statistics of all positions."""
    all_of_it = statistics_of(found)
    return "\n".join((_perplexities(all_of_it), _divergences(all_of_it, found), _changes(all_of_it, found)))


def _perplexities(found: Statistics) -> str:
    lines = (
        "====== Perplexity statistics ======",
        f"Mean PPL(Q)                   : {_cell(found.perplexity, 10, 6)}",
        f"Mean PPL(base)                : {_cell(found.base_perplexity, 10, 6)}",
        f"Cor(ln(PPL(Q)), ln(PPL(base))): {100 * found.correlation:6.2f}%",
        f"Mean ln(PPL(Q)/PPL(base))     : {_cell(found.log_ratio, 10, 6)}",
        f"Mean PPL(Q)/PPL(base)         : {_cell(found.ratio, 10, 6)}",
        f"Mean PPL(Q)-PPL(base)         : {_cell(found.difference, 10, 6)}",
    )
    return _lines(lines)


def _divergences(found: Statistics, all_of_it: Comparison) -> str:
    lines = [
        "====== KL divergence statistics ======",
        f"Mean    KLD: {_cell(found.divergence, 10, 6)}",
        f"Maximum KLD: {all_of_it.divergence.max():10.6f}",
    ]
    for share, value in _quantiles(all_of_it.divergence, DIVERGENCE_SHARES):
        lines.append(f"{_share(share)} KLD: {value:10.6f}")
    return _lines([*lines, f"Minimum KLD: {all_of_it.divergence.min():10.6f}"])


def _changes(found: Statistics, all_of_it: Comparison) -> str:
    change, change_rms, same_top = (_percent(one) for one in (found.change, found.change_rms, found.same_top))
    lines = [
        "====== Token probability statistics ======",
        f"Mean    Δp: {change.value:6.3f} ± {change.error:5.3f} %",
        f"Maximum Δp: {100 * all_of_it.change.max():6.3f}%",
    ]
    for share, value in _quantiles(all_of_it.change, CHANGE_SHARES):
        lines.append(f"{_share(share)} Δp: {100 * value:6.3f}%")
    lines.append(f"Minimum Δp: {100 * all_of_it.change.min():6.3f}%")
    lines.append(f"RMS Δp    : {change_rms.value:6.3f} ± {change_rms.error:5.3f} %")
    return _lines([*lines, f"Same top p: {same_top.value:6.3f} ± {same_top.error:5.3f} %"])


def _quantiles(values: NDArray[np.float64], shares: tuple[float, ...]) -> list[tuple[float, float]]:
    return list(zip(shares, np.quantile(values, shares).tolist(), strict=True))


def _share(share: float) -> str:
    return "Median " if share == 0.5 else f"{100 * share:4.1f}%  "


def _percent(one: Uncertain) -> Uncertain:
    return Uncertain(100 * one.value, 100 * one.error)


def _cell(one: Uncertain, width: int, decimals: int) -> str:
    return f"{one.value:{width}.{decimals}f} ± {one.error:{width}.{decimals}f}"


def _lines(lines: list[str] | tuple[str, ...]) -> str:
    return "\n".join(lines) + "\n"
