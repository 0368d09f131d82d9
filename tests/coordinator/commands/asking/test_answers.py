"""Answers on a terminal, and elsewhere."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from numoe.coordinator.commands.asking.answers import tame
from numoe.coordinator.commands.screen.terminal import show_error


def test_an_answer_cannot_steer_the_terminal() -> None:
    text = "a\x1b[2Jb\x07\tc\n\x9bd 🙂"
    assert tame(text, Console(file=StringIO(), force_terminal=True)) == "a[2Jb\tc\nd 🙂"
    assert tame(text, Console(file=StringIO())) == text


def test_an_error_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    show_error("the template\nsays \x1b]0;owned\x07 \x9b2J \u202eback")
    assert capsys.readouterr().err == "error: the template says ]0;owned 2J back\n"
