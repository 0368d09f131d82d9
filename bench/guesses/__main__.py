"""What guesses bring and cost: python -m bench.guesses MODEL.gguf [--streams 1,4] [--guesses 1,2,4,8]

Steps that run guesses behind each stream's next token, beside steps that run none, in turn. *If all are right* are
tokens per second of a text that repeats itself word by word; *price* is what a guess adds to a step, as a share of the
step without: guesses that are right less often than that cost more than they bring, with one stream. Tokens are
random, so all have experts of their own, as in the worst of texts.
"""

from __future__ import annotations

import platform
import statistics
import time
from pathlib import Path

from cyclopts import App
from rich.console import Console
from rich.table import Table

from bench.group import worker_group
from numoe.coordinator.settings import EngineSettings

app = App(help=__doc__)

PROMPT, TOKENS = 64, 144  # of each stream
ROOM = -(-(PROMPT + TOKENS) // 64) * 64  # positions, in whole KV blocks


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


@app.default
def main(
    model: Path,
    *,
    streams: str = "1,4",
    guesses: str = "1,2,4,8",
    threads: int = 0,
    rounds: int = 3,
) -> None:
    """Measure, and print the table of medians; threads 0: one per core."""
    rows, counts = _numbers(streams), sorted({0, *_numbers(guesses)})
    engine = EngineSettings(
        sequences=max(rows) * (1 + max(counts)), context_tokens=ROOM, kv_tokens=max(rows) * ROOM, step_tokens=512
    )
    seconds: dict[tuple[int, int], list[float]] = {(row, count): [] for row in rows for count in counts}
    with worker_group(model, 1, threads or None, engine) as measured:
        steps = measured.steps()
        for row in rows:
            tokens = steps.random_tokens(PROMPT + TOKENS, row)
            steps.prompt(tokens[:, :PROMPT], room=ROOM)
            for _ in range(1 + rounds):  # the first warms up
                for count in counts:
                    took = steps.decode(tokens[:, PROMPT:], PROMPT, ROOM, guesses=count).seconds
                    seconds[row, count].append(took)
    table = Table("streams", "guesses", "step ms", "tokens/s if all are right", "over none", "price")
    took = {key: statistics.median(those[1:]) for key, those in seconds.items()}
    for (row, count), of_all in took.items():
        step, alone = of_all / -(-TOKENS // (1 + count)), took[row, 0] / TOKENS
        price = f"{(step / alone - 1) / count / row:.2f}" if count else ""
        rate, gain = row * TOKENS / of_all, took[row, 0] / of_all
        table.add_row(str(row), str(count), f"{step * 1e3:.1f}", f"{rate:.1f}", f"{gain:.2f}", price)
    console = Console()
    console.print(f"{platform.node()}, {measured.threads} threads, {model.name}, {time.ctime()}", highlight=False)
    console.print(table)


if __name__ == "__main__":
    app()
