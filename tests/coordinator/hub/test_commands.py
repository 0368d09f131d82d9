"""`numoe serve -hf` and `numoe plan -hf`: a model by its name, as a person asks for it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from numoe.coordinator.commands.main import main
from numoe.coordinator.hub.cache import INCOMPLETE
from tests.coordinator.api.grpc.grpc_serving import SHAPE
from tests.coordinator.commands.numoe_process import FAKE_SERVE, NUMOE, PATIENCE_SECONDS, READY, ROOT, lines
from tests.coordinator.hub.stand_in import COMMIT, StandIn, serving
from tests.log_lines import read_log
from tests.tiny_model import split_paths, write_tiny_model

REPO = "ann/Tiny-GGUF"
WORKERS = ("--workers", "2", "--threads-per-worker", "1")
SERVE = ("--address", "127.0.0.1:0", *WORKERS)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    write_tiny_model(path, SHAPE)
    return path


@pytest.fixture
def hub(model: Path) -> Iterator[StandIn]:
    """A hub with the tiny model, alone as Q8_0 and in three parts as Q4_K_M."""
    with serving(StandIn()) as hub:
        parts = split_paths(model.with_name("split.gguf"), 3)
        if not parts[0].exists():
            write_tiny_model(model.with_name("split.gguf"), SHAPE, parts=3)
        names = {f"Q4_K_M/{part.name}": part for part in parts}
        hub.files[REPO] = {"M-Q8_0.gguf": model, "mmproj-M-Q4_K_M.gguf": model} | names
        yield hub


def environment(hub: StandIn, home: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "NUMOE_"))}
    return kept | hub.environment(home) | more


def numoe(hub: StandIn, home: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    command, told = [NUMOE, *arguments], environment(hub, home, **more)
    return subprocess.run(command, env=told, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)


def start(hub: StandIn, home: Path, *flags: str, **more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*FAKE_SERVE, *flags, *SERVE],
        cwd=ROOT,
        env=environment(hub, home, **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def grown(home: Path) -> int:
    """Bytes that lie incomplete in the cache."""
    return sum(path.stat().st_size for path in home.rglob(f"*{INCOMPLETE}"))


def test_serve_fetches_a_split_model_and_serves_it(hub: StandIn, tmp_path: Path) -> None:
    bytes_of_parts = sum(file.stat().st_size for name, file in hub.files[REPO].items() if name.startswith("Q4_K_M"))
    with start(hub, tmp_path, "-hf", REPO) as process:
        assert READY.match(lines(process.stdout).readline()), lines(process.stderr).read()
        process.send_signal(signal.SIGINT)
        _, log = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, log
    lines_of_log = read_log(log)
    phases = [line["phase"] for line in lines_of_log if line["event"] == "loading_phase"]
    assert phases == ["asking the hub", "reading the model's head", "fetching", "loading"]
    so_far = [(line["done"], line["total"]) for line in lines_of_log if line["event"] == "fetched_so_far"]
    assert so_far[-1] == (bytes_of_parts, bytes_of_parts)
    assert {total for _, total in so_far} == {bytes_of_parts}
    assert hub.asked("mmproj") == hub.asked("M-Q8_0") == hub.asked("agent") == []
    assert not [request for request in hub.requests if request.method != "GET"]


def test_serve_goes_on_with_what_a_killed_one_fetched(hub: StandIn, model: Path, tmp_path: Path) -> None:
    size = model.stat().st_size
    hub.cuts = [size, size // 2]  # the head, then the model
    with start(hub, tmp_path, "-hf", f"{REPO}:q8_0") as process:
        while "hub_broke_off" not in (line := lines(process.stderr).readline()):
            assert line, "it ended"
        process.kill()
        process.communicate(timeout=PATIENCE_SECONDS)
    assert grown(tmp_path) == size // 2
    hub.requests.clear()
    with start(hub, tmp_path, "-hf", f"{REPO}:q8_0") as process:
        assert READY.match(lines(process.stdout).readline()), lines(process.stderr).read()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE_SECONDS)
    assert (grown(tmp_path), process.returncode) == (0, 0)
    assert [request.range for request in hub.asked("/content/")][1:] == [f"bytes={size // 2}-{size - 1}"]


def test_a_signal_ends_a_fetch_that_hangs(hub: StandIn, tmp_path: Path) -> None:
    hub.stall = 1000
    silence = {"HF_HUB_DOWNLOAD_TIMEOUT": "3600"}
    with start(hub, tmp_path, "-hf", f"{REPO}:Q8_0", "--drain-timeout-seconds", "3600", **silence) as process:
        assert hub.stalled.wait(PATIENCE_SECONDS)
        process.terminate()
        out, log = process.communicate(timeout=PATIENCE_SECONDS)
    assert (process.returncode, out) == (0, ""), log
    assert "Traceback" not in log


def test_plan_reads_a_head_and_keeps_nothing(hub: StandIn, tmp_path: Path) -> None:
    done = numoe(hub, tmp_path, "plan", "-hf", REPO, *WORKERS)
    assert done.returncode == 0, done.stderr
    assert "tiny qwen3moe" in done.stdout
    assert not (tmp_path / "hub").exists()


def test_plan_takes_what_lies_in_the_cache_when_the_hub_is_gone(model: Path, tmp_path: Path) -> None:
    repo = tmp_path / "hub/models--ann--Tiny-GGUF"
    for folder in ("blobs", "refs", f"snapshots/{COMMIT}/Q8_0"):
        (repo / folder).mkdir(parents=True)
    (repo / "refs/main").write_text(COMMIT)
    (repo / "blobs/abc").write_bytes(model.read_bytes())
    (repo / f"snapshots/{COMMIT}/Q8_0/M.gguf").symlink_to("../../../blobs/abc")
    done = numoe(StandIn(address="http://127.0.0.1:1"), tmp_path, "plan", "-hf", f"{REPO}:q8_0", *WORKERS)
    assert done.returncode == 0, done.stderr
    assert "from_the_cache" in done.stderr
    assert "from_the_cache" not in done.stdout


def test_the_environment_is_obeyed(hub: StandIn, tmp_path: Path) -> None:
    hub.token = "hf_secret"
    ours = {"NUMOE_HF_REPO": f"{REPO}:Q8_0", "NUMOE_HF_REVISION": hub.commit}
    done = numoe(hub, tmp_path, "plan", *WORKERS, HF_TOKEN="hf_secret", **ours)
    assert done.returncode == 0, done.stderr
    assert [request.path for request in hub.asked("/api/")] == [f"/api/models/{REPO}/revision/{hub.commit}"]
    hub.requests.clear()
    offline = numoe(hub, tmp_path, "plan", "-hf", REPO, HF_HUB_OFFLINE="1", HF_HUB_CACHE=str(tmp_path / "mine"))
    assert (offline.returncode, hub.requests) == (2, [])
    wrong = numoe(hub, tmp_path, "plan", "-hf", REPO, HF_HUB_DOWNLOAD_TIMEOUT="ten")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "a variable that begins with HF_ cannot be" in wrong.stderr
    assert f"HF_HUB_OFFLINE is set; nothing of it is in the cache {tmp_path}/mine" in offline.stderr


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["serve", "m.gguf", "-hf", REPO], "both the file m.gguf and --hf-repo"),
        (["plan", "m.gguf", "-hf", REPO], "both the file m.gguf and --hf-repo"),
        (["plan", "--hf-file", "m.gguf"], "name it with --hf-repo"),
        (["serve", "--hf-revision", "v1"], "name it with --hf-repo"),
        (["plan"], "no model is named"),
        (["plan", "-hf", "Tiny"], "OWNER/REPO"),
    ],
)
def test_what_cannot_be_is_refused_at_once(
    arguments: list[str], problem: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["numoe", *arguments])
    with pytest.raises(SystemExit) as raised:
        main()
    assert raised.value.code == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: ")
    assert problem in shown


def test_what_the_hub_does_not_have_is_one_line(hub: StandIn, tmp_path: Path) -> None:
    hub.files[REPO]["\x1b]0;evil\x07-x.gguf"] = hub.files[REPO]["M-Q8_0.gguf"]
    done = numoe(hub, tmp_path, "plan", "-hf", f"{REPO}:Q5_K_M")
    expected = f"error: {REPO} has no Q5_K_M: it has ?]0;evil?-x.gguf, Q8_0, Q4_K_M\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"asking the hub ...\n{expected}")


def test_nothing_is_fetched_of_a_model_that_cannot_be_served(hub: StandIn, tmp_path: Path) -> None:
    done = numoe(hub, tmp_path, "serve", "-hf", f"{REPO}:Q8_0", "--address", "127.0.0.1:0", "--workers", "9")
    assert done.returncode == 2
    assert "workers: found 9" in done.stderr
    assert not (tmp_path / "hub").exists()


def test_without_the_library_the_extra_is_named(hub: StandIn, tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['huggingface_hub'] = None\nfrom numoe.coordinator.commands.main import main; main()"
    )
    command = [sys.executable, "-c", program, "plan", "-hf", REPO]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)
    assert done.returncode == 2
    assert re.fullmatch(r"error: .*pip install 'numoe\[hub\]'\n", done.stderr)


def test_no_command_imports_the_library_before_a_name_is_looked_up() -> None:
    program = (
        "import sys; from numoe.coordinator.commands.main import app\n"
        "for name in ('serve', 'plan', 'doctor'): app([name, '--help'])\n"
        "import numoe.coordinator.process.loading\n"
        "assert not {'huggingface_hub', 'httpx2'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--hf-repo" in done.stdout
