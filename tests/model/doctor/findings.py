"""What tests of the doctor share: small machines to spoil, and a look at what is said of one subject."""

from __future__ import annotations

from collections.abc import Iterable

from numoe.model.doctor.finding import Finding
from tests.machines import XEON_6138, Machine

TWO_NODES = Machine(XEON_6138, 2, 1, 2, 2, (4,))
ONE_NODE = Machine(XEON_6138, 1, 1, 2, 1, (4,))


def said(findings: Iterable[Finding], subject: str) -> list[tuple[str, str]]:
    """(level, what was found) of one subject; whatever is not ok says what it costs."""
    own = [finding for finding in findings if finding.subject == subject]
    assert all(finding.cost for finding in own if finding.level in ("warning", "problem"))
    return [(finding.level, finding.found) for finding in own]
