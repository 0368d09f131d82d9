"""Short versions of what `python -m tests.system.endurance` does for long, with a small model."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system.endurance import cancels, malformed, soak
from tests.system.endurance.service import serving

STREAMS, SECONDS = 8, 2.0
CANCELS = 24
BODIES = 20 * len(malformed.PATHS)


@pytest.mark.timeout(300)
async def test_streams_tell_what_they_tell_alone_and_nothing_is_left_of_them_nor_of_those_given_up(
    served_model: Path, tmp_path: Path
) -> None:
    faults: list[str] = []
    async with serving(tmp_path / "log", faults, str(served_model), *cancels.SERVE_FLAGS) as service:
        streams = await soak.soak(service, STREAMS, SECONDS)
        given_up = await cancels.cancel(service, CANCELS)
    assert not streams.faults, str(streams)
    assert not given_up.faults, str(given_up)
    assert sum(map(len, given_up.ended.values())) == CANCELS
    assert given_up.honest.answers > 0
    assert not faults


@pytest.mark.timeout(300)
async def test_malformed_bodies_are_refused_at_once(served_model: Path, tmp_path: Path) -> None:
    faults: list[str] = []
    async with serving(tmp_path / "log", faults, str(served_model), *malformed.SERVE_FLAGS) as service:
        report = await malformed.malform(service, BODIES)
    assert not report.faults, str(report)
    assert all(tally.statuses for tally in report.tallies.values())
    assert not faults
