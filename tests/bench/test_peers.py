"""The peers' programs are called with what they understand; their output, recorded from real runs, is understood."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from bench.ours import Workload
from bench.peers import Peer, commands, find_peers, measure_peer, parse_batched, parse_bench, parse_sweep

RECORDED = Path(__file__).parent / "recorded"
WORK = Workload(prompt=64, decode=8, depths=(128, 256), streams=(1, 4), stream_prompt=16, stream_decode=8)


def recorded(name: str) -> str:
    return (RECORDED / name).read_text()


def program(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_llama_bench_of_llama_cpp_is_understood() -> None:
    assert list(parse_bench(recorded("llama_cpp_bench.json"))) == ["pp64", "tg8"]
    assert list(parse_bench(recorded("llama_cpp_bench_depths.json"))) == [
        "pp64 @ d128",
        "tg8 @ d128",
        "pp64 @ d256",
        "tg8 @ d256",
    ]


def test_llama_bench_of_ik_is_understood_with_messages_around_it() -> None:
    speeds = parse_bench(f"some message\n{recorded('ik_bench.json')}and another [one]\n")
    assert list(speeds) == ["pp64", "tg8"]
    assert all(len(values) == 2 and min(values) > 0 for values in speeds.values())


def test_the_wanted_rows_of_the_sweep_of_ik_are_understood() -> None:
    assert parse_sweep(recorded("ik_sweep_bench.txt"), (128, 256)) == {
        "pp64 @ d128": (18043.42,),
        "tg8 @ d128": (6309.15,),
        "pp64 @ d256": (11239.90,),
        "tg8 @ d256": (5351.17,),
    }


@pytest.mark.parametrize(
    ("name", "alike", "speeds"),
    [
        ("llama_cpp_batched_bench.txt", False, {"1 x tg8": (3681.55,), "4 x tg8": (4564.91,)}),
        ("ik_batched_bench.txt", True, {"1 x tg8": (514.77,), "4 x tg8 alike": (30977.74,)}),
    ],
)
def test_the_batched_bench_of_both_is_understood(name: str, alike: bool, speeds: dict[str, tuple[float, ...]]) -> None:
    assert parse_batched(recorded(name), alike=alike) == speeds


@pytest.mark.parametrize("parse", [parse_bench, parse_batched, partial(parse_sweep, depths=(128,))])
def test_output_without_a_result_is_refused(parse: Callable[[str], object]) -> None:
    with pytest.raises(ValueError, match="found no"):
        parse("error: failed to load model\n")


def test_what_was_not_built_is_left_out(tmp_path: Path) -> None:
    assert find_peers(None, None) == []
    assert find_peers(tmp_path, tmp_path) == []
    program(tmp_path, "llama-bench", "")
    assert [peer.name for peer in find_peers(tmp_path, tmp_path)] == ["ik", "ik -rtr", "llama.cpp"]


def test_each_peer_gets_its_own_options() -> None:
    ik = [arguments for _, arguments in commands(Peer("ik -rtr", Path(), is_ik=True, repack=True), Path("m"), 2, WORK)]
    other = [arguments for _, arguments in commands(Peer("llama.cpp", Path(), is_ik=False), Path("m"), 2, WORK)]
    assert "-c 320 -b 2048 -ub 64 -n 8 --sweep-stride 2" in " ".join(ik[1])
    assert "-p 64 -n 8 -d 128,256 -m m -t 2" in " ".join(other[1])
    assert [arguments.count("-fa") for arguments in (ik[2], other[2])] == [1, 0]
    assert all("-rtr" in arguments for arguments in ik)
    assert not any("-rtr" in arguments for arguments in other)


def test_figures_come_from_the_programs_that_are_there(tmp_path: Path) -> None:
    program(tmp_path, "llama-bench", f'case "$*" in *" -d "*) cat {RECORDED}/llama_cpp_bench_depths.json;; '
            f"*) cat {RECORDED}/llama_cpp_bench.json;; esac")  # fmt: skip
    [peer] = find_peers(tmp_path, None)
    figures = measure_peer("case", Path("m"), peer, 2, WORK, 0, 60.0)
    deep = ["pp64 @ d128", "tg8 @ d128", "pp64 @ d256", "tg8 @ d256"]
    assert [figure.metric for figure in figures] == ["pp64", "tg8", *deep]


def test_a_program_that_fails_says_why(tmp_path: Path) -> None:
    program(tmp_path, "llama-batched-bench", "echo out of memory >&2; exit 3")
    [peer] = find_peers(tmp_path, None)
    [figure] = measure_peer("case", Path("m"), peer, 2, WORK, 0, 60.0)
    assert figure.tokens_per_second == ()
    assert figure.error == "ended with 3: out of memory"
