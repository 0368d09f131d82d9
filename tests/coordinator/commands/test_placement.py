"""Where a served model lies, as the command shows it."""

from __future__ import annotations

from tests.coordinator.commands.numoe_process import numoe


def test_placement_shows_where_a_served_model_lies(address: str) -> None:
    done = numoe("placement", "--address", address)
    assert done.returncode == 0, done.stderr
    for part in ("2 workers", "4242", "cpus+memory", "8 of 9", "node 0: 200 B, node 1: 100 B", "vocabulary"):
        assert part in done.stdout


def test_placement_tells_where_an_expert_lives_and_how_often_it_is_chosen(address: str) -> None:
    done = numoe("placement", "--layer", "1", "--expert", "5", "--address", address)
    assert done.returncode == 0, done.stderr
    for part in ("Expert 5 of layer 1: worker 0, 1 (rows on each); NUMA node 0", "1 ever"):
        assert part in done.stdout
    beyond = numoe("placement", "--layer", "2", "--address", address)
    assert (beyond.returncode, beyond.stderr) == (2, "error: --layer is 2; the model has layers 0 to 1\n")
    without = numoe("placement", "--expert", "5", "--address", address)
    assert (without.returncode, without.stderr.startswith("error: --expert names an expert of a layer")) == (2, True)
