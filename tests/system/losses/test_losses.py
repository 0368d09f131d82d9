"""Streams of all kinds go on, bit for bit, past the loss of workers and of Ray, and nothing of what was lost stays."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.clients import connected
from tests.system.losses.campaign import SERVE_FLAGS, Campaign, Harm, Holdings, killing, killing_process
from tests.system.serve_process import ServeProcess, serving

MOST_GROWTH = 1.05  # of the coordinator's memory over the losses of a test; `python -m tests.system.losses` takes 50


@pytest.fixture(scope="module")
def server(served_model: Path) -> Iterator[ServeProcess]:
    with serving(served_model.with_name("losses"), str(served_model), *SERVE_FLAGS) as server:
        yield server


@pytest.mark.parametrize(
    ("harm", "losses"),
    [(killing(signal.SIGKILL), 3), (killing(signal.SIGSTOP), 1), (killing_process("gcs_server"), 1)],
    ids=["SIGKILL", "SIGSTOP", "gcs_server"],
)
async def test_every_stream_is_answered_as_if_nothing_had_been_lost(
    server: ServeProcess, harm: Harm, losses: int
) -> None:
    async with connected(server.address) as client:
        campaign = Campaign(server, client, rested=True)
        await campaign.learn()
        await campaign.lose(harm)
        while campaign.report.resumed == 0:  # where no stream was at work
            await campaign.lose(harm, at_work=True)
        await campaign.rest()
        before = Holdings.of(server)
        for _ in range(losses - 1):
            await campaign.lose(harm)
        await campaign.rest()
        after = Holdings.of(server)
    report = campaign.report
    assert report.different == [], str(report)
    assert report.resumed > 0, str(report)
    assert after.memory < MOST_GROWTH * before.memory, (before, after)
    assert (after.processes, after.shared_memory) == (before.processes, before.shared_memory)
    assert after.descriptors <= before.descriptors, (before, after)
    # Pools of threads may grow by one more when two calls meet; what a loss left would be there once for each.
    assert after.threads <= before.threads + (losses - 1) // 2, (before, after)
