"""A real service counts the experts it computed, keeps the counts in a file, and goes on from there."""

from __future__ import annotations

from pathlib import Path

import pytest

from numoe.coordinator.machine.model_file import read_spec
from numoe.model.planning.expert_stats import load_stats
from tests.system.clients import SERVE_FLAGS, ask, connected
from tests.system.serve_process import serving
from tests.system.test_service import refused

PROMPT, TOKENS = (1, 2, 3, 4, 5), 40


async def served_tokens(model: Path, stats: Path, *flags: str) -> list[int]:
    """The answer of a service that keeps its counts in a file and ends."""
    with serving(stats.with_name("log"), str(model), *SERVE_FLAGS, "--expert-stats", str(stats), *flags) as server:
        async with connected(server.address) as client:
            return await client.tokens(ask(TOKENS, PROMPT))


async def test_counts_add_up_whatever_the_split(served_model: Path, tmp_path: Path) -> None:
    path, spec = tmp_path / "stats.json", read_spec(served_model)
    computed = len(PROMPT) + TOKENS - 1  # nothing follows the last token
    by_row = await served_tokens(served_model, path, "--split", "tensor")
    first = load_stats(path, spec)
    assert first.tokens == computed
    assert {sum(row) for row in first.counts} == {computed * spec.active_experts}
    assert first.counts[0] != first.counts[1]
    whole = await served_tokens(served_model, path, "--split", "expert", "--replicas", "0.25")
    assert whole == by_row
    assert load_stats(path, spec).counts == tuple(tuple(2 * count for count in row) for row in first.counts)


@pytest.mark.parametrize(
    ("stats", "said"), [("none/stats.json", "folder"), ("log", "are no JSON"), ("other.json", "of version 1")]
)
def test_counts_that_cannot_be_used_are_one_clear_line(
    served_model: Path, tmp_path: Path, stats: str, said: str
) -> None:
    (tmp_path / "log").write_text("ready\n")
    (tmp_path / "other.json").write_text("{}\n")
    assert said in refused(str(served_model), "--address", "127.0.0.1:0", "--expert-stats", str(tmp_path / stats))
