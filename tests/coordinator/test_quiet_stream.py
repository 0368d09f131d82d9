"""A line that cannot be written is dropped, and nothing else happens."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from io import StringIO, TextIOWrapper
from pathlib import Path
from typing import TextIO

import pytest
import structlog

from numoe.coordinator.logs import configure_logging, finish_log
from numoe.coordinator.quiet_stream import quiet


@pytest.fixture
def unconfigured_logging() -> Iterator[None]:
    handlers = list(logging.getLogger().handlers)
    yield
    structlog.reset_defaults()
    logging.getLogger().handlers = handlers


def unread_pipe() -> TextIO:
    """A pipe that is full and that nobody reads, though its reader is there."""
    _, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while os.write(writer, b"x" * 4096):
            pass
    os.set_blocking(writer, True)
    return os.fdopen(writer, "w")


def broken_pipe() -> TextIO:
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w")


def full_disk() -> TextIO:
    return Path("/dev/full").open("w")


def closed() -> TextIO:
    stream = full_disk()
    stream.close()
    return stream


@pytest.mark.parametrize("make", [unread_pipe, broken_pipe, full_disk, closed, lambda: None])
def test_what_cannot_be_written_is_dropped(make: object, unconfigured_logging: None) -> None:
    stream = make()  # type: ignore[operator]
    configure_logging(stream)
    for number in range(3):
        structlog.get_logger().info("call", number=number, filling="x" * 10_000)
    try:
        raise RuntimeError("a defect")
    except RuntimeError:
        structlog.get_logger().exception("internal_error")
    finish_log()
    if stream is not None:
        stream.close()  # nothing was held back, which would fail here


def test_what_can_be_written_is_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("w", encoding="ascii") as file:
        quiet(file).write("ü" + "x" * 10_000 + "\n")
    assert path.read_text() == "\\xfc" + "x" * 10_000 + "\n"
    memory = StringIO()
    quiet(memory).write("line\n")
    assert memory.getvalue() == "line\n"
    assert not quiet(memory).isatty()
    assert isinstance(file, TextIOWrapper)
