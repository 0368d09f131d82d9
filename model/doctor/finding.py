"""What a check of the machine finds, how bad that is, what it costs and what mends it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "note", "warning", "problem"]
LEVELS: tuple[Level, ...] = ("ok", "note", "warning", "problem")  # from good to bad


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's report.

    A note is worth knowing. A warning costs speed or may cost it. With a problem the model does not run, or runs at a
    small part of the machine's speed.
    """

    level: Level
    subject: str  # what was looked at, in a few words
    found: str
    cost: str = ""
    remedy: str = ""  # a command, or what to set where


def worst(findings: tuple[Finding, ...]) -> Level:
    """The worst level of all findings, "ok" if there are none."""
    return max((finding.level for finding in findings), key=LEVELS.index, default="ok")
