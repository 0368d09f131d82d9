"""A service on two hosts: real nodes with a wire between them, and streams that go on whatever is lost on either."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import pytest
import pytest_asyncio

from tests.system.clients import Client, connected
from tests.system.hosts.harms import HARMS
from tests.system.hosts.several_hosts import (
    FLAGS,
    HERE,
    PORT,
    THERE,
    SeveralHosts,
    namespace,
    why_not,
)
from tests.system.losses.campaign import Campaign, Told
from tests.system.serve_process import NUMOE, ServeProcess, serving

pytestmark = [pytest.mark.skipif(bool(why_not()), reason=why_not()), pytest.mark.timeout(600)]

SCALE = 0.3  # of prompts and answers, so that a loss still meets streams at work
LISTENERS = {  # as README has them, by the number that is added to the first port
    "gcs_server": {0},
    "raylet": {1, 2},
    "ray::RuntimeEnv": {3},
    "ray::HostActor": {4},
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def expected(served_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Told]:
    """What one host answers, on which nothing is lost."""
    with serving(tmp_path_factory.mktemp("alone") / "log", str(served_model), *FLAGS) as one_host:
        async with connected(one_host.address) as client:
            return await Campaign(one_host, client, scale=SCALE).answers()


async def test_two_hosts_answer_as_one_does_and_as_before_after_any_loss(
    expected: list[Told], hosts: SeveralHosts, server: ServeProcess, client: Client
) -> None:
    campaign = Campaign(server, client, scale=SCALE)
    await campaign.learn(expected)
    for harm in ("wire", "leader", "raylet", "gcs"):  # a worker of another host: test_watching.py
        await campaign.lose(HARMS[harm](hosts))
        await campaign.rest()
        assert campaign.report.different == [], harm
    assert campaign.report.resumed > 0


async def test_all_workers_of_both_hosts_are_shown(server: ServeProcess, client: Client) -> None:
    placement = await client.placement()
    assert [worker.host for worker in placement.workers] == ["", "", THERE, THERE]
    assert [worker.worker for worker in placement.workers] == [0, 1, 2, 3]
    command = ["env", "COLUMNS=200", NUMOE, "placement", "--address", server.address]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    assert THERE in shown.stdout


def test_a_plan_says_which_host_would_run_which_layers(
    hosts: SeveralHosts, server: ServeProcess, served_model: Path
) -> None:
    command = [
        *hosts.environment(HERE),
        "COLUMNS=200",
        NUMOE,
        "plan",
        str(served_model),
        "--hosts",
        "auto",
        "--workers",
        "1",
    ]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = [line.split("│") for line in shown.splitlines() if HERE in line or THERE in line]
    assert [(row[1].strip(), row[4].strip()) for row in rows[:2]] == [(HERE, "0-0"), (THERE, "1-1")]
    assert "tokens/s for one stream" in shown


def test_nothing_listens_beyond_loopback_but_what_the_table_names(hosts: SeveralHosts, server: ServeProcess) -> None:
    told = subprocess.run(
        ["ip", "netns", "exec", namespace(THERE), "ss", "-Hltnp"], capture_output=True, text=True, check=True
    )
    workers = range(PORT + 10, PORT + 90)
    for line in told.stdout.splitlines():
        port = int(line.split()[3].rpartition(":")[2])
        names = [name for name in (*LISTENERS, "ray::WorkerActo") if f'"{name}' in line]
        assert any(port - PORT in LISTENERS.get(name, ()) for name in names) or (names and port in workers), line


def test_steps_are_not_sent_to_hosts_that_nothing_protects(
    hosts: SeveralHosts, served_model: Path, tmp_path: Path
) -> None:
    """And a host is not started twice, nor joined with another token."""
    command = [*hosts.environment(HERE), NUMOE, "host", "start", "--head", "--ip", HERE]
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert "runs on this host already" in again.stderr
    elsewhere = ["env", f"XDG_RUNTIME_DIR={tmp_path}", NUMOE, "serve", str(served_model), "--hosts", "auto"]
    alone = subprocess.run(elsewhere, capture_output=True, text=True, check=False)
    assert alone.returncode == 2
    assert "no node of a cluster runs on this host: start it with `numoe host start --head`" in alone.stderr


async def test_a_host_that_is_gone_for_good_is_done_without_until_it_is_back(
    expected: list[Told], hosts: SeveralHosts, server: ServeProcess, client: Client
) -> None:
    """The last test of those of a file that share the hosts."""
    campaign = Campaign(server, client, scale=SCALE)
    await campaign.learn(expected)
    await campaign.lose(HARMS["gone"](hosts), at_work=True)
    assert campaign.report.resumed > 0
    assert [worker.host for worker in (await client.placement()).workers] == ["", ""]
    hosts.start(THERE)
    changing = asyncio.create_task(rebalance(server, "auto"))
    while not changing.done():
        await campaign.again()
    assert (await changing).returncode == 0
    assert [worker.host for worker in (await client.placement()).workers] == ["", "", THERE, THERE]
    again = await rebalance(server, f"{HERE},{THERE}")
    assert again.returncode == 1
    assert f"the layers lie on {HERE}, {THERE} already" in again.stderr
    assert campaign.report.different == []


async def rebalance(server: ServeProcess, wanted: str) -> subprocess.CompletedProcess[str]:
    command = [NUMOE, "rebalance", "--hosts", wanted, "--address", server.address]
    return await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
