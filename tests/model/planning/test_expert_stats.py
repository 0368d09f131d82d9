"""The file of expert counts: what is written is read back, and what does not belong to the model is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from numoe.model.planning.expert_stats import ExpertStats, load_stats, no_stats, save_stats
from numoe.protos.errors import SetupError
from tests.tiny_model import TinyShape, tiny_spec

SPEC = tiny_spec(TinyShape(layers=2, experts=4, active_experts=2))
STATS = ExpertStats(SPEC.name, 2, ((3, 1, 2, 0), (0, 0, 3, 3)))


def written(folder: Path, **changes: Any) -> Path:
    """A file of STATS but for some keys; a value of None leaves the key out."""
    path = folder / "stats.json"
    save_stats(path, STATS)
    document = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in document.items() if value is not None}))
    return path


@given(st.lists(st.lists(st.integers(0, 3), min_size=4, max_size=4), min_size=2, max_size=2))
def test_counts_add_up_over_services(tmp_path_factory: pytest.TempPathFactory, more: list[list[int]]) -> None:
    for row in more:
        row[0] += 12 - sum(row)
    path = tmp_path_factory.mktemp("stats") / "stats.json"
    added = STATS.plus(more)
    save_stats(path, added)
    assert load_stats(path, SPEC) == added
    assert added.tokens == STATS.tokens + 6
    assert [path.name] == [other.name for other in path.parent.iterdir()]


def test_tokens_that_ran_fewer_experts_are_read_back(tmp_path: Path) -> None:
    added = no_stats(SPEC).plus([[3, 0, 0, 0], [3, 2, 0, 0]])  # three tokens of one expert, of one or two
    save_stats(tmp_path / "stats.json", added)
    assert load_stats(tmp_path / "stats.json", SPEC) == added
    assert added.tokens == 3


def test_a_person_can_read_the_file(tmp_path: Path) -> None:
    save_stats(tmp_path / "stats.json", STATS)
    lines = (tmp_path / "stats.json").read_text().splitlines()
    assert '"tokens": 3,' in lines
    assert "[3, 1, 2, 0]," in lines


def test_layers_that_lost_what_they_had_counted_are_read_back(tmp_path: Path) -> None:
    added = no_stats(SPEC).plus([[3, 3, 0, 0], [0, 0, 0, 0]])
    save_stats(tmp_path / "stats.json", added)
    assert load_stats(tmp_path / "stats.json", SPEC) == added


def test_shares_add_up_to_one() -> None:
    assert STATS.shares(0) == (0.5, 1 / 6, 1 / 3, 0.0)
    assert no_stats(SPEC).shares(1) == (0.25,) * 4


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"numoe_expert_stats": 2}, "no numoe_expert_stats of version 1"),
        ({"model": "another"}, "of the model 'another', expected 'tiny qwen3moe'"),
        ({"tokens": None}, "found the keys"),
        ({"tokens": -1}, "tokens = -1"),
        ({"active_experts": 3}, "found 3 active experts, expected 2"),
        ({"counts": [[3, 1, 2, 0]]}, "each of 2 layers"),
        ({"counts": [[3, 1, 2, 0], [6, 0, 0]]}, "layer 1: expected 4 counts"),
        ({"counts": [[3, 1, 2, 0], [7, -1, 0, 0]]}, "layer 1: expected 4 counts"),
        ({"counts": [[3, 1, 2, 1], [0, 0, 3, 3]]}, "layer 0: the counts add up to 7, expected 3 tokens x 2"),
        ({"counts": [[int("9" * 4300)] * 4, [0, 0, 3, 3]]}, "layer 0: expected 4 counts"),
        ({"model": "\x1b[2J" + "n" * 90_000}, "of the model .* anew$"),
        ({"k" * 90_000: 1}, "found the keys"),
    ],
)
def test_a_file_that_does_not_belong_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(SetupError, match=said) as refusal:
        load_stats(written(tmp_path, **changes), SPEC)
    assert len(str(refusal.value)) < 450 + len(str(tmp_path))
    assert str(refusal.value).isprintable()


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000])
def test_a_broken_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "stats.json").write_bytes(content)
    with pytest.raises(SetupError, match="expert statistics"):
        load_stats(tmp_path / "stats.json", SPEC)
