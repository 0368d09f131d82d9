"""What one viewer of the stream at /ops/stream costs: python -m bench.watched MODEL.gguf [--rounds 8] [--seconds 10]

One request decodes while times without a viewer and times with one take turns, in an order that turns with them, as a
step takes longer the more tokens there are. Told are medians: the speed of decoding, the processor time of the
coordinator per second, the bytes that the viewer got per second, and the speed with a viewer over that without. Then,
for a map of 94 layers of 128 experts, the time that a second's look and its encoding take.
"""

from __future__ import annotations

import http.client
import math
import os
import platform
import statistics
import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Thread

from cyclopts import App
from rich.console import Console
from rich.table import Table

from bench.rebalance import Stream, decoding
from bench.service import Service, serving
from numoe.coordinator.api.http.stream import PartEncoder, message
from numoe.coordinator.machine.model_file import read_spec
from tests.coordinator.api.http.test_stream import snapshot

app = App(help=__doc__)

CONTEXT_TOKENS = 8192
LOOKS = 20


@dataclass(frozen=True, slots=True)
class Interval:
    """What was seen in some seconds."""

    tokens_per_second: float
    processor_share: float  # of one core, the coordinator's
    bytes_per_second: float  # that the viewer got


class Viewer:
    """Reads the stream, for the length of a block, and counts its bytes."""

    def __init__(self, address: str) -> None:
        self.bytes = 0
        self._connection = http.client.HTTPConnection(address)
        self._thread = Thread(target=self._read, daemon=True)

    def __enter__(self) -> Viewer:
        self._connection.request("GET", "/ops/stream")
        self._answer = self._connection.getresponse()
        self._answer.readline()
        self._answer.readline()
        self._answer.readline()  # the first message, which holds everything
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._connection.sock is not None:
            self._connection.sock.shutdown(2)
        self._thread.join()
        self._connection.close()

    def _read(self) -> None:
        try:
            while line := self._answer.readline():
                self.bytes += len(line)
        except (OSError, http.client.HTTPException, ValueError):
            return  # the block ended


def measure(service: Service, stream: Stream, seconds: float, viewer: Viewer | None) -> Interval:
    """Look at a running request for some seconds."""
    start, used, seen = time.monotonic(), service.processor_seconds(), viewer.bytes if viewer else 0
    time.sleep(seconds)
    end = time.monotonic()
    tokens = sum(start < at <= end for at in stream.times)
    share = (service.processor_seconds() - used) / (end - start)
    return Interval(tokens / (end - start), share, ((viewer.bytes if viewer else 0) - seen) / (end - start))


def look_seconds(tokens: int) -> tuple[float, float, float]:
    """To take the choices of a map of 94 x 128 after so many tokens, to encode all parts, and the message's bytes."""
    encoder, taking, encoding, sizes = PartEncoder(), [], [], []
    seen: dict[str, int] = {}
    for number in range(LOOKS):
        start = time.perf_counter()
        now = replace(snapshot(float(number), tokens + number), now=float(number))
        taken = time.perf_counter()
        parts = encoder.parts(now)
        sent = message({name: part.json for name, part in parts.items() if seen.get(name) != part.version})
        encoding.append(time.perf_counter() - taken)
        taking.append(taken - start)
        seen = {name: part.version for name, part in parts.items()}
        sizes.append(len(sent))
    return statistics.median(taking), statistics.median(encoding), statistics.median(sizes)


@app.default
def main(model: Path, /, *, rounds: int = 8, seconds: float = 10.0) -> None:
    """Print the figures.

    Parameters
    ----------
    model
        A GGUF file.
    rounds
        Times without and with a viewer; even.
    seconds
        Length of each.
    """
    alone, watched = [], []
    with (
        serving(model, "--context-tokens", str(CONTEXT_TOKENS)) as service,
        decoding(service.grpc, read_spec(model), 1, CONTEXT_TOKENS) as [stream],
    ):
        for number in range(rounds):
            for seen in (number % 2 == 1, number % 2 == 0):
                with Viewer(service.http) if seen else nullcontext() as viewer:
                    (watched if seen else alone).append(measure(service, stream, seconds, viewer))
    table = Table("", "tokens/s", "coordinator, % of a core", "bytes/s")
    for name, intervals in (("nobody", alone), ("one viewer", watched)):
        rates = [interval.tokens_per_second for interval in intervals]
        share = statistics.median(interval.processor_share for interval in intervals)
        sent = statistics.median(interval.bytes_per_second for interval in intervals)
        table.add_row(name, f"{statistics.median(rates):.1f}", f"{100 * share:.2f}", f"{sent:.0f}")
    console = Console()
    console.print(f"{platform.node()}, {model.name}, load {os.getloadavg()[0]:.1f}, {time.ctime()}")
    console.print(table)
    shares = [one.tokens_per_second / other.tokens_per_second for one, other in zip(watched, alone, strict=True)]
    pairs = [math.sqrt(one * other) for one, other in zip(shares[::2], shares[1::2], strict=True)]
    told = f"{statistics.median(pairs):.4f} (from {min(pairs):.4f} to {max(pairs):.4f})"
    console.print(f"Speed with a viewer over that without, of each two rounds: {told}")
    taking, encoding, size = look_seconds(600)
    told = f"{1e3 * taking:.1f} ms to take all choices, {1e3 * encoding:.1f} ms to encode all parts, {size:.0f} bytes"
    console.print(f"A map of 94 x 128 after 600 tokens, every part changed: {told}")


if __name__ == "__main__":
    app()
