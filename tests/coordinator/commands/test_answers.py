"""Answers on a terminal, and elsewhere."""

from __future__ import annotations

from io import StringIO

from rich.console import Console

from numoe.coordinator.commands.answers import tame


def test_an_answer_cannot_steer_the_terminal() -> None:
    text = "a\x1b[2Jb\x07\tc\n\x9bd 🙂"
    assert tame(text, Console(file=StringIO(), force_terminal=True)) == "a[2Jb\tc\nd 🙂"
    assert tame(text, Console(file=StringIO())) == text
