"""Counting chosen experts across groups of workers, and keeping the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from numoe.coordinator.workers import expert_tally
from numoe.coordinator.workers.expert_tally import ExpertTally
from numoe.model.planning.expert_stats import load_stats
from numoe.protos.errors import SetupError
from tests.tiny_model import TinyShape, tiny_spec

SPEC = tiny_spec(TinyShape(layers=2, experts=4, active_experts=2))


def hits(tokens: int) -> NDArray[np.int64]:
    """All tokens chose the first two experts."""
    return np.array([[tokens, tokens, 0, 0]] * 2, np.int64)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look and save after every step."""
    monkeypatch.setattr(expert_tally, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(expert_tally, "SAVE_SECONDS", 0.0)


def test_counts_of_groups_and_services_add_up(tmp_path: Path) -> None:
    path = tmp_path / "stats.json"
    for service in range(2):
        tally = ExpertTally(SPEC, path)
        assert tally.stats.tokens == 7 * service
        tally.end_group(hits(5))
        tally.end_group(hits(2))
        tally.close()
    assert load_stats(path, SPEC).counts == ((14, 14, 0, 0),) * 2


@pytest.mark.usefixtures("impatient")
def test_a_group_that_ended_within_a_step_keeps_what_was_seen(tmp_path: Path) -> None:
    tally = ExpertTally(SPEC, tmp_path / "stats.json")
    tally.after_step(lambda: hits(3))
    tally.end_group(None)
    assert tally.stats.tokens == 3


@pytest.mark.usefixtures("impatient")
def test_the_file_is_kept_up_to_date_while_serving(tmp_path: Path) -> None:
    path = tmp_path / "stats.json"
    tally = ExpertTally(SPEC, path)
    tally.after_step(lambda: hits(4))
    assert tally._saving is not None
    tally._saving.join()
    assert load_stats(path, SPEC).tokens == 4
    tally.close()


def test_looks_are_not_taken_after_every_step() -> None:
    tally = ExpertTally(SPEC, None)
    tally.after_step(lambda: hits(4))
    assert tally.stats.tokens == 0
    tally.end_group(hits(4))
    tally.close()
    assert tally.stats.tokens == 4


def test_a_file_that_cannot_be_written_ends_nothing(tmp_path: Path) -> None:
    tally = ExpertTally(SPEC, tmp_path / "none" / "stats.json")
    tally.end_group(hits(1))
    tally.close()
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_another_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "stats.json"
    ExpertTally(SPEC, path).close()
    with pytest.raises(SetupError, match="each of 3 layers"):
        ExpertTally(tiny_spec(TinyShape(layers=3, experts=4, active_experts=2)), path)
