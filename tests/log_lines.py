"""What docs/log.md says of each line of log, and a check of lines against it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

DOCUMENT = Path(__file__).parents[1] / "docs/log.md"
COMMON = {"timestamp", "level", "event"}
_ROW = re.compile(r"^\| `(\w+)` \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)
Line = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Documented:
    """One event."""

    levels: frozenset[str]
    fields: frozenset[str]  # that are always there
    optional: frozenset[str]


@cache
def documented() -> dict[str, Documented]:
    """Every event of the tables."""
    found = {}
    for name, levels, told in _ROW.findall(DOCUMENT.read_text()):
        fields = told.partition(":")[0]
        optional = re.findall(r"`(\w+)`", " ".join(re.findall(r"\((.*?)\)", fields)))
        always = set(re.findall(r"`(\w+)`", fields)) - set(optional)
        words = frozenset(re.findall("info|warning|error", levels))
        assert name not in found, f"{name} stands there twice"
        found[name] = Documented(words, frozenset(always), frozenset(optional))
    return found


def check_line(line: Line) -> None:
    """Fail if a line is not as the document says."""
    said = documented().get(line["event"])
    assert said is not None, f"docs/log.md does not list {line}"
    assert line["level"] in said.levels, line
    assert said.fields | COMMON <= line.keys() <= said.fields | said.optional | COMMON, line


def captured(logged: Iterable[Mapping[str, Any]]) -> list[Line]:
    """The lines that structlog's capture_logs caught, as they would be written, each checked."""
    lines = []
    for caught in logged:
        told = {"timestamp": "", "level": caught["log_level"]} | dict(caught)
        del told["log_level"]
        if told.pop("exc_info", None):
            told["exception"] = "a traceback"
        check_line(told)
        lines.append(told)
    return lines


def read_log(text: str) -> list[Line]:
    """The lines of a log that was written as JSON, each checked."""
    lines: list[Line] = [json.loads(line) for line in text.splitlines()]
    for line in lines:
        assert list(line)[:3] == ["timestamp", "level", "event"]
        check_line(line)
    return lines
