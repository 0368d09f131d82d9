"""The log as people and machines read it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from io import StringIO

import pytest
import structlog

from numoe.coordinator.logs import configure_logging


@pytest.fixture(autouse=True)
def unconfigured_logging() -> Iterator[None]:
    yield
    structlog.reset_defaults()


@pytest.mark.parametrize(("terminal", "begin"), [("xterm", b"a bar\r\x1b[2K"), ("dumb", b"a bar20")])
def test_on_a_terminal_a_line_replaces_the_bar_that_is_shown(
    terminal: str, begin: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", terminal)
    monkeypatch.setenv("NO_COLOR", "1")
    ours, theirs = os.openpty()
    with os.fdopen(theirs, "w") as stream:
        stream.write("a bar")
        configure_logging(stream)
        structlog.get_logger().info("draining", running=2)
        shown = b""
        while not shown.endswith(b"\n"):
            shown += os.read(ours, 4096)
    os.close(ours)
    assert shown.startswith(begin)
    assert b"draining" in shown


def test_elsewhere_a_line_is_json() -> None:
    stream = StringIO()
    configure_logging(stream)
    structlog.get_logger().info("draining", running=2)
    told = json.loads(stream.getvalue())
    assert (told["event"], told["level"], told["running"]) == ("draining", "info", 2)
