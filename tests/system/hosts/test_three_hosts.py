"""The biggest model's 94 layers of 128 experts, made narrow: on two hosts as planned, over bad wires, then on three."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.clients import Client, connected
from tests.system.hosts.several_hosts import FLAGS, HERE, THERE, THIRD, SeveralHosts, serving_on, several_hosts, why_not
from tests.system.losses.campaign import Campaign
from tests.system.serve_process import NUMOE, ServeProcess, serving

pytestmark = [pytest.mark.skipif(bool(why_not()), reason=why_not()), pytest.mark.timeout(600)]

SHAPE = (
    *("--shape", "qwen3-235b-a22b", "--width", "128", "--query-heads", "8", "--kv-heads", "4", "--head-size", "32"),
    *("--expert-width", "64", "--vocabulary", "331", "--context-length", "4096", "--type", "Q8_0"),
)
LAYERS, CUT = 94, 50
SCALE = 0.05  # of prompts and answers, as a step of so many layers takes long


@pytest.fixture(scope="module")
def hosts() -> Iterator[SeveralHosts]:
    with several_hosts(THERE, THIRD, slow=True) as three:
        yield three


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hosts") / "many-layers.gguf"
    subprocess.run([NUMOE, "demo-model", str(path), *SHAPE], check=True, capture_output=True)
    return path


def plan_for(hosts: SeveralHosts, model: Path, plan: Path) -> None:
    """A plan of two hosts, whose layers a person has then moved."""
    command = [*hosts.environment(HERE), "COLUMNS=200", NUMOE, "plan", str(model), "--workers", "2"]
    wanted = ["--hosts", f"{HERE},{THERE}", "--output", str(plan)]
    shown = subprocess.run([*command, *wanted], capture_output=True, text=True, check=True).stdout
    assert [shown.count(f"│ {host} │") for host in (HERE, THERE, THIRD)] == [3, 3, 0]  # and each of its two workers
    text = plan.read_text()
    [planned] = {int(line.split()[2].strip("[,")) for line in text.splitlines() if line.startswith("layers = [")} - {0}
    assert 0 < planned < LAYERS
    plan.write_text(
        text.replace(f"[0, {planned}]", f"[0, {CUT}]").replace(f"[{planned}, {LAYERS}]", f"[{CUT}, {LAYERS}]")
    )


async def layers_of(client: Client) -> list[tuple[str, int, int]]:
    """Host, first and last layer of every worker."""
    workers = (await client.placement()).workers
    return [(one.host, one.first_layer, one.first_layer + len(one.locality.layers)) for one in workers]


async def take_all(server: ServeProcess) -> None:
    """All hosts that have joined are to serve, from now on."""
    command = [NUMOE, "rebalance", "--hosts", "auto", "--address", server.address]
    told = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    assert "shared out anew" in told.stdout


async def profiled(server: ServeProcess) -> dict[str, Any]:
    """What threads did for a second."""
    command = [NUMOE, "profile", "--server", server.address, "--seconds", "1", "--output-format", "json"]
    told = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    found: dict[str, Any] = json.loads(told.stdout)
    return found


async def while_rounds_go_on(campaign: Campaign, task: asyncio.Task[Any]) -> None:
    """Until a task is done."""
    while not task.done():
        await campaign.again()


async def test_many_layers_on_two_and_three_hosts_answer_as_on_one(
    hosts: SeveralHosts, model: Path, tmp_path: Path
) -> None:
    with serving(tmp_path / "alone", str(model), *FLAGS) as one_host:
        async with connected(one_host.address) as client:
            expected = await Campaign(one_host, client, scale=SCALE).answers()
    plan = tmp_path / "plan.toml"
    plan_for(hosts, model, plan)
    with serving_on(hosts, tmp_path / "log", str(model), *FLAGS, "--plan-file", str(plan)) as server:
        async with connected(server.address) as client:
            campaign = Campaign(server, client, scale=SCALE)
            campaign.expected = expected
            await campaign.again()
            assert await layers_of(client) == [*[("", 0, CUT)] * 2, *[(THERE, CUT, LAYERS)] * 2]
            for milliseconds, loss in ((1.0, 0.0), (0.0, 0.01)):
                hosts.worsen(THERE, milliseconds, loss)
                await campaign.again()
            hosts.worsen(THERE)
            profiling = asyncio.create_task(profiled(server))
            await while_rounds_go_on(campaign, profiling)
            profile = await profiling
            assert len(profile["layers"]) == LAYERS
            assert [worker["host"] for worker in profile["workers"]] == ["", "", THERE, THERE]
            assert 0 < profile["hosts_at_work"] < 2
            changing = asyncio.create_task(take_all(server))
            await while_rounds_go_on(campaign, changing)
            await changing
            assert campaign.report.resumed > 0
            assert campaign.report.different == []
            assert [host for host, _, _ in await layers_of(client)] == ["", "", THERE, THERE, THIRD, THIRD]
