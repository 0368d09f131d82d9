"""numoe beside llama.cpp and ik_llama.cpp, on the same files, in turn: python -m bench [CASE ...]

Each round measures the machine, then every engine on every case. The table shows medians over all rounds:

*fill*: bytes of weights, keys and values read per second, over the bandwidth that the machine gave in the same run;
*share of peak*: products and additions of the active weights per second, over the cores' integer peak.

Cases are 30b-q8_0, 30b-q4_k_m, 30b-q2_k and 235b-q8_0 (real layers, fewer of them than the real models have), or one of
your own by --shape. Behind a deep cache the peers compute all of it before: --depths '' leaves that out.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from rich.console import Console

from bench.figures import OURS, Figure, Machine
from bench.machine import cores, integer_peak, read_bandwidth
from bench.models import CASES, default_folder, written_model
from bench.ours import Layout, Workload, measure_ours
from bench.peers import Peer, find_peers, measure_peer
from bench.report import failures, rows, table
from numoe.coordinator.commands.demo_model import ShapeOptions
from numoe.coordinator.settings import KvType
from numoe.kernels.cpu.instruction_sets import INSTRUCTION_SET
from numoe.model.made_up.synthetic_shape import SyntheticShape
from numoe.protos.errors import SetupError

app = App(name="python -m bench", help=__doc__)


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Options:
    """How to measure."""

    folder: Path | None = None
    """Where models and results are kept. Default: $XDG_CACHE_HOME/numoe/bench."""
    rounds: int = 3
    """Rounds, each of all engines in turn."""
    llama_cpp: Path | None = None
    """Folder of llama.cpp's programs."""
    ik_llama_cpp: Path | None = None
    """Folder of ik_llama.cpp's programs."""
    layouts: str = "1x0,2x1"
    """Workers x threads of each, 0 for all cores; those after the first are measured without depths and streams."""
    prompt: int = 512
    """Tokens of the prompt."""
    decode: int = 128
    """Tokens decoded one by one."""
    depths: str = "4096,16384,32768"
    """Tokens in the cache before a further prompt and decode (ik_llama.cpp: of whole prompts); empty for none."""
    streams: str = "1,4,16,32"
    """Sequences decoded at once; empty for none."""
    stream_prompt: int = 64
    """Tokens of each stream's prompt."""
    stream_decode: int = 32
    """Tokens decoded of each stream."""
    disturbed: bool = False
    """Also decode while another process keeps the last core busy."""
    repetitions: int = 2
    """Of each measurement in a round."""
    kv_type: KvType = "f16"
    """Number format of keys and values, of all engines."""
    timeout_seconds: float = 7200.0
    """Longest run of a peer's program."""

    def workload(self) -> Workload:
        """What to measure of every engine. Raises SetupError."""
        return Workload(
            prompt=self.prompt,
            decode=self.decode,
            depths=_numbers(self.depths),
            streams=_numbers(self.streams),
            stream_prompt=self.stream_prompt,
            stream_decode=self.stream_decode,
            alike=self.ik_llama_cpp is not None,
            disturbed_cpu=cores()[-1] if self.disturbed else None,
            repetitions=self.repetitions,
            kv_type=self.kv_type,
        )

    def worker_layouts(self) -> list[Layout]:
        """How numoe's workers are laid out, in turn. Raises SetupError."""
        try:
            pairs = [part.split("x") for part in self.layouts.split(",")]
            return [Layout(int(workers), int(threads)) for workers, threads in pairs]
        except ValueError:
            raise SetupError(f"--layouts is {self.layouts!r}, expected WORKERSxTHREADS, ... like 1x0,2x1") from None


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise SetupError(f"found {text!r}, expected whole numbers with commas between") from None


def chosen_shapes(names: tuple[str, ...], shape: ShapeOptions) -> dict[str, SyntheticShape]:
    """The cases to measure, with fewer layers if that was said. Raises SetupError."""
    unknown = sorted(set(names) - CASES.keys())
    if unknown:
        raise SetupError(f"{unknown[0]} is no case; known are {', '.join(CASES)}, or say --shape")
    own = shape.synthetic()
    if own is not None and not names:
        return {f"{shape.shape}-{(own.mix or own.type.name).lower()}": own}
    found = {name: CASES[name] for name in names or CASES}
    return {name: replace(one, layers=shape.layers or one.layers) for name, one in found.items()}


def measure(shapes: dict[str, SyntheticShape], options: Options, console: Console) -> tuple[list[Figure], Machine]:
    """Measure all rounds."""
    folder, work, layouts = options.folder or default_folder(), options.workload(), options.worker_layouts()
    peers = find_peers(options.llama_cpp, options.ik_llama_cpp)
    figures: list[Figure] = []
    reads, peaks = [], []
    models = {name: written_model(folder, name, shape) for name, shape in shapes.items()}
    for number in range(options.rounds):
        reads.append(read_bandwidth(cores()).median)
        peaks.append(integer_peak(cores()).median)
        for case, model in models.items():
            for name, measured in _engines(case, model, layouts, peers, work, number, options.timeout_seconds):
                console.print(f"round {number + 1} of {options.rounds}: {case}: {name}", highlight=False)
                figures += measured
    return figures, Machine(statistics.median(reads), statistics.median(peaks))


def _engines(
    case: str, model: Path, layouts: list[Layout], peers: list[Peer], work: Workload, number: int, seconds: float
) -> Iterator[tuple[str, list[Figure]]]:
    """Measure every engine in turn; its name and its figures."""
    first = layouts[0]
    threads = len(cores()) if not first.threads else first.workers * first.threads
    for layout in layouts:
        yield f"{OURS} {layout}", measure_ours(case, model, layout, work, number, everything=layout == first)
    for peer in peers:
        yield peer.name, measure_peer(case, model, peer, threads, work, number, seconds)


@app.default
def main(
    *cases: str, options: Options | None = None, shape: Annotated[ShapeOptions | None, Parameter()] = None
) -> None:
    """Measure, print the table, and write every figure beside the models."""
    console, options = Console(width=None if Console().is_terminal else 160), options or Options()
    try:
        figures, machine = measure(chosen_shapes(cases, shape or ShapeOptions()), options, console)
    except SetupError as error:
        Console(stderr=True).print(f"error: {error}", markup=False)
        raise SystemExit(2) from None
    engines = list(dict.fromkeys(figure.engine for figure in figures))
    console.print(
        f"{platform.node()}, {len(cores())} cores, {INSTRUCTION_SET.name}, {time.ctime()}: "
        f"reads {machine.read_bytes_per_second / 1e9:.1f} GB/s, "
        f"computes {machine.operations_per_second / 1e9:.0f} GOP/s per core",
        highlight=False,
    )
    console.print(table(rows(figures, machine), engines))
    for line in failures(figures):
        console.print(line, markup=False)
    path = (options.folder or default_folder()) / f"results-{time.strftime('%Y%m%d-%H%M%S')}.json"
    raw = {"machine": asdict(machine), "figures": [asdict(figure) for figure in figures]}
    path.write_text(json.dumps(raw, indent=1))
    console.print(f"all figures: {path}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    app()
