"""What holds of every command: how it is described, how fast it starts, how a wrong set-up ends it."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cyclopts import App

from numoe.coordinator.commands.environment import refuse_misspelt
from numoe.coordinator.commands.main import app, chosen_origins, main
from numoe.protos.errors import SetupError


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


@pytest.mark.parametrize(
    "arguments", ["serve {model}", "plan {model}", "generate a", "topology", "doctor", "placement"]
)
def test_a_misspelt_environment_variable_is_refused_with_what_was_meant(
    arguments: str, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["numoe", *arguments.format(model=model).split()])
    monkeypatch.setenv("NUMOE_STEP_TOKENZ", "12")
    with pytest.raises(SystemExit) as raised:
        main()
    assert raised.value.code == 2
    assert capsys.readouterr().err == (
        "error: the environment sets NUMOE_STEP_TOKENZ, which nothing reads: did you mean NUMOE_STEP_TOKENS?\n"
    )


def test_every_environment_variable_that_is_read_may_be_set_for_every_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(__file__).parents[3]
    read = re.compile(r"\bNUMOE_[A-Z_]*[A-Z]")
    files = [
        path
        for folder in ("coordinator", "kernels", "model", "protos", "worker")
        for path in (root / folder).rglob("*.py")
    ]
    named = {name for path in files for name in read.findall(path.read_text())} - {"NUMOE_STEP_TOKENZ"}
    assert named >= {"NUMOE_ISA", "NUMOE_ADDRESS", "NUMOE_CONFIG", "NUMOE_BINDING", "NUMOE_START_FAILURES"}
    refuse_misspelt(app, [*named, "NUMOE_KV_TYPE", "NUMOE_MODEL", "NUMOE_OUTPUT", "HOME"])
    with pytest.raises(SetupError, match=r"NUMOE_, which nothing reads"):
        refuse_misspelt(app, ["NUMOE_"])
    monkeypatch.setattr(sys, "argv", ["numoe", "--help"])
    monkeypatch.setenv("NUMOE_STEP_TOKENZ", "12")
    main()  # help comes whatever is wrong
    assert "Usage: numoe" in capsys.readouterr().out


def test_help_starts_without_the_heavy_libraries() -> None:
    heavy = "{'ray', 'numba', 'grpc', 'numpy', 'matplotlib'}"
    script = f"""
import sys
from numoe.coordinator.commands.main import app
app(["--help"])
print(sorted(name for name in sys.modules if name.startswith("numoe.coordinator.commands.")))
for name in app:
    app([name, "--help"])
print(sorted({heavy} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    said = done.stdout.splitlines()
    own = ("environment", "llama", "llama.command_line", "llama.flags", "main", "screen", "screen.terminal")
    assert str([f"numoe.coordinator.commands.{name}" for name in own]) in said
    assert all(f"Usage: numoe {name} [" in done.stdout for name in ("serve", "generate", "chat", "demo-model"))
    assert said[-1] == "[]"


def named(group: App) -> list[App]:
    return [command for name, command in group.resolved_commands().items() if not name.startswith("-")]


def test_the_list_of_commands_describes_each_as_its_docstring_does() -> None:
    groups = (app, *(command for command in named(app) if command.default_command is None))
    commands = [command for group in groups for command in named(group) if command.default_command is not None]
    assert len(commands) == 22
    for command in commands:
        assert command.default_command is not None
        description, parameters, _ = inspect.cleandoc(command.default_command.__doc__ or "").partition(
            "\n\nParameters\n"
        )
        assert inspect.cleandoc(str(command.help)) == description
        assert parameters


def test_it_is_known_who_chose_each_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "numoe.toml"
    config.write_text('step_tokens = 64\nsequences = 9\nkv_type = "q8_0"\n')
    monkeypatch.setenv("NUMOE_KV_TYPE", "bf16")
    monkeypatch.setenv("NUMOE_WORKERS", "1")
    app.parse_args(["serve", "--workers", "2", "--sequences=3", "--config", str(config)])
    origins = chosen_origins()
    assert (origins["workers"], origins["sequences"], origins["kv_type"]) == ("flag", "flag", "environment")
    assert Path(origins["step_tokens"]) == config
    assert "batch" not in origins
