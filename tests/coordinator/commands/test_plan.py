"""Plans as the command makes, explains and writes them."""

from __future__ import annotations

import re
from pathlib import Path

from numoe.model.planning.expert_stats import no_stats, save_stats
from numoe.model.planning.plan import Spread
from numoe.model.planning.plan_file import from_toml
from tests.coordinator.api.grpc.grpc_serving import tiny_read
from tests.coordinator.commands.numoe_process import numoe
from tests.machines import TWO_XEON_6138, restrict, write_machine
from tests.machines import write as write_file
from tests.model.architectures.model_bytes import model_bytes
from tests.model.gguf.gguf_bytes import write
from tests.packed_model import flip, pack_here
from tests.tiny_model import TinyShape, write_tiny_model


def test_plan_shows_and_writes_what_serve_can_obey(model: Path, tmp_path: Path) -> None:
    done = numoe(
        "plan", str(model), "--workers", "3", "--threads-per-worker", "1", "--output", str(tmp_path / "p.toml")
    )
    assert done.returncode == 0, done.stderr
    assert "3 workers" in done.stdout
    assert len(from_toml((tmp_path / "p.toml").read_text(), tiny_read()[0]).shards) == 3


def test_plan_makes_and_explains_the_split_that_was_asked_for(model: Path, tmp_path: Path) -> None:
    spec, plans = tiny_read()[0], {}
    for name, flags in (("rows", ["--split", "tensor"]), ("whole", ["--split", "expert", "--replicas", "0.25"])):
        path = tmp_path / f"{name}.toml"
        common = ("--workers", "2", "--threads-per-worker", "1", "--bandwidth", "40", "--batch", "4")
        done = numoe("plan", str(model), *common, *flags, "--output", str(path))
        assert done.returncode == 0, done.stderr
        for part in ("as told: 40 GB/s", "was asked for", "4 at once", "ways to split", "expert + 25 %"):
            assert part in done.stdout
        plans[name] = from_toml(path.read_text(), spec)
    assert [made.split for made in plans.values()] == ["tensor", "expert"]
    done = numoe("plan", str(model), "--plan-file", str(tmp_path / "whole.toml"))
    assert f"Split: expert. Why: {tmp_path}/whole.toml says so." in done.stdout.replace("\n", " ").replace("  ", " ")


def test_plan_takes_a_packed_folder_instead_of_a_file(model: Path, tmp_path: Path) -> None:
    folder, plans = pack_here(model, tmp_path / "packed"), []
    for named in ((str(model),), ("--packed", str(folder))):
        flags = ("--workers", "2", "--threads-per-worker", "1", "--output", str(tmp_path / "plan.toml"))
        done = numoe("plan", *named, *flags)
        assert done.returncode == 0, done.stderr
        assert "packed_model" not in done.stdout
        plans.append((tmp_path / "plan.toml").read_text())
    assert plans[0] == plans[1]
    flip(folder / "metadata.gguf", 100)
    done = numoe("plan", "--packed", str(folder))
    assert (done.returncode, done.stdout) == (2, "")
    assert "do not agree: one of them was changed or damaged" in done.stderr


def test_plan_takes_a_mixtral_with_the_vocabulary_of_sentencepiece(tmp_path: Path) -> None:
    path = tmp_path / "mixtral.gguf"
    write_tiny_model(path, TinyShape(architecture="llama", tokenizer="llama"))
    done = numoe("plan", str(path), "--workers", "2", "--threads-per-worker", "1")
    assert done.returncode == 0, done.stderr
    assert "tiny llama" in done.stdout


def test_plan_refuses_a_tokenizer_that_serve_refuses(tmp_path: Path) -> None:
    path = write(tmp_path, model_bytes(keys={"tokenizer.ggml.model": "bert"}))
    done = numoe("plan", str(path))
    assert done.returncode == 2
    assert "tokenizer.ggml.model is 'bert'" in done.stderr
    assert done.stdout == ""


