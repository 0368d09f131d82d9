"""All hostile clients at once: the honest one gets its bits, health answers, and nothing of the siege is left.

How much slower its tokens come is measured by `python -m tests.system.siege`, on a quiet machine.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system.siege.attacks import ATTACKS
from tests.system.siege.campaign import Campaign, besiege

SECONDS = 100.0


@pytest.mark.timeout(900)
async def test_a_service_stands_a_siege(tmp_path: Path) -> None:
    report = await besiege(tmp_path / "log", Campaign(SECONDS))
    assert not report.faults, str(report)
    assert set(report.outcomes) == set(ATTACKS)
