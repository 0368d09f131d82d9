"""What a second host costs and brings, on one machine: python -m tests.system.hosts.rates

Two hosts with a worker of one thread each, on a core of its own, the biggest model's 94 layers made narrow, beside one
host with one such worker; interleaved rounds, medians. The wire is then made to delay every frame by 1 ms each way, and
to lose 1 %.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from tests.system.clients import Client, ask, connected
from tests.system.hosts.several_hosts import THERE, SeveralHosts, serving_on, several_hosts
from tests.system.serve_process import NUMOE, serving

SHAPE = (
    *("--shape", "qwen3-235b-a22b", "--width", "256", "--query-heads", "8", "--kv-heads", "4", "--head-size", "64"),
    *("--expert-width", "64", "--vocabulary", "331", "--context-length", "4096", "--type", "Q8_0"),
)
FLAGS = (
    *("--address", "127.0.0.1:0", "--workers", "1", "--threads-per-worker", "1"),
    *("--sequences", "8", "--context-tokens", "2048", "--kv-tokens", "16384"),
)
TOKENS, STREAMS = 120, 8
WIRES = {"as it is": (0.0, 0.0), "1 ms later, each way": (1.0, 0.0), "1 % lost": (0.0, 0.01)}


async def rate(client: Client, streams: int) -> float:
    """Tokens per second of all, from the moment at which each has its first one."""
    every = [client.stream(ask(TOKENS, seed=seed)) for seed in range(streams)]
    await asyncio.gather(*[one.read_until("delta") for one in every])
    begun, before = time.monotonic(), sum(len(one.tokens) for one in every)
    await asyncio.gather(*[one.finish() for one in every])
    return (sum(len(one.tokens) for one in every) - before) / (max(one.ended_at for one in every) - begun)


async def profile(client: Client, address: str, streams: int) -> dict[str, Any]:
    """Of 100 steps."""
    command = [NUMOE, "profile", "--server", address, "--steps", "100", "--output-format", "json"]
    reading = [client.stream(ask(4 * TOKENS, seed=seed)) for seed in range(streams)]
    await asyncio.gather(*[one.read_until("delta") for one in reading])
    told = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=True)
    for one in reading:
        one.call.cancel()
    found: dict[str, Any] = json.loads(told.stdout)
    return found


async def measure(hosts: SeveralHosts, folder: Path, rounds: int) -> None:
    """Print all figures."""
    model = str(folder / "many-layers.gguf")
    subprocess.run([NUMOE, "demo-model", model, *SHAPE], check=True, capture_output=True)
    found: dict[str, list[float]] = defaultdict(list)
    with (
        serving(folder / "alone", model, *FLAGS) as alone,
        serving_on(hosts, folder / "log", model, *FLAGS) as both,
    ):
        async with connected(alone.address) as one, connected(both.address) as two:
            for client in (one, two):
                await rate(client, STREAMS)
            for _ in range(rounds):
                for streams in (1, STREAMS):
                    found[f"one host, {streams} streams"].append(await rate(one, streams))
                    for name, (milliseconds, loss) in WIRES.items():
                        hosts.worsen(THERE, milliseconds, loss)
                        found[f"two hosts, {streams} streams, wire {name}"].append(await rate(two, streams))
                    hosts.worsen(THERE)
            for name, rates in found.items():
                sys.stdout.write(f"{name}: {median(rates):.1f} tokens/s {[round(one, 1) for one in sorted(rates)]}\n")
            steps = [1e6 / median(found[f"{name} host{'s' * (name == 'two')}, 1 streams{wire}"]) for name, wire in PAIR]
            sys.stdout.write(
                f"one stream, a second stage costs {steps[1] - steps[0]:.0f} us of {steps[1]:.0f} a step\n"
            )
            for streams in (1, STREAMS):
                told = await profile(two, both.address, streams)
                sys.stdout.write(f"{streams} streams: hosts at work at once {told['hosts_at_work']:.2f} of 2\n")


PAIR = (("one", ""), ("two", ", wire as it is"))


def main() -> None:
    """Print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="how many (default: %(default)s)")
    with TemporaryDirectory() as folder, several_hosts(THERE, slow=True, apart=True) as hosts:
        asyncio.run(measure(hosts, Path(folder), parser.parse_args().rounds))


if __name__ == "__main__":
    main()
