"""What `numoe plan` puts on the screen."""

from __future__ import annotations

from dataclasses import replace

import pytest

from numoe.coordinator.commands.tables.figures import human_bytes
from numoe.coordinator.commands.tables.plan import describe_plan
from numoe.model.machine.topology import Topology
from numoe.model.planning.plan import Spread
from numoe.model.planning.splitting import PlanOptions, make_plan
from numoe.model.planning.worker_memory import SERVICE_BYTES, node_bytes
from tests.coordinator.commands.tables.screen import shown
from tests.model.planning.examples import LIMITS
from tests.tiny_model import TinyShape, tiny_spec


def test_the_plan_shows_each_workers_share_and_whether_it_fits(two_sockets: Topology) -> None:
    spec = tiny_spec(TinyShape())
    made = make_plan(spec, two_sockets, PlanOptions(workers=3))
    text = shown(describe_plan(made, spec, two_sockets, replace(LIMITS, kv_blocks=64)))
    for part in ("tiny qwen3moe: tensor split over 3 workers", "0-1", "5-7", "224-330", "4,096 positions", "yes"):
        assert part in text
    assert "Note: fewer NUMA nodes (2) than workers (3)" in text


@pytest.mark.parametrize(
    ("spread", "parts"),
    [
        (Spread("any", (0, 1), (0, 1, 2, 3)), ("0-1, unbound", "0-3, not pinned")),
        (Spread("interleave", (0, 1)), ("0-1, in turn",)),
        (Spread("bind", (0, 1)), ("0-1, any",)),
    ],
)
def test_a_worker_on_several_nodes_is_shown_as_such(
    spread: Spread, parts: tuple[str, ...], two_sockets: Topology
) -> None:
    spec = tiny_spec(TinyShape())
    made = make_plan(spec, two_sockets, PlanOptions(spread=spread))
    text = shown(describe_plan(made, spec, two_sockets, LIMITS), width=200)
    assert all(part in text for part in parts)
    assert ("not pinned" in text) == bool(spread.floating)


def test_a_plan_that_does_not_fit_says_what_is_short(two_sockets: Topology) -> None:
    spec = tiny_spec(TinyShape())
    small = replace(two_sockets, nodes=tuple(replace(node, available_bytes=1024) for node in two_sockets.nodes))
    made = make_plan(spec, small)
    text = shown(describe_plan(made, spec, small, LIMITS))
    assert f"no, {human_bytes(node_bytes(made, spec, LIMITS)[0] - 1024)} short" in text


def test_the_limit_of_the_cgroup_stands_in_the_table(two_sockets: Topology) -> None:
    spec = tiny_spec(TinyShape())
    limited = replace(two_sockets, memory_left=1024)
    made = make_plan(spec, limited)
    text = shown(describe_plan(made, spec, limited, LIMITS))
    assert "cgroup's memory limit" in text
    assert f"no, {human_bytes(sum(node_bytes(made, spec, LIMITS).values()) + SERVICE_BYTES - 1024)} short" in text
    assert "cgroup" not in shown(describe_plan(made, spec, two_sockets, LIMITS))


def test_a_hostile_name_cannot_reach_the_terminal(two_sockets: Topology) -> None:
    spec = replace(tiny_spec(TinyShape()), name="\x1b[2J[red]evil[/red]\n")
    text = shown(describe_plan(make_plan(spec, two_sockets), spec, two_sockets, LIMITS))
    assert "\x1b" not in text
    assert "[red]evil[/red]" in text
