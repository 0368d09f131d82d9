"""Rows and the bar below them: on a terminal both are seen, and nothing of the bar is in what is piped."""

from __future__ import annotations

import os
import re
import subprocess
import sys

SCRIPT = """
from numoe.coordinator.commands.measuring.running import Rows
with Rows(3, "measuring") as rows:
    for number in range(3):
        rows.write(f"row {number}\\n")
        rows.advance()
"""
ROWS = ["row 0", "row 1", "row 2"]
CURSOR = re.compile(r"\x1b\[\?25[hl]|\x1b\[0m")


def run(*, piped: bool) -> tuple[str, str]:
    """What comes out of standard output, if that is piped, and what a terminal is sent."""
    ours, theirs = os.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    output = subprocess.PIPE if piped else theirs
    command = [sys.executable, "-c", SCRIPT]
    with subprocess.Popen(command, stdout=output, stderr=theirs, env=environment, text=True) as process:
        os.close(theirs)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    sent = b""
    while True:
        try:
            part = os.read(ours, 1 << 16)
        except OSError:  # the last process that had the terminal has closed it
            break
        if not part:
            break
        sent += part
    os.close(ours)
    return said or "", sent.decode()


def test_the_bar_is_never_in_what_is_piped() -> None:
    said, shown = run(piped=True)
    assert said.splitlines() == ROWS
    assert "measuring" in shown


def test_rows_stay_on_the_terminal_above_the_bar() -> None:
    _, shown = run(piped=False)
    screen: list[str] = [""]
    for part in re.split(r"(\r\n|\n|\r|\x1b\[2K|\x1b\[1A)", CURSOR.sub("", shown)):
        if part in ("\r\n", "\n"):
            screen.append("")
        elif part == "\x1b[1A":
            screen.pop()
        elif part == "\x1b[2K":
            screen[-1] = ""
        elif part != "\r":
            screen[-1] += part
    assert [line for line in screen if line] == ROWS
    assert "measuring" in shown
