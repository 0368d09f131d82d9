"""How much a process may lock is its hard limit, unless a capability frees it of that."""

from __future__ import annotations

from pathlib import Path

import pytest

from numoe.model.machine.memory_lock import lock_limit
from tests.machines import restrict, write

LIMITS = """Limit                     Soft Limit           Hard Limit           Units
Max file size             unlimited            unlimited            bytes
Max locked memory         8192                 {}             bytes
"""


@pytest.mark.parametrize(
    ("hard", "capabilities", "limit"),
    [("8388608", 0, 8388608), ("8388608", 1 << 13, 8388608), ("8388608", 1 << 14, None), ("unlimited", 0, None)],
)
def test_the_hard_limit_counts_without_the_capability(
    tmp_path: Path, hard: str, capabilities: int, limit: int | None
) -> None:
    restrict(tmp_path, "0", "0", capabilities=capabilities)
    write(tmp_path, "proc/self/limits", LIMITS.format(hard))
    assert lock_limit(tmp_path) == limit


def test_what_says_no_limit_has_none(tmp_path: Path) -> None:
    assert lock_limit(tmp_path) is None
