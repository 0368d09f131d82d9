"""What `numoe serve` refuses before workers load is refused by `numoe plan`, in the same words."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from numoe.coordinator.commands.plan import plan
from numoe.coordinator.process.loading import load_model
from numoe.coordinator.settings import EngineSettings, ModelSettings, ServeSettings, WorkerSettings
from numoe.coordinator.workers import starting
from numoe.model.architectures.reading import model_spec
from numoe.model.gguf.model_file import open_gguf
from numoe.model.machine.topology_reading import read_topology
from numoe.model.made_up.synthetic import write_synthetic_model
from numoe.model.made_up.synthetic_shape import SyntheticShape
from numoe.model.planning.plan_file import to_toml
from numoe.model.planning.splitting import PlanOptions, make_plan
from numoe.protos.errors import NumoeError
from tests.model.architectures.model_bytes import model_bytes
from tests.model.gguf.gguf_bytes import write
from tests.tiny_model import TinyShape, write_tiny_model

Make = Callable[[Path], Path]  # makes a file in a folder


def tiny(folder: Path, **shape: Any) -> Path:
    write_tiny_model(folder / "tiny.gguf", TinyShape(**shape))
    return folder / "tiny.gguf"


def damaged(folder: Path) -> Path:
    path = tiny(folder)
    path.write_bytes(path.read_bytes()[:-4096])
    return path


def without_tokens(folder: Path) -> Path:
    return write(folder, model_bytes())


FILES: dict[str, tuple[Make, str]] = {
    "no file": (lambda folder: folder / "missing.gguf", "missing.gguf"),
    "a folder": (lambda folder: folder, "directory"),
    "no model": (lambda folder: write(folder, b"GGUG" + bytes(100)), "GGUF"),
    "a file that ends early": (damaged, "tiny.gguf"),
    "another architecture": (
        lambda folder: write(folder, model_bytes(keys={"general.architecture": "gpt2"})),
        "this version runs qwen3moe, llama",
    ),
    "a key that nobody knows": (
        lambda folder: write(folder, model_bytes(keys={"qwen3moe.attention.twist": 0.5})),
        "attention.twist",
    ),
    "no vocabulary": (without_tokens, "tokenizer"),
    "another tokenizer": (
        lambda folder: write(folder, model_bytes(keys={"tokenizer.ggml.model": "bert"})),
        "tokenizer.ggml.model",
    ),
}


def serve_words(path: Path, settings: ServeSettings, patch: pytest.MonkeyPatch) -> str:
    """What serve says when it refuses; the test fails if it goes as far as to start workers."""

    def workers(**_: Any) -> None:
        raise AssertionError("workers would start")

    patch.setattr(starting, "start_workers", workers)
    with pytest.raises(NumoeError) as refusal:
        load_model(path, settings, lambda phase, done, total: None)
    return str(refusal.value)


def plan_words(path: Path, settings: ServeSettings) -> str:
    with pytest.raises(NumoeError) as refusal:
        plan(path, settings=settings)
    return str(refusal.value)


def without_figures(words: str) -> str:
    """What is available changes from moment to moment."""
    return re.sub(r"[\d,]+ MiB", "some MiB", words)


def assert_alike(path: Path, settings: ServeSettings, said: str, patch: pytest.MonkeyPatch) -> None:
    served = serve_words(path, settings, patch)
    assert without_figures(served) == without_figures(plan_words(path, settings))
    assert said in served
    assert "\n" not in served


@pytest.mark.parametrize(("make", "said"), FILES.values(), ids=FILES)
def test_a_file_is_refused_by_both(make: Make, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_alike(make(tmp_path), ServeSettings(), said, monkeypatch)


CPU, NODE = "CPU 9999 is not usable here", "node 777 has no memory that we may use here"
EDITS: dict[str, tuple[str, str, str]] = {  # of a plan for two workers of a thread each
    "a CPU that is not there": ("cpus = [", "cpus = [9999, ", CPU),
    "a node that is not there": ("node = 0", "node = 777", NODE),
    "rows that two own": ("width_rows = [32, 64]", "width_rows = [16, 64]", "width_rows: 16 to 31 have two owners"),
    "rows that nobody owns": ("width_rows = [32, 64]", "width_rows = [48, 64]", "width_rows: 32 to 47 have no owner"),
    "half a panel": ("[0, 32]\nexpert_rows", "[0, 24]\nexpert_rows", "expected multiples of 16"),
    "rows beyond the matrix": ("[160, 331]", "[160, 400]", "vocabulary: the ranges end at 400, expected 331"),
    "no TOML": ("[[shard]]", "[[shard", "no valid TOML"),
}


@pytest.mark.parametrize(("found", "edited", "said"), EDITS.values(), ids=EDITS)
def test_an_edited_plan_is_refused_by_both(
    found: str, edited: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny(tmp_path)
    text = to_toml(make_plan(model_spec(open_gguf(path)), read_topology(), PlanOptions(2, 1)))
    assert found in text
    (tmp_path / "plan.toml").write_text(text.replace(found, edited))
    settings = ServeSettings(workers=WorkerSettings(plan_file=tmp_path / "plan.toml"))
    assert_alike(path, settings, said, monkeypatch)


SETTINGS: dict[str, tuple[WorkerSettings, EngineSettings, str]] = {
    "nine workers": (WorkerSettings(workers=9), EngineSettings(), "workers: found 9, expected 1 to 8"),
    "too many threads": (WorkerSettings(threads_per_worker=513), EngineSettings(), "found 513, expected 1 to 512"),
    "a node that is not there": (WorkerSettings(nodes=(777,)), EngineSettings(), "nodes: found [777]"),
    "a plan that is not there": (WorkerSettings(plan_file=Path("/none")), EngineSettings(), "/none cannot be read"),
    "bandwidths of other nodes": (WorkerSettings(bandwidth=(1.0,) * 70), EngineSettings(), "bandwidth: found [1.0"),
    "replicas of rows": (WorkerSettings(split="tensor", replicas=0.5), EngineSettings(), "the tensor split has none"),
    "too many replicas": (WorkerSettings(workers=2, replicas=1.5), EngineSettings(), "replicas: found 1.5"),
    "a folder that is not there": (WorkerSettings(expert_stats=Path("/none/x")), EngineSettings(), "/none does not"),
    "a cache beyond all memory": (WorkerSettings(), EngineSettings(kv_tokens=2**31 - 1), "node 0: needs"),
    "steps beyond all memory": (WorkerSettings(), EngineSettings(step_tokens=2**31 - 1), "node 0: needs"),
    "requests beyond all memory": (
        WorkerSettings(),
        EngineSettings(step_tokens=2**31 - 1, sequences=2**31 - 1),
        "node 0: needs",
    ),
}


@pytest.mark.parametrize(("workers", "engine", "said"), SETTINGS.values(), ids=SETTINGS)
def test_settings_are_refused_by_both(
    workers: WorkerSettings, engine: EngineSettings, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_alike(tiny(tmp_path), ServeSettings(workers=workers, engine=engine), said, monkeypatch)


def test_a_dense_model_has_no_whole_experts_in_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tiny(tmp_path, architecture="llama", experts=1, active_experts=1)
    settings = ServeSettings(workers=WorkerSettings(split="expert"))
    assert_alike(path, settings, "no experts to hold whole", monkeypatch)


def test_a_dense_model_cannot_run_fewer_experts_in_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tiny(tmp_path, architecture="llama", experts=1, active_experts=1)
    settings = ServeSettings(engine=EngineSettings(smart_expert_reduction="1,0.5"))
    assert_alike(path, settings, "no experts to leave out", monkeypatch)


def test_heads_that_no_hadamard_matrix_fits_are_refused_by_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ServeSettings(engine=EngineSettings(k_cache_hadamard=True))
    assert_alike(tiny(tmp_path, head_size=96), settings, "96 dimensions, expected a power of two", monkeypatch)


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("qwen3moe.expert_used_count=int:9", "with --override-kv qwen3moe.expert_used_count=int:9: "),
        ("qwen3moe.expert_used_count=int:0", "is 0, expected 1 to"),
        ("qwen3moe.twist=int:0", "'qwen3moe.twist', which is not read"),
    ],
)
def test_what_cannot_be_overridden_is_refused_by_both(
    key: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_alike(tiny(tmp_path), ServeSettings(model=ModelSettings(override_kv=(key,))), said, monkeypatch)


def test_widths_that_imply_buffers_beyond_all_memory_are_refused_by_the_sum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Experts that are all active make as many columns of every token; weights of such a file may be small."""
    path, experts, width = tmp_path / "wide.gguf", 1024, 1024
    shape = SyntheticShape(layers=1, width=width, experts=experts, active_experts=experts, expert_width=32)
    write_synthetic_model(path, shape, header_only=True)
    memory = sum(node.available_bytes for node in read_topology().nodes)
    settings = ServeSettings(engine=EngineSettings(step_tokens=2 * memory // (experts * width)))  # a byte a value
    assert path.stat().st_size < 1 << 30
    assert_alike(path, settings, "for weights, KV cache and working memory", monkeypatch)
    assert_alike(path, replace(settings, workers=WorkerSettings(workers=2)), "node 0: needs", monkeypatch)
