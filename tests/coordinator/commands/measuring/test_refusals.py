"""What cannot be measured is refused in one line, before any worker starts."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from numoe.coordinator.commands.main import main


def test_what_cannot_be_measured_is_refused_in_one_line(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    unconfigured_logging: None,
) -> None:
    text = tmp_path / "text"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 100)
    (tmp_path / "short").write_text("too short")
    (tmp_path / "base").write_bytes(b"_logits_" + b"\0" * 12)
    for arguments, expected in (
        (["perplexity", model, "-f", tmp_path / "short"], "tokens, expected at least 1024"),
        (["perplexity", model, "-f", text, "-c", "1000000"], "expected at least 2000000"),
        (
            ["perplexity", model, "-f", text, "-c", "1000"],
            "1000 positions are needed for this, but the model's context",
        ),
        (["perplexity", model, "-f", text, "-c", "2"], "--ctx-size is 2, expected at least 4"),
        (["perplexity", model, "-f", text, "--chunks", "0"], "--chunks is 0, expected at least 1"),
        (["perplexity", model, "-f", tmp_path / "none"], "cannot be read: No such file"),
        (["perplexity", model], "--file TEXT is missing"),
        (["perplexity", model, "--kl-divergence"], "needs --kl-divergence-base FILE"),
        (
            ["perplexity", model, "--kl-divergence", "--kl-divergence-base", tmp_path / "base"],
            "vocabulary of 0",
        ),
        (["perplexity", model, "--kl-divergence", "--kl-divergence-base", text], "begins with b'The quic', expected"),
        (["perplexity", model, "-f", text, "--kl-divergence-base", tmp_path / "none/base"], "does not exist"),
        (["perplexity", model, "-f", text, "--kl-divergence-base", tmp_path], "is a folder"),
        (["sweep-bench", model, "-c", "0"], "--ctx-size is 0, expected at least 1"),
        (["sweep-bench", model, "-c", "1000000"], "positions are needed for this, but the model's context is"),
        (["sweep-bench", model, "--plot", tmp_path / "none/a.png"], "does not exist"),
        (["sweep-bench", model, "--plot", tmp_path / "a.txt"], "expected a name that ends with"),
        (["bench", model, "-d", "1000000"], "positions are needed for this, but the model's context is"),
        (["bench", model, "-np", "600"], "--streams is 600, more than --step-tokens 512"),
        (["bench", model, "-p", "0", "-n", "0"], "nothing is measured"),
        (["bench", model, "-r", "0"], "--repetitions is 0"),
        (["bench", model, "-p", "many"], "--n-prompt is 'many', expected numbers"),
        (["bench", tmp_path / "none.gguf"], "none.gguf: expected a GGUF file, found nothing"),
        (["profile", model, "-n", "0"], "nothing is profiled"),
        (["profile", model, "-d", "-1"], "--n-depth is -1, expected at least 0"),
        (["profile", model, "-d", "1000000"], "positions are needed for this, but the model's context is"),
        (["profile", model, "--html", tmp_path / "none/a.html"], "does not exist"),
        (["profile", model, "--server", "127.0.0.1:1"], "expected a model or --server, not both"),
        (["profile", "--server", "127.0.0.1:1", "--seconds", "601"], "--seconds is 601, expected"),
        (["profile", "--server", "127.0.0.1:1", "--steps", "-1"], "--steps is -1, expected"),
        (["bench", "-m", tmp_path / "none.gguf"], "none.gguf: expected a GGUF file, found nothing"),
    ):
        monkeypatch.setattr(sys, "argv", ["numoe", *map(str, arguments)])
        with pytest.raises(SystemExit) as raised:
            main()
        assert raised.value.code == 2
        shown = capsys.readouterr()
        assert expected in shown.err
        assert shown.err.startswith("error: ")
        assert (shown.err.count("\n"), shown.out) == (1, "")


def test_a_profile_of_nobody_names_the_flag_that_names_another(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], unconfigured_logging: None
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    monkeypatch.setattr(sys, "argv", ["numoe", "profile", "--server", address, "--seconds", "1"])
    with pytest.raises(SystemExit) as raised:
        main()
    assert raised.value.code == 1
    shown = capsys.readouterr()
    assert f"nothing answers at {address}: start `numoe serve`, or name another address with --server" in shown.err
