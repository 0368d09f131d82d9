"""llama.cpp and ik_llama.cpp, measured by the programs that come with them; what is not there is left out."""

from __future__ import annotations

import json
import math
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.disturbance import busy
from bench.figures import Figure, decode_name, disturbed_name, prompt_name, streams_name
from bench.ours import Workload

# llama.cpp's -fa takes a value in some versions and none in others; all of them take this.
FLASH_ATTENTION = {"LLAMA_ARG_FLASH_ATTN": "1"}
BENCH, BATCHED, SWEEP = "llama-bench", "llama-batched-bench", "llama-sweep-bench"


@dataclass(frozen=True, slots=True)
class Peer:
    """One column of the table: an engine with its options."""

    name: str
    folder: Path  # of its programs
    is_ik: bool
    repack: bool = False  # ik: -rtr, weights interleaved when they are loaded

    def program(self, name: str) -> Path | None:
        """Its path; None if it was not built."""
        path = self.folder / name
        return path if path.is_file() else None


def find_peers(llama_cpp: Path | None, ik_llama_cpp: Path | None) -> list[Peer]:
    """The columns that the given folders make possible."""
    found = []
    if ik_llama_cpp is not None:
        found += [Peer("ik", ik_llama_cpp, is_ik=True), Peer("ik -rtr", ik_llama_cpp, is_ik=True, repack=True)]
    if llama_cpp is not None:
        found.append(Peer("llama.cpp", llama_cpp, is_ik=False))
    return [peer for peer in found if peer.program(BENCH) or peer.program(BATCHED)]


def commands(peer: Peer, model: Path, threads: int, work: Workload) -> Iterator[tuple[str, list[str]]]:
    """What to run: a program's name and all its arguments, one model loading each."""
    common = ["-m", str(model), "-t", str(threads), "-fa", "1", "-r", str(work.repetitions), "-o", "json"]
    common += ["-rtr", "1"] if peer.repack else []
    common += _kv_arguments(work)
    yield BENCH, ["-p", str(work.prompt), "-n", str(work.decode), *common]
    if work.depths and peer.is_ik:
        yield SWEEP, _sweep_arguments(peer, model, threads, work)
    elif work.depths:
        yield BENCH, ["-p", str(work.prompt), "-n", str(work.decode), "-d", ",".join(map(str, work.depths)), *common]
    if work.streams:
        yield BATCHED, _batched_arguments(peer, model, threads, work)


def _batched_arguments(peer: Peer, model: Path, threads: int, work: Workload) -> list[str]:
    context = max(work.streams) * (work.stream_prompt + work.stream_decode)
    return [
        *("-m", str(model), "-t", str(threads), "-c", str(context), "-b", "2048", "-ub", "512"),
        *(["-fa", "on"] if peer.is_ik else []),
        *("-npp", str(work.stream_prompt), "-ntg", str(work.stream_decode), "-npl", ",".join(map(str, work.streams))),
        *(["-rtr"] if peer.repack else []),
        *_kv_arguments(work),
    ]


def _sweep_arguments(peer: Peer, model: Path, threads: int, work: Workload) -> list[str]:
    """One pass over the whole context, which measures at depths of so many prompts, the wanted ones among them."""
    stride = math.gcd(*work.depths) // work.prompt
    return [
        *("-m", str(model), "-t", str(threads), "-fa", "on", "-c", str(max(work.depths) + work.prompt)),
        *("-b", "2048", "-ub", str(work.prompt), "-n", str(work.decode), "--sweep-stride", str(max(stride, 1))),
        *(["-rtr"] if peer.repack else []),
        *_kv_arguments(work),
    ]


def _kv_arguments(work: Workload) -> list[str]:
    """Both programs of both peers keep keys and values in f16 unless they are told."""
    return [] if work.kv_type == "f16" else ["-ctk", work.kv_type, "-ctv", work.kv_type]


