"""Prometheus's own parser reads the metrics, and they say what the engine and the snapshot do."""

from __future__ import annotations

import asyncio
import re
import subprocess
from dataclasses import replace

import grpc
import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from numoe.coordinator.machine.machine_look import MachineFacts
from numoe.coordinator.process.life import Ready
from numoe.coordinator.workers.placement import Placement
from tests.coordinator.api.grpc.grpc_serving import (
    SHAPE,
    FakeWorkers,
    ask,
    fake_workers,
    generated,
    running_server,
    settings_of,
    until,
)
from tests.coordinator.api.http.http_client import Reply
from tests.coordinator.api.http.http_client import ask as http_ask
from tests.coordinator.engine.fake_executor import lose_worker_at
from tests.coordinator.engine.serving import Gate
from tests.coordinator.process.test_life import loading_service
from tests.coordinator.tiny_tokenizer import LETTERS
from tests.programs import find_program

UNITS = ("_seconds", "_bytes", "_ratio", "_per_second", "_total", "_info")


def samples_of(reply: Reply) -> dict[tuple[str, ...], float]:
    """Every sample's value, by its name and its labels' values in the order of their names."""
    assert reply.status == 200
    families = text_string_to_metric_families(reply.body.decode())
    found = [sample for family in families for sample in family.samples]
    return {(sample.name, *(sample.labels[name] for name in sorted(sample.labels))): sample.value for sample in found}


async def test_metrics_say_what_was_done_in_base_units() -> None:
    async with running_server() as running:
        for tokens in (1, 5):
            await generated(running, ask(max_tokens=tokens))
        with pytest.raises(grpc.aio.AioRpcError):
            await generated(running, ask(max_tokens=999))
        reply = await http_ask(running.ready.http, "/metrics")
        status = (await http_ask(running.ready.http, "/ops/status")).json
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = {family.name: family for family in text_string_to_metric_families(reply.body.decode())}
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in families.values()
        for sample in family.samples
    }
    assert samples["numoe_generated_tokens_total",] == status["flow"]["generated_tokens"] == 6
    assert samples["numoe_prompt_tokens_total",] == 4  # of 3 and 3: two were run before
    assert samples["numoe_requests_total", "length"] == 2
    assert samples["numoe_requests_refused_total", "invalid_request"] == 1
    assert samples["numoe_state", "serving"] == 1
    assert samples["numoe_state", "draining"] == 0
    assert samples["numoe_first_token_seconds_count",] == 2
    assert samples["numoe_first_token_seconds_bucket", "+Inf"] == 2
    assert samples["numoe_between_tokens_seconds_count",] == 4
    assert samples["numoe_step_phase_seconds_count", "wait"] == 6
    assert samples["numoe_worker_up", "0", "0"] == 1
    assert samples["numoe_worker_up", "0", "1"] == 0  # labels in the order of their names
    assert samples["numoe_worker_off_node_bytes", "0", "0"] == 100
    assert ("numoe_worker_off_node_bytes", "0", "1") not in samples
    assert samples["numoe_node_memory_bytes", "0", "weight"] == 900
    assert sum(name == "numoe_layer_imbalance_ratio" for name, *_ in samples) == SHAPE.layers
    for family in families.values():
        assert re.fullmatch(r"numoe_[a-z_]+", family.name)
        assert family.documentation
        if family.type == "histogram":
            assert family.name.endswith(UNITS)
            buckets = [sample.value for sample in family.samples if sample.name.endswith("_bucket")]
            assert buckets
    assert len(samples) < 400  # whatever the number of experts


async def test_the_newer_format_is_given_to_who_asks_for_it() -> None:
    async with running_server() as running:
        accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
        reply = await http_ask(running.ready.http, "/metrics", accept=accept)
    assert reply.headers["content-type"].startswith("application/openmetrics-text")
    assert {"numoe_service", "numoe_requests"} <= {
        family.name
        for family in openmetrics.text_string_to_metric_families(  # type: ignore[no-untyped-call]
            reply.body.decode()
        )
    }


async def test_a_service_that_loads_says_so_and_nothing_of_workers() -> None:
    ready: list[Ready] = []
    async with loading_service(settings_of(), ready.append) as (coordinator, load):
        while_loading = await http_ask(coordinator.loading().http, "/metrics")
        load.finish()
        await until(lambda: bool(ready))
        when_loaded = await http_ask(ready[0].http, "/metrics")
    loading, loaded = samples_of(while_loading), samples_of(when_loaded)
    assert (loading["numoe_state", "loading"], loading["numoe_state", "serving"]) == (1, 0)
    assert (loaded["numoe_state", "loading"], loaded["numoe_state", "serving"]) == (0, 1)
    started = loading["numoe_start_time_seconds",]
    assert started == loaded["numoe_start_time_seconds",] == coordinator.loading().started_at
    assert {name for name, *_ in loading} == {"numoe_state", "numoe_start_time_seconds"}


