"""What drawing costs a client: python -m bench.served.sampled MODEL.gguf

A service answers the same questions greedily and with Qwen3's own settings, in turn, and the other way round the next
time. A pair's ratio is that of the median times from token to token. A shared machine's speed moves by more than what
is looked for, but within a pair it moves little: so the median of many ratios tells of a percent where two medians
would not. Guesses are off: how often a text repeats itself is not what drawing costs.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from cyclopts import App
from rich.console import Console
from rich.table import Table

from bench.served.asking import GREEDY, SAMPLED, SETTINGS, ask
from bench.service import serving
from numoe.coordinator.measuring.load.questions import Mix

app = App(help=__doc__)

WORDS, ANSWER_TOKENS = 24, 32
DEVIATIONS = 1.645  # of a normal distribution, within which 90 % lie
Pair = tuple[float, float]  # seconds from token to token: greedy, sampled


def median_within(ratios: Sequence[float]) -> tuple[float, float, float]:
    """The median, and between which of the ratios it lies nine times of ten: ranks of a binomial distribution."""
    ordered = sorted(ratios)
    away = DEVIATIONS * math.sqrt(len(ordered)) / 2
    low, high = math.floor(len(ordered) / 2 - away), math.ceil(len(ordered) / 2 + away)
    return statistics.median(ordered), ordered[max(low, 0)], ordered[min(high, len(ordered) - 1)]


def ask_both(url: str, streams: int, number: int) -> Pair:
    """One pair; nobody has asked its questions before."""
    found: dict[str, float] = {}
    for name in (GREEDY, SAMPLED) if number % 2 else (SAMPLED, GREEDY):
        temperature, top_k, top_p = SETTINGS[name]
        words, answer = (WORDS, WORDS), (ANSWER_TOKENS, ANSWER_TOKENS)
        mix = Mix(streams, words, answer, None, temperature, (streams << 16) + number, top_k, top_p)
        found[name] = ask(url, streams, mix).between_tokens.percentiles[50]
    return found[GREEDY], found[SAMPLED]


@app.default
def main(model: Path, *, streams: str = "1,4,16", minutes: float = 5.0) -> None:
    """Measure, and print a row for each number of streams.

    Parameters
    ----------
    model
        The file that is served.
    streams
        How many questions are open at once.
    minutes
        Of each number of streams.
    """
    table = Table("streams", "pairs", "greedy ms", "sampled / greedy", "90 % within", title=model.name)
    with serving(model, "--http-address", "127.0.0.1:0", "--speculate", "off") as service:
        url = f"http://{service.http}"
        for count in map(int, streams.split(",")):
            ask_both(url, count, 0)  # which is not counted
            pairs: list[Pair] = []
            end = time.monotonic() + 60 * minutes
            while not pairs or time.monotonic() < end:
                pairs.append(ask_both(url, count, len(pairs) + 1))
            middle, low, high = median_within([sampled / greedy for greedy, sampled in pairs])
            greedy_ms = 1e3 * statistics.median(greedy for greedy, _ in pairs)
            cells = f"{greedy_ms:.1f}", f"{middle:.3f}", f"{low:.3f} to {high:.3f}"
            table.add_row(str(count), str(len(pairs)), *cells)
    Console(width=None if Console().is_terminal else 120).print(table)


if __name__ == "__main__":
    app()