def measure_peer(
    case: str, model: Path, peer: Peer, threads: int, work: Workload, round_number: int, timeout_seconds: float
) -> list[Figure]:
    """One round of everything; a program that fails leaves a figure without speeds that says why."""
    figures: list[Figure] = []
    model = model.resolve()

    def run(program: str, arguments: list[str], disturbed: bool = False) -> None:
        path = peer.program(program)
        if path is None:
            return
        cpu = work.disturbed_cpu if disturbed else None
        with busy(cpu) if cpu is not None else nullcontext():
            text, error = _output([str(path.resolve()), *arguments], timeout_seconds)
        try:
            speeds = _parse(program, peer, text, work)
        except (ValueError, KeyError) as fault:
            speeds, error = {}, error or f"its output could not be read: {fault}"
        if disturbed:
            speeds = {disturbed_name(work.disturbed_decode): values for values in speeds.values()}
        for metric, values in speeds.items():
            figures.append(Figure(case, peer.name, metric, round_number, values, threads=threads))
        if error:
            figures.append(Figure(case, peer.name, program, round_number, (), threads=threads, error=error))

    for program, arguments in commands(peer, model, threads, work):
        run(program, arguments)
    if work.disturbed_cpu is not None:
        _, arguments = next(commands(peer, model, threads, work))
        run(BENCH, ["-p", "0", "-n", str(work.disturbed_decode), *arguments[4:]], disturbed=True)
    return figures


def _output(command: list[str], timeout_seconds: float) -> tuple[str, str]:
    """What a program printed, its messages last (ik's tables are among them), and what went wrong, "" for nothing."""
    try:
        with TemporaryDirectory() as folder:  # they leave logs where they run
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout_seconds,
                cwd=folder,
                env={**os.environ, **FLASH_ATTENTION},
            )
    except subprocess.TimeoutExpired:
        return "", f"took more than {timeout_seconds:.0f} s"
    lines = done.stderr.strip().splitlines() or ["no message"]
    return f"{done.stdout}\n{done.stderr}", f"ended with {done.returncode}: {lines[-1]}" if done.returncode else ""


def _parse(program: str, peer: Peer, text: str, work: Workload) -> dict[str, tuple[float, ...]]:
    if program == BATCHED:
        return parse_batched(text, alike=peer.is_ik)
    return parse_sweep(text, work.depths) if program == SWEEP else parse_bench(text)


def parse_bench(text: str) -> dict[str, tuple[float, ...]]:
    """Tokens per second of each repetition by metric, from the JSON of either llama-bench."""
    start = text.find("[\n")
    if start < 0:
        raise ValueError(f"found no JSON list in {text[:80]!r}")
    entries, _ = json.JSONDecoder().raw_decode(text[start:])
    return {_metric(entry): tuple(float(speed) for speed in entry["samples_ts"]) for entry in entries}


def _metric(entry: dict[str, Any]) -> str:
    depth = int(entry.get("n_depth", 0))  # ik_llama.cpp's has none
    if not entry["n_gen"]:
        return prompt_name(int(entry["n_prompt"]), depth)
    return decode_name(int(entry["n_gen"]), depth)


def parse_batched(text: str, *, alike: bool = False) -> dict[str, tuple[float, ...]]:
    """Decoded tokens per second of all sequences by metric, from the table of either llama-batched-bench.

    alike: the tool decodes the same tokens in all sequences. llama.cpp's draws each, ik_llama.cpp's takes token 0.
    """
    speeds: dict[str, tuple[float, ...]] = {}
    for cells in _table(text):
        metric = streams_name(int(cells["B"]), int(cells["TG"]), alike=alike)
        speeds[metric] = (float(cells["S_TG t/s"]),)
    return speeds


def parse_sweep(text: str, depths: Sequence[int]) -> dict[str, tuple[float, ...]]:
    """Tokens per second of prompts and decodes at these depths by metric, from llama-sweep-bench's table."""
    speeds: dict[str, tuple[float, ...]] = {}
    for cells in _table(text):
        if (depth := int(cells["N_KV"])) in depths:
            speeds[prompt_name(int(cells["PP"]), depth)] = (float(cells["S_PP t/s"]),)
            speeds[decode_name(int(cells["TG"]), depth)] = (float(cells["S_TG t/s"]),)
    return speeds


def _table(text: str) -> list[dict[str, str]]:
    """The rows of numbers in the table that begins with PP among other lines. Raises ValueError."""
    lines = [line.strip() for line in text.splitlines()]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    if not rows or "S_TG t/s" not in rows[0]:
        raise ValueError(f"found no table in {text[:80]!r}")
    return [dict(zip(rows[0], row, strict=False)) for row in rows[1:] if row[0].isdecimal()]
