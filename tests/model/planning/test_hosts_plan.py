"""The plan of several hosts: what is written is read, and hosts that leave a layer out or run one twice are refused."""

from __future__ import annotations

import pytest

from numoe.model.architectures.spec import stage_of
from numoe.model.planning.hosts_plan import HostPart, HostsPlan
from numoe.model.planning.plan import Range
from numoe.model.planning.plan_file import from_toml, hosts_from_toml, hosts_to_toml, to_toml
from numoe.model.planning.splitting import PlanOptions, make_plan
from numoe.protos.errors import PlanError
from tests.model.planning.examples import small_machine
from tests.tiny_model import TinyShape, tiny_spec

SPEC = tiny_spec(TinyShape(layers=5))
MACHINE = small_machine(2)


def plan_of(*stops: int) -> HostsPlan:
    """Split by row on every other host, by expert on those between."""
    parts = []
    for number, (start, stop) in enumerate(zip((0, *stops), (*stops, SPEC.layers), strict=True)):
        options = PlanOptions(workers=2, split="expert" if number % 2 else "tensor")
        plan = make_plan(stage_of(SPEC, start, stop), MACHINE, options)
        parts.append(HostPart(f"10.0.0.{number + 1}", Range(start, stop), plan))
    return HostsPlan(SPEC.name, tuple(parts))


@pytest.mark.parametrize("stops", [(), (1,), (2, 4)])
def test_what_is_written_is_read(stops: tuple[int, ...]) -> None:
    plan = plan_of(*stops)
    assert hosts_from_toml(hosts_to_toml(plan), SPEC) == plan


def test_layers_are_those_of_the_model_on_every_host() -> None:
    text = hosts_to_toml(plan_of(2, 4))
    assert "layers = [2, 4]" in text
    assert 'layers = "2-3"' in text
    with pytest.raises(PlanError, match=r"host 1: experts 0: layers: found 1, expected those of this host, 2 to 3"):
        hosts_from_toml(text.replace('layers = "2-3"', 'layers = "1-3"'), SPEC)


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        ("layers = [2, 4]", "layers = [1, 4]", r"host 10\.0\.0\.2 begins with layer 1, expected 2"),
        ("layers = [4, 5]", "layers = [3, 5]", r"host 10\.0\.0\.3 begins with layer 3, expected 4"),
        ("layers = [4, 5]", "layers = [4, 6]", r"host 2: found '10\.0\.0\.3' with layers 4 to 5, expected .* 0 to 4"),
        ('"10.0.0.3"', '"10.0.0.1"', r"names host 10\.0\.0\.1 twice"),
        ('address = "10.0.0.2"', "address = 7", "host 1: found 7 with layers 2 to 3, expected an address"),
        ("layers = [2, 4]\n", "", "host 1: layers: found None"),
        ("[[host.shard]]", "[[host.shards]]", "host 0: found shards, expected only"),
        ("cpus = [0]", "cpus = [-1]", "host 0: shard 0: cpus: found"),
        ("notes = []", "notes = []\nspeed = 3", "host 0: found speed, expected only"),
    ],
)
def test_an_edit_that_makes_no_sense_is_refused(before: str, after: str, problem: str) -> None:
    text = hosts_to_toml(plan_of(2, 4))
    assert before in text
    with pytest.raises(PlanError, match=problem):
        hosts_from_toml(text.replace(before, after, 1), SPEC)


def test_a_last_layer_that_nobody_runs_is_missed() -> None:
    plan = plan_of(2, 4)
    with pytest.raises(PlanError, match="ends with layer 3, expected 4"):
        hosts_from_toml(hosts_to_toml(HostsPlan(plan.model, plan.hosts[:2])), SPEC)


def test_a_plan_of_one_host_is_none_of_several_and_none_of_several_is_one_of_one() -> None:
    alone = make_plan(SPEC, MACHINE, PlanOptions(workers=2))
    with pytest.raises(PlanError, match=r"of one host, and --hosts names several: expected one with \[\[host\]\]"):
        hosts_from_toml(to_toml(alone), SPEC)
    with pytest.raises(PlanError, match="of several hosts, which --hosts has to say"):
        from_toml(hosts_to_toml(plan_of(2)), SPEC)
