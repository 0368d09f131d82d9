"""Short versions of what `python -m tests.system.endurance` does for long, with a small model."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system.endurance.cancels import cancel
from tests.system.endurance.malformed import PATHS, malform
from tests.system.endurance.soak import soak

STREAMS, SECONDS = 8, 3.0
CANCELS = 40
BODIES = 40 * len(PATHS)


@pytest.mark.timeout(300)
async def test_streams_tell_what_they_tell_alone_and_nothing_grows(served_model: Path, tmp_path: Path) -> None:
    report = await soak(tmp_path / "log", STREAMS, SECONDS, 0, str(served_model))
    assert not report.faults, str(report)


@pytest.mark.timeout(300)
async def test_nothing_is_left_of_requests_that_were_given_up(served_model: Path, tmp_path: Path) -> None:
    report = await cancel(tmp_path / "log", served_model, CANCELS)
    assert not report.faults, str(report)
    assert sum(map(len, report.ended.values())) == CANCELS
    assert report.honest_answers > 0


@pytest.mark.timeout(300)
async def test_malformed_bodies_are_refused_at_once(served_model: Path, tmp_path: Path) -> None:
    report = await malform(tmp_path / "log", BODIES, 0, str(served_model))
    assert not report.faults, str(report)
    assert all(tally.statuses for tally in report.tallies.values())
