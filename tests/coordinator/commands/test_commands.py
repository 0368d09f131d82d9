"""The command line as a person or a script meets it: real processes, output, exit codes."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import IO

import pytest
import structlog
from rich.console import Console

from numoe.coordinator.commands.main import main
from numoe.coordinator.commands.terminal import harmless
from numoe.coordinator.machine.model_file import read_spec
from numoe.model.gguf.tensors import TensorType
from numoe.model.planning.expert_stats import no_stats, save_stats
from numoe.model.planning.plan_file import from_toml
from numoe.protos.messages import Sampling
from tests.coordinator.api.grpc.grpc_serving import SHAPE, tiny_read
from tests.coordinator.engine.fake_executor import LIMITS, expected_tokens
from tests.coordinator.tiny_tokenizer import LETTERS, text_of
from tests.machines import TWO_XEON_6138, set_governor, write_machine
from tests.model.doctor.findings import TWO_NODES
from tests.tiny_model import write_tiny_model

NUMOE = str(Path(sys.executable).with_name("numoe"))
FAKE_SERVE = (sys.executable, "-m", "tests.coordinator.commands.fake_serve", "serve")
ROOT = Path(__file__).parents[3]
PATIENCE_SECONDS = 60.0
READY = re.compile(
    r'READY grpc=(?P<address>127\.0\.0\.1:\d+) model="tiny qwen3moe" workers=2 threads=2 '
    r'binding="cpus\+memory, verified" seconds=\d+\.\d'
)


def numoe(*arguments: str, said: str = "") -> subprocess.CompletedProcess[str]:
    command = [NUMOE, *arguments]
    return subprocess.run(command, input=said, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)


def start(model: Path, *flags: str) -> tuple[subprocess.Popen[str], str]:
    """A serving process, and the address in its READY line."""
    command = [
        *FAKE_SERVE,
        str(model),
        "--address",
        "127.0.0.1:0",
        "--workers",
        "2",
        "--threads-per-worker",
        "1",
        *flags,
    ]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    ready = READY.fullmatch(lines(process.stdout).readline().rstrip("\n"))
    assert ready, lines(process.stderr).read()
    return process, ready["address"]


def lines(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


def answer_to(prompt: list[int], tokens: int, sampling: Sampling | None = None) -> str:
    return text_of([token_id for token_id, _ in expected_tokens(prompt, tokens, LETTERS, sampling)])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    write_tiny_model(path, SHAPE)
    return path


@pytest.fixture(scope="module")
def address(model: Path) -> Iterator[str]:
    process, address = start(model)
    with process:
        yield address
        process.send_signal(signal.SIGINT)
        _, log = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, log


@pytest.fixture
def unconfigured_logging() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def test_generate_continues_a_text_on_standard_output(address: str) -> None:
    expected = answer_to(tiny_read()[1].encode("Hello the"), 12)
    for arguments, said in ((["Hello the"], ""), ([], "Hello the")):
        done = numoe("generate", *arguments, "--address", address, "--max-tokens", "12", said=said)
        assert (done.returncode, done.stdout, done.stderr) == (0, expected + "\n", "")


def test_the_address_can_come_from_the_environment(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMOE_ADDRESS", address)
    assert numoe("generate", "Hello", "--max-tokens", "1").returncode == 0


def test_flags_say_how_tokens_are_drawn(address: str) -> None:
    done = numoe("generate", "Hello", "--address", address, "--max-tokens", "20", "--temperature", "1", "--seed", "5")
    assert done.stdout == answer_to(tiny_read()[1].encode("Hello"), 20, Sampling(temperature=1.0, seed=5)) + "\n"


def test_chat_answers_one_message_or_keeps_a_conversation(address: str) -> None:
    tokenizer = tiny_read()[1]
    first = "<|im_start|>system\nBe brief<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    answer = answer_to(tokenizer.encode(first), 5)
    second = f"{first}{answer}<|im_end|>\n<|im_start|>user\nthe<|im_end|>\n<|im_start|>assistant\n"
    flags = ("--system", "Be brief", "--address", address, "--max-tokens", "5")
    once = numoe("chat", "Hello", *flags)
    assert (once.returncode, once.stdout) == (0, answer + "\n")
    talk = numoe("chat", *flags, said="Hello\n\nthe\n/exit\n")
    assert talk.returncode == 0
    assert talk.stdout.replace("> ", "").split() == [answer, answer_to(tokenizer.encode(second), 5)]


def test_a_refused_request_is_one_line_and_exit_code_1(address: str) -> None:
    done = numoe("generate", "Hello", "--address", address, "--top-p", "7")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"error: sampling\.top_p: is 7\.0; .*\(INVALID_ARGUMENT\)\n", done.stderr)


def test_a_deadline_is_one_line_and_exit_code_1(address: str) -> None:
    done = numoe("generate", "Hello", "--address", address, "--timeout-seconds", "0.000001")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: the time is up")
    assert done.stderr.count("\n") == 1


def test_nobody_listening_is_one_line_and_exit_code_1() -> None:
    done = numoe("chat", "Hello", "--address", "127.0.0.1:1")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "error: nothing answers at 127.0.0.1:1: start `numoe serve`, or name another address with --address\n"
    )


def test_a_wrong_set_up_is_one_line_and_exit_code_2(
    address: str,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    unconfigured_logging: None,
) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"GGUF")
    for arguments, expected in (
        (["serve", str(tmp_path / "none.gguf"), "--address", "127.0.0.1:0"], "none.gguf"),
        (["serve", str(tmp_path / "broken.gguf"), "--address", "127.0.0.1:0"], "broken.gguf"),
        (["serve", str(model), "--address", address], f"{address} is taken"),
        (["serve", str(model), "--address", "0.0.0.0:0"], "--insecure"),
        (["serve", str(model), "--address", "127.0.0.1:0", "--workers", "9"], "workers: found 9"),
        (["serve", str(model), "--config", str(tmp_path / "none.toml")], "none.toml does not exist"),
        (["serve", str(model), "--address", "127.0.0.1:0", "--plan-file", str(tmp_path / "none")], "cannot be read"),
        (["topology", "--root", str(tmp_path / "none")], "holds no copy of a machine"),
        (["doctor", "--root", str(tmp_path)], "holds no copy of a machine"),
        (["doctor", str(tmp_path / "none.gguf")], "none.gguf"),
        (["doctor", "--config", str(tmp_path / "none.toml")], "none.toml does not exist"),
        (["plan", str(model), "--config", str(tmp_path / "none.toml")], "none.toml does not exist"),
        (["plan", str(model), "--output", str(tmp_path / "none" / "plan.toml")], "cannot be written"),
        (["plan", str(model), "--root", str(tmp_path)], "no copy of a machine"),
        (["plan", str(model), "--bandwidth", "0"], "bandwidth: found [0.0]"),
        (["plan", str(model), "--batch", "0"], "--batch is 0"),
        (["plan", str(model), "--split", "tensor", "--replicas", "0.5"], "the tensor split has none"),
        (["demo-model", "/proc/none/demo.gguf"], "cannot be made"),
        (["demo-model", "--shape", "llama"], "needs a PATH"),
        (["demo-model", str(tmp_path / "m.gguf"), "--layers", "2"], "without --shape"),
        (["demo-model", str(tmp_path / "m.gguf"), "--shape", "llama", "--type", "Q7"], "Q7 is no type of weights"),
    ):
        monkeypatch.setattr(sys, "argv", ["numoe", *arguments])
        with pytest.raises(SystemExit) as raised:
            main()
        assert raised.value.code == 2
        shown = capsys.readouterr().err
        assert shown.startswith("error: ")
        assert expected in shown
        assert shown.count("\n") == 1


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
    assert done.returncode == 0, done.stderr
    assert "tensor split over 2 workers" in done.stdout
    assert "nothing fits the nodes' memory" in done.stdout.replace("\n", " ")
    assert [number for number in re.findall(r"([\d.]+) tokens/s for one", done.stdout) if 3 < float(number) < 20]


def test_a_plan_for_two_sockets_says_what_is_chosen_and_why(tmp_path: Path) -> None:
    path, root = tmp_path / "large.gguf", tmp_path / "machine"
    numoe("demo-model", str(path), "--shape", "qwen3-235b-a22b", "--header-only")
    write_machine(root, TWO_XEON_6138)
    done = numoe("plan", str(path), "--root", str(root), "--bandwidth", "105", "--output", str(tmp_path / "plan.toml"))
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "Split: tensor. Why: nothing else that fits is predicted to be more than 3% faster." in said
    assert "of each core: 160 GOP/s" in said
    [speed] = re.findall(r"Predicted: ([\d.]+) tokens/s for one request", said)
    assert 5 < float(speed) < 2 * 105 / 22.9  # GB/s of both sockets over GB of a token
    assert (tmp_path / "plan.toml").read_text().count("[[shard]]") == 2


def test_demo_model_writes_a_model_of_any_shape(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "m.gguf"
    experts = ("--experts", "4", "--active-experts", "2", "--expert-width", "32")
    sizes = ("--layers", "1", "--width", "64", "--vocabulary", "600", "--type", "bf16")
    done = numoe("demo-model", str(path), "--shape", "qwen3-30b-a3b", *experts, *sizes)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{path}\n"
    spec = read_spec(path)
    assert (spec.layers, spec.width, spec.experts, spec.query_heads) == (1, 64, 4, 32)
    assert spec.output.type is TensorType.BF16


@pytest.mark.parametrize(("pure", "down"), [([], TensorType.Q3_K), (["--pure"], TensorType.Q2_K)])
def test_demo_model_writes_the_mix_of_types_that_real_files_have(
    pure: list[str], down: TensorType, tmp_path: Path
) -> None:
    path = tmp_path / "m.gguf"
    done = numoe("demo-model", str(path), "--shape", "qwen3moe", "--layers", "1", "--type", "q2_k", *pure)
    assert done.returncode == 0, done.stderr
    layer = read_spec(path).layer_tensors[0]
    assert (layer.gate.type, layer.down.type) == (TensorType.Q2_K, down)


def test_placement_shows_where_a_served_model_lies(address: str) -> None:
    done = numoe("placement", "--address", address)
    assert done.returncode == 0, done.stderr
    for part in ("2 workers", "4242", "cpus+memory", "8 of 9", "node 0: 200 B, node 1: 100 B", "vocabulary"):
        assert part in done.stdout


def test_topology_shows_a_node() -> None:
    done = numoe("topology")
    assert done.returncode == 0, done.stderr
    assert "node 0" in done.stdout


def test_topology_shows_the_copy_of_another_machine(recorded_machines: Path) -> None:
    done = numoe("topology", "--root", str(recorded_machines / "two-sockets"))
    assert done.returncode == 0, done.stderr
    assert "package 1" in done.stdout


def test_doctor_measures_this_machine_and_keeps_the_figures(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    unmeasured = numoe("doctor", "--no-measure")
    assert "GB/s" not in unmeasured.stdout
    done = numoe("doctor", str(model))
    assert done.returncode == ("problem" in done.stdout), done.stderr
    for part in ("GB/s read by all cores", "bandwidth of nodes", "room for the model", "speed of the model"):
        assert part in done.stdout
    assert (tmp_path / "numoe" / "bandwidth.toml").exists()
    assert "GB/s read by all cores" in numoe("doctor", "--no-measure").stdout


def test_doctor_judges_the_copy_of_another_machine(tmp_path: Path, model: Path) -> None:
    root = write_machine(tmp_path, TWO_NODES)
    done = numoe("doctor", str(model), "--root", str(root))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("Nothing to mend.\n")
    set_governor(root, "powersave", "acpi-cpufreq")
    done = numoe("doctor", "--root", str(root))
    assert (done.returncode, done.stderr) == (1, "")
    assert "mend: cpupower frequency-set -g performance" in done.stdout
    assert done.stdout.endswith("1 problem.\n")
    assert "GB/s" not in done.stdout


def test_a_signal_drains_and_ends_serve_with_exit_code_0(model: Path) -> None:
    process, address = start(model)
    with process:
        process.terminate()
        out, log = process.communicate(timeout=PATIENCE_SECONDS)
    assert (process.returncode, out) == (0, ""), log
    assert '"event": "draining"' in log
    assert "Traceback" not in log
    assert numoe("generate", "Hello", "--address", address).returncode == 1


def test_client_commands_start_without_the_heavy_libraries() -> None:
    heavy = "{'ray', 'numba', 'grpc', 'numpy'}"
    script = f"import sys, numoe.coordinator.commands.main; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"


def test_an_answer_cannot_steer_the_terminal() -> None:
    text = "a\x1b[2Jb\x07\tc\n\x9bd 🙂"
    assert harmless(text, Console(file=StringIO(), force_terminal=True)) == "a[2Jb\tc\nd 🙂"
    assert harmless(text, Console(file=StringIO())) == text


def test_the_context_limits_an_answer_without_max_tokens(address: str) -> None:
    done = numoe("generate", "Hello", "--address", address)
    assert done.returncode == 0
    assert len(tiny_read()[1].encode(done.stdout.rstrip("\n"))) <= LIMITS.context_tokens