def test_plan_predicts_by_what_was_counted(model: Path, tmp_path: Path) -> None:
    spec, path = tiny_read()[0], tmp_path / "stats.json"
    row = [0] * spec.experts
    row[: spec.active_experts] = [50] * spec.active_experts
    save_stats(path, no_stats(spec).plus([row] * spec.layers))
    done = numoe("plan", str(model), "--workers", "2", "--expert-stats", str(path))
    assert "as in 50 tokens that were counted" in done.stdout.replace("\n", " ")
    assert "Nothing is known" in numoe("plan", str(model), "--workers", "2").stdout.replace("\n", " ")


def test_a_large_model_is_planned_from_its_header_for_another_machine(tmp_path: Path, recorded_machines: Path) -> None:
    path = tmp_path / "large.gguf"
    done = numoe("demo-model", str(path), "--shape", "qwen3-235b-a22b", "--type", "q4_k_m", "--header-only")
    assert done.returncode == 0, done.stderr
    assert path.stat().st_size > 130 << 30
    assert path.stat().st_blocks * 512 < 64 << 20
    done = numoe("plan", str(path), "--root", str(recorded_machines / "two-sockets"), "--bandwidth", "105")
    assert done.returncode == 2
    assert "error: node 0: needs" in done.stderr
    assert "tensor split over 2 workers" in done.stdout
    assert "nothing fits the memory" in done.stdout.replace("\n", " ")
    assert [number for number in re.findall(r"([\d.]+) tokens/s for one", done.stdout) if 3 < float(number) < 20]


def test_a_plan_for_two_sockets_says_what_is_chosen_and_why(tmp_path: Path) -> None:
    path, root = tmp_path / "large.gguf", tmp_path / "machine"
    numoe("demo-model", str(path), "--shape", "qwen3-235b-a22b", "--header-only")
    write_machine(root, TWO_XEON_6138)
    done = numoe("plan", str(path), "--root", str(root), "--bandwidth", "105", "--output", str(tmp_path / "plan.toml"))
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "Split: tensor. Why: nothing else that fits is predicted to be more than 3% faster." in said
    assert "of each core: 240 GOP/s" in said
    [speed] = re.findall(r"Predicted: ([\d.]+) tokens/s for one request", said)
    assert 5 < float(speed) < 2 * 105 / 22.9  # GB/s of both sockets over GB of a token
    assert (tmp_path / "plan.toml").read_text().count("[[shard]]") == 2


def test_plan_knows_the_words_of_numactl(model: Path, tmp_path: Path) -> None:
    root = write_machine(tmp_path / "machine", TWO_XEON_6138)
    flags = ("--root", str(root), "--numa", "none", "--interleave", "all", "--cpus", "0-9,20-29", "--threads", "8")
    done = numoe("plan", str(model), *flags, "--output", str(tmp_path / "plan.toml"))
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    for part in ("lie on node 0-1 in turn: 50% of them is read from another node", "its threads are not pinned"):
        assert part in said
    [shard] = from_toml((tmp_path / "plan.toml").read_text(), tiny_read()[0]).shards
    assert shard.spread == Spread("interleave", (0, 1), (*range(10), *range(20, 30)))
    done = numoe("plan", str(model), "--root", str(root), "--numa", "isolate", "--interleave", "all")
    assert done.returncode == 2
    assert "--numa isolate takes the memory of one node, --interleave that of several in turn" in done.stderr


def test_plan_says_what_may_not_be_locked(model: Path, tmp_path: Path) -> None:
    root = write_machine(tmp_path, TWO_XEON_6138)
    restrict(root, "0-79", "0-1", capabilities=0)
    write_file(root, "proc/self/limits", "Max locked memory         4096                 65536                bytes")
    done = numoe("plan", str(model), "--root", str(root), "--mlock")
    assert done.returncode == 2
    said = " ".join(done.stderr.split())
    for part in ("--mlock: worker 0 has ", "RLIMIT_MEMLOCK", "is 65,536 bytes here", "LimitMEMLOCK=infinity"):
        assert part in said
    assert numoe("plan", str(model), "--root", str(root)).returncode == 0
