"""How the coordinator logs: structlog to stderr, for people on a terminal, JSON lines otherwise.

docs/log.md lists the events with their fields. Prompts and answers are never logged. Lines are written by a thread of
their own, so that nobody waits for a log; one that cannot be written is dropped, and harms nothing. What libraries log
comes as the event "library". Tracebacks come without the values of local variables, which may hold prompts.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
from collections.abc import MutableMapping
from functools import partial
from typing import Any, TextIO

import structlog

from numoe.coordinator.afterwards import Afterwards
from numoe.coordinator.quiet_stream import quiet
from numoe.coordinator.ration import Ration

FIRST = ("timestamp", "level", "event")  # of the fields of a line
FINISH_SECONDS = 1.0  # for the lines that wait when the process ends
LIBRARY_CHARACTERS = 500  # of what a library says
LIBRARY_SECONDS = 60.0  # between two times that a library says the same, such as that a collector is away

_writing = Afterwards("numoe-log")
_log = structlog.get_logger()


def configure_logging(stream: TextIO | None = None) -> None:
    """Set structlog up: a command calls this before it reads a model. Until then lines go to standard output."""
    stream = quiet(stream or sys.stderr)
    render: list[structlog.typing.Processor]
    if stream.isatty():
        plain = os.environ.get("TERM", "dumb") in ("dumb", "unknown")
        colors = not plain and not os.environ.get("NO_COLOR")
        render = [structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)]
        if not plain:
            render.append(_clear_line)
    else:
        render = [structlog.processors.format_exc_info, _in_order, structlog.processors.JSONRenderer()]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.MaybeTimeStamper(fmt="iso", utc=True),
            *render,
        ],
        logger_factory=structlog.WriteLoggerFactory(_LateStream(stream)),  # type: ignore[arg-type]
    )
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _LibraryHandler)]:
        root.removeHandler(handler)
    root.addHandler(_LibraryHandler())
    atexit.unregister(finish_log)
    atexit.register(finish_log)


def finish_log() -> None:
    """Have the lines that wait written, before the process ends."""
    _writing.finish(FINISH_SECONDS)


def log_phase(phase: str) -> None:
    """Loading has come to a phase."""
    _log.info("loading_phase", phase=phase)


class _LateStream:
    """A stream to which a thread of its own writes, later."""

    __slots__ = ("__weakref__", "_stream")  # structlog keeps a lock for each stream

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Return at once."""
        _writing.do(partial(self._stream.write, text))
        return len(text)

    def flush(self) -> None:
        """Nothing is waited for."""


class _LibraryHandler(logging.Handler):
    """What libraries log by Python's own means becomes a line of ours; what they repeat, one a minute."""

    def __init__(self) -> None:
        super().__init__()
        self._ration = Ration(burst=1, per_second=1 / LIBRARY_SECONDS)

    def emit(self, record: logging.LogRecord) -> None:
        """Pass a line on; never raises."""
        left_out = self._ration.facts((record.name, record.lineno))
        if left_out is None:
            return
        try:
            text = record.getMessage()[:LIBRARY_CHARACTERS]
        except Exception:  # the library's own mistake, and no reason to end what it does
            text = str(record.msg)[:LIBRARY_CHARACTERS]
        tell = _log.error if record.levelno >= logging.ERROR else _log.warning
        tell("library", logger=record.name, text=text, exc_info=record.exc_info, **left_out)


def _in_order(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """When, how grave, what: then the rest."""
    return {name: event[name] for name in FIRST if name in event} | dict(event)


def _clear_line(logger: Any, method: str, line: Any) -> str:
    """Begin on a clean line: the bar of what is being loaded may stand on it, and is drawn anew below."""
    return f"\r\x1b[2K{line}"