async def test_every_outcome_is_counted_from_zero_so_that_the_first_one_is_an_increase() -> None:
    async with running_server() as running:
        before = samples_of(await http_ask(running.ready.http, "/metrics"))
    outcomes = {labels[0] for name, *labels in before if name == "numoe_requests_total"}
    failures = {"deadline_exceeded", "logits_not_finite", "worker_lost", "unavailable", "service_failed"}
    assert outcomes == {"stop", "length", "cancelled", "aborted"} | failures
    assert {before["numoe_requests_total", outcome] for outcome in outcomes} == {0}
    refused = {labels[0]: count for (name, *labels), count in before.items() if name == "numoe_requests_refused_total"}
    assert {"queue_full", "invalid_request", "unavailable"} <= refused.keys()
    assert set(refused.values()) == {0}


async def test_each_worker_that_is_lost_is_counted_with_its_node() -> None:
    async with running_server(fake_workers(before_collect=lose_worker_at(2))) as running:
        before = await http_ask(running.ready.http, "/metrics")
        assert (await generated(running, ask(max_tokens=8))).finished
        after = await http_ask(running.ready.http, "/metrics")
    places = [("numoe_worker_losses_total", *place) for place in (("0", "0"), ("0", "1"), ("unknown", "unknown"))]
    assert [samples_of(before)[place] for place in places] == [0, 0, 0]
    assert [samples_of(after)[place] for place in places] == [0, 1, 0]
    again = [samples_of(reply)["numoe_tokens_run_again_total",] for reply in (before, after)]
    assert again == [0, len(ask().token_ids.ids) + 1]


async def test_tokens_that_were_run_before_they_were_known_are_counted() -> None:
    async with running_server(fake_workers(LETTERS[:1])) as running:
        usage = (await generated(running, ask(max_tokens=60))).finished.usage
        after = samples_of(await http_ask(running.ready.http, "/metrics"))
    counted = after["numoe_drafted_tokens_total",], after["numoe_accepted_tokens_total",]
    assert counted == (usage.drafted_tokens, usage.accepted_tokens)
    assert counted > (0, 0)


class OnTwoHosts(FakeWorkers):
    """The second of the workers is another host's."""

    def placement(self) -> Placement:
        placed = super().placement()
        return replace(placed, workers=(placed.workers[0], replace(placed.workers[1], host="10.0.0.2")))

    def machines(self, own: MachineFacts) -> tuple[MachineFacts, ...]:
        hosts = (replace(own.host, address=address) for address in ("10.0.0.1", "10.0.0.2"))
        return tuple(replace(own, host=host) for host in hosts)


async def test_workers_and_nodes_of_several_hosts_are_told_apart_by_their_hosts_address() -> None:
    async with running_server(OnTwoHosts(LETTERS)) as running:
        reply = await http_ask(running.ready.http, "/metrics")
    samples = samples_of(reply)  # labels in the order of their names
    assert samples["numoe_worker_up", "10.0.0.1", "0", "0"] == 1
    assert samples["numoe_worker_up", "10.0.0.2", "0", "1"] == 0
    assert samples["numoe_worker_losses_total", "unknown", "unknown", "unknown"] == 0
    for host in ("10.0.0.1", "10.0.0.2"):
        assert samples["numoe_node_memory_bytes", host, "0", "free"] > 0
        assert 0 <= samples["numoe_host_told_age_seconds", host] < 60
        assert any(name == "numoe_host_info" and host in labels for name, *labels in samples)


async def test_blocks_are_told_that_are_held_and_needed_soon_and_those_that_the_next_request_takes_over() -> None:
    gate = Gate(number=3)
    async with running_server(fake_workers(before_collect=gate)) as running:
        await generated(running, ask(ids=range(1, 34), max_tokens=1))  # two steps, of 32 tokens at most
        reading = asyncio.create_task(generated(running, ask(ids=range(1, 18), max_tokens=100)))
        await gate.reached.wait()
        reply = await http_ask(running.ready.http, "/metrics")
        gate.open()
        await reading
    samples = samples_of(reply)
    assert samples["numoe_kv_blocks_used",] == 2  # of 16 tokens each
    assert samples["numoe_kv_blocks_reserved",] == 3
    assert samples["numoe_kv_blocks_cached",] == 2  # the last one, which is not full, too
    assert samples["numoe_prompt_tokens_cached_total",] == 16
    assert samples["numoe_preemptions_total",] == 0


async def test_prometheus_finds_no_fault_with_names_units_and_descriptions() -> None:
    promtool = find_program("PROMETHEUS", "promtool")
    async with running_server() as running:
        await generated(running, ask())
        reply = await http_ask(running.ready.http, "/metrics")
    checked = subprocess.run([promtool, "check", "metrics"], input=reply.body, capture_output=True, check=False)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")
