"""The log as people and machines read it."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Iterator
from io import StringIO

import pytest
import structlog

from numoe.coordinator.logs import _LibraryHandler, configure_logging, finish_log
from tests.coordinator.engine.fake_executor import FakeExecutor, lose_worker_at
from tests.coordinator.engine.serving import PATIENCE_SECONDS, PROMPT, answer, request, serving
from tests.coordinator.tiny_tokenizer import ALL_IDS
from tests.log_lines import read_log


@pytest.fixture(autouse=True)
def unconfigured_logging() -> Iterator[None]:
    handlers = list(logging.getLogger().handlers)
    yield
    structlog.reset_defaults()
    logging.getLogger().handlers = handlers


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
    finish_log()
    told = json.loads(stream.getvalue())
    assert (told["event"], told["level"], told["running"]) == ("draining", "info", 2)


def test_a_line_begins_with_when_how_grave_and_what() -> None:
    stream = StringIO()
    configure_logging(stream)
    structlog.get_logger().warning("no_chat", error="a\nb \ud800 ü", timestamp="then")
    finish_log()
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert list(json.loads(text).items())[:3] == [("timestamp", "then"), ("level", "warning"), ("event", "no_chat")]
    assert json.loads(text)["error"] == "a\nb \ud800 ü"


class Stuck(StringIO):
    """A stream that takes nothing until it is let go, as a disk or a terminal may."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.free = threading.Event(), threading.Event()

    def write(self, text: str) -> int:
        self.begun.set()
        assert self.free.wait(PATIENCE_SECONDS)
        return super().write(text)


async def test_a_log_that_is_stuck_holds_up_no_request() -> None:
    stream = Stuck()
    configure_logging(stream)
    try:
        structlog.get_logger().info("loading_phase", phase="reading")
        assert stream.begun.wait(PATIENCE_SECONDS)
        executor = FakeExecutor(ALL_IDS, before_collect=lose_worker_at(4))
        async with serving(executor) as engine:  # whose thread logs that a worker is lost, and more
            assert (await answer(engine.submit(request(PROMPT, 8)))).finished
    finally:
        stream.free.set()
        finish_log()
    events = [json.loads(line)["event"] for line in stream.getvalue().splitlines()]
    assert events == ["loading_phase", "worker_lost", "workers_restarting", "workers_restarted"]


def test_what_libraries_log_is_a_line_of_ours_and_once_in_a_while() -> None:
    stream = StringIO()
    configure_logging(stream)
    configure_logging(stream)  # a second time, nothing comes twice
    for number in range(5):
        logging.getLogger("some.library").warning("the collector is away, try %d", number)
    try:
        raise ValueError("a defect")
    except ValueError:
        logging.getLogger("some.library").exception("it failed")
    logging.getLogger("some.library").info("not worth a line")
    [ours] = [one for one in logging.getLogger().handlers if isinstance(one, _LibraryHandler)]
    ours.emit(logging.LogRecord("some.library", logging.ERROR, "", 1, "%d of them", ("no number",), None))
    finish_log()
    away, failed, malformed = read_log(stream.getvalue())
    assert (away["event"], away["level"], away["logger"]) == ("library", "warning", "some.library")
    assert away["text"] == "the collector is away, try 0"
    assert (failed["level"], failed["text"]) == ("error", "it failed")
    assert malformed["text"] == "%d of them"
    assert "ValueError: a defect" in failed["exception"]
