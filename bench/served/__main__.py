"""numoe and llama.cpp's llama-server as clients use them: python -m bench.served MODEL.gguf --llama-cpp FOLDER

Both serve the same file, and are asked the same questions in turn over OpenAI's HTTP, as `numoe load` asks them: short
prompts that begin unlike each other, greedy and with Qwen3's own settings, at 1, 4 and 16 streams. Then a long prompt,
and the same once more, which a cache of prompts may answer. After each round the medians so far, and how many times
as much numoe gives. The service that is not asked sleeps. Without --llama-cpp there is one column.
"""

from __future__ import annotations

import platform
import socket
import statistics
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from cyclopts import App
from rich.console import Console
from rich.table import Table

from bench.machine import cores
from bench.served.asking import PATIENCE_SECONDS, SETTINGS, ask
from bench.service import serving
from numoe.coordinator.measuring.load.figures import LoadFigures
from numoe.coordinator.measuring.load.questions import Mix

app = App(help=__doc__)

WORDS, ANSWER = (64, 64), (48, 80)  # of a question, tokens of its answer: from, to
LONG_WORDS, LONG_ANSWER, LONG_SEED = (2000, 2000), (4, 4), 1 << 21
QUESTIONS = 2  # of each stream
CONTEXT = 4096
OURS, THEIRS = "numoe", "llama-server"
Cell = tuple[str, str, int]  # service, settings, streams


@contextmanager
def llama_server(program: Path, model: Path, streams: int) -> Iterator[str]:
    """llama-server on a free port, with room for so many streams; its URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    size = ["-c", str(CONTEXT * streams), "-np", str(streams), "-t", str(len(cores()))]
    command = [str(program), "-m", str(model), "--port", str(port), "-fa", *size]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _await_health(process, f"http://127.0.0.1:{port}/health")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def _await_health(process: subprocess.Popen[bytes], url: str) -> None:
    for _ in range(int(PATIENCE_SECONDS)):
        if process.poll() is not None:
            raise SystemExit(f"llama-server ended with {process.returncode}: run {process.args!r} to see why")
        try:
            with urllib.request.urlopen(url):
                return
        except OSError:  # it refuses while it loads
            time.sleep(1)
    raise SystemExit(f"llama-server has not loaded the model within {PATIENCE_SECONDS:.0f} s")


def first_seconds(url: str, seed: int) -> tuple[float, float]:
    """To the first token of a long prompt, and of the same once more."""
    mix = Mix(1, LONG_WORDS, LONG_ANSWER, temperature=0.0, seed=LONG_SEED + seed)
    new, again = (ask(url, 1, mix).first_token.percentiles[50] for _ in range(2))
    return new, again


def round_of(urls: dict[str, str], streams: Sequence[int], seed: int) -> Iterator[tuple[Cell, LoadFigures]]:
    """Every service in turn, for each setting."""
    for number, (name, (temperature, top_k, top_p)) in enumerate(SETTINGS.items()):
        for count in streams:
            own = seed + len(SETTINGS) * count + number  # no prompt is asked twice: a cache would answer it
            mix = Mix(max(QUESTIONS * count, 4), WORDS, ANSWER, None, temperature, own, top_k, top_p)
            for service, url in urls.items():
                yield (service, name, count), ask(url, count, mix)


@app.default
def main(model: Path, *, llama_cpp: Path | None = None, streams: str = "1,4,16", rounds: int = 5) -> None:
    """Measure, and print the tables.

    Parameters
    ----------
    model
        The file that both serve.
    llama_cpp
        Folder of llama.cpp's programs.
    streams
        How many questions are open at once.
    rounds
        Of all, one service after the other in each.
    """
    counts = [int(part) for part in streams.split(",")]
    found: dict[Cell, list[LoadFigures]] = {}
    long: dict[str, list[tuple[float, float]]] = {}
    console = Console(width=None if Console().is_terminal else 120)
    with ExitStack() as stack:
        ours = serving(model, "--http-address", "127.0.0.1:0", "--context-tokens", str(CONTEXT))
        urls = {OURS: f"http://{stack.enter_context(ours).http}"}
        if llama_cpp is not None:
            urls[THEIRS] = stack.enter_context(llama_server(llama_cpp / THEIRS, model, max(counts)))
        for url in urls.values():
            ask(url, 1, Mix(2, WORDS, (8, 8), seed=1 << 20))
        for number in range(rounds):
            for cell, figures in round_of(urls, counts, 1000 * number):
                found.setdefault(cell, []).append(figures)
            for service, url in urls.items():
                long.setdefault(service, []).append(first_seconds(url, number))
            title = f"{platform.node()}, {len(cores())} cores, {model.name}, {time.ctime()}, after round {number + 1}"
            console.print(title, highlight=False)
            console.print(_rates(found, list(urls), counts))
            console.print(_prompts(long))


def _rates(found: dict[Cell, list[LoadFigures]], services: list[str], streams: list[int]) -> Table:
    head = [part for service in services for part in (f"{service}: tokens/s", "first token s")]
    several = len(services) > 1
    table = Table("settings", "streams", *head, *["times"] * several)
    for name in SETTINGS:
        for count in streams:
            rates, cells = [], []
            for service in services:
                of_all = found[service, name, count]
                rates.append(statistics.median(one.answer_tokens_per_second for one in of_all))
                first = statistics.median(one.first_token.percentiles[50] for one in of_all)
                cells += [f"{rates[-1]:.1f}", f"{first:.2f}"]
            table.add_row(name, str(count), *cells, *[f"{rates[0] / rates[-1]:.2f}"] * several)
    return table


def _prompts(long: dict[str, list[tuple[float, float]]]) -> Table:
    table = Table(f"prompt of {LONG_WORDS[0]} words", "first token s", "the same again")
    for service, times in long.items():
        table.add_row(service, *(f"{statistics.median(column):.3f}" for column in zip(*times, strict=True)))
    return table


if __name__ == "__main__":
    app()
