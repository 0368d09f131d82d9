"""What holds of every command: how it is described, how fast it starts, how a wrong set-up ends it."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from numoe.coordinator.commands.main import app, main


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


def test_help_starts_without_the_heavy_libraries() -> None:
    heavy = "{'ray', 'numba', 'grpc', 'numpy'}"
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
    own = ("main", "screen", "screen.terminal")
    assert str([f"numoe.coordinator.commands.{name}" for name in own]) in said
    assert all(f"Usage: numoe {name} [" in done.stdout for name in ("serve", "generate", "chat", "demo-model"))
    assert said[-1] == "[]"


def test_the_list_of_commands_describes_each_as_its_docstring_does() -> None:
    commands = {name: command for name, command in app.resolved_commands().items() if not name.startswith("-")}
    assert len(commands) == 9
    for command in commands.values():
        assert command.default_command is not None
        description, parameters, _ = inspect.cleandoc(command.default_command.__doc__ or "").partition(
            "\n\nParameters\n"
        )
        assert inspect.cleandoc(str(command.help)) == description
        assert parameters
