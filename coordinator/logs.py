"""How the coordinator logs: structlog to stderr, for people on a terminal, JSON lines otherwise.

Prompts and answers are never logged. A line that cannot be written is dropped, and harms nothing. Tracebacks come
without the values of local variables, which may hold prompts.
"""

from __future__ import annotations

import os
import sys
from typing import Any, TextIO

import structlog

from numoe.coordinator.quiet_stream import quiet


def configure_logging(stream: TextIO | None = None) -> None:
    """Set structlog up. A server calls this once, when it starts; until then structlog's own defaults hold."""
    stream = quiet(stream or sys.stderr)
    render: list[structlog.typing.Processor]
    if stream.isatty():
        plain = os.environ.get("TERM", "dumb") in ("dumb", "unknown")
        colors = not plain and not os.environ.get("NO_COLOR")
        render = [structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)]
        if not plain:
            render.append(_clear_line)
    else:
        render = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *render,
        ],
        logger_factory=structlog.WriteLoggerFactory(stream),
    )


def _clear_line(logger: Any, method: str, line: Any) -> str:
    """Begin on a clean line: the bar of what is being loaded may stand on it, and is drawn anew below."""
    return f"\r\x1b[2K{line}"
