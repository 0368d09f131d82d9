"""Prometheus's own parser reads the metrics, and they say what the engine and the snapshot do."""

from __future__ import annotations

import re

import grpc
import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from tests.coordinator.api.grpc.grpc_serving import SHAPE, ask, generated, running_server
from tests.coordinator.api.http.http_client import ask as http_ask

UNITS = ("_seconds", "_bytes", "_ratio", "_per_second", "_total", "_info")


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
    assert samples["numoe_prompt_tokens_total",] == 6
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
