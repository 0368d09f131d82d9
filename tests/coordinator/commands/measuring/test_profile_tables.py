"""A profile for people, for programs, for browsers, and across gRPC."""

from __future__ import annotations

import io
import json
import re

import numpy as np
import pytest

from numoe.coordinator.api.grpc.operations import profile_message
from numoe.coordinator.commands.measuring.profile_export import page_of, spans_of, trace_of
from numoe.coordinator.commands.measuring.profile_tables import describe_profile, profile_json
from numoe.coordinator.commands.measuring.served_profile import read_profile
from numoe.coordinator.commands.screen.terminal import out
from numoe.protos.errors import ServiceError
from numoe.protos.profile import PHASES
from numoe.v1 import operations_pb2
from tests.coordinator.profiling.made_up import LAYERS, STEPS, made_up_profile

PROFILE = made_up_profile()


def test_tables_say_phases_threads_layers_and_what_is_not_known() -> None:
    console = out(io.StringIO())
    console.width = 80
    console.print(describe_profile("tiny \x1b[31m", PROFILE))
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "\x1b" not in shown
    assert "4 steps of 1.0 tokens, 40.0 ms each: 25.0 tokens/s" in shown
    assert "read 2.0 GB/s, 20% of 10.0 GB/s (as told); phases and waits are 100.0% of steps' time" in shown
    [qkv, _] = re.findall(r"│\s+qkv(.*)│", shown)
    assert qkv.replace("│", "").split() == ["6.000", "3.000", "0.000", "23%", "1.0", "20%", "50%"]
    assert re.search(r"between steps.*1\.000.*3%", shown)
    assert re.search(r"│ 1\.1 +│ +38\.000 │ +0\.000 │ +1\.000 │ +100\.0%", shown)
    assert "worker 1: 3.00 instructions per cycle" in shown
    assert "worker 1: 10.0% of its loads from memory are other nodes'" in shown
    assert "mon_L3_00, all programs: 0.1 GB/s of its own node, 1.0 GB/s of others" in shown
    assert PROFILE.remarks[0] in shown
    assert all(len(line) <= 80 for line in shown.splitlines() if line[:1] in "┃│┏┡└├")
    assert "┃phase" in shown.replace(" ", "")  # no heading is broken over lines
    assert re.search(r"┃ *workers ┃ *share ┃ *GB/s ┃ *fill ┃ *skew *┃", shown)


def test_json_has_every_figure() -> None:
    facts = json.loads(profile_json("tiny", PROFILE))
    assert facts["fill"] == pytest.approx(0.2025)
    assert facts["accounted"] == pytest.approx(1)
    assert [len(worker["phases"]) for worker in facts["workers"]] == [len(PHASES)] * 2
    assert len(facts["layers"]) == LAYERS
    assert facts["workers"][0]["instructions"] is None
    assert facts["workers"][1]["threads"][1]["work"] == pytest.approx(38e-3)


def test_the_time_line_begins_at_0_and_tells_waits_from_work() -> None:
    found = [span[1:] for span in spans_of(PROFILE) if span.worker == 0]
    assert found == [
        (0, "qkv", 0, "attention", 0, 100),
        (0, "qkv", 0, "waiting for threads", 100, 400),
        (0, "head", None, "head", 400, 600),
        (0, "head", None, "waiting for workers", 600, 800),
        (1, "qkv", 0, "attention", 10, 400),
        (1, "qkv", 0, "waiting for workers", 400, 410),
    ]


def test_a_trace_is_of_complete_events_in_microseconds() -> None:
    trace = json.loads(trace_of("tiny", PROFILE))["traceEvents"]
    named = [(one["name"], one["pid"], one["args"]["name"]) for one in trace if one["ph"] == "M"]
    assert ("process_name", 1, "worker 1, node 1") in named
    assert sum(name == "thread_name" for name, _, _ in named) == 4
    spans = [one for one in trace if one["ph"] == "X"]
    assert len(spans) == len(list(spans_of(PROFILE)))
    assert spans[1] == {
        "ph": "X",
        "name": "waiting for threads",
        "cat": "waiting for threads",
        "pid": 0,
        "tid": 0,
        "ts": 0.1,
        "dur": 0.3,
        "args": {"layer": 0, "phase": "qkv"},
    }


def test_a_page_needs_nothing_else_and_no_text_becomes_markup() -> None:
    page = page_of("</script><b>tiny", PROFILE)
    assert not re.search(r"https?:|src=|<link|@import|url\(", page)
    assert "default-src 'none'" in page
    assert "<b>" not in page
    [data] = re.findall(r'<script type="application/json" id="data">(.*)</script>', page)
    told = json.loads(data)
    assert told["title"] == "</script><b>tiny"
    assert told["rows"] == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert len(told["spans"]) == len(list(spans_of(PROFILE)))
    assert told["spans"][2][3:] == [-1, 400, 600]


def test_a_profile_is_the_same_after_it_went_through_grpc() -> None:
    sent = profile_message(PROFILE)
    found = read_profile(operations_pb2.StepsProfile.FromString(sent.SerializeToString()))
    assert profile_json("", found) == profile_json("", PROFILE)
    for here, there in zip(PROFILE.workers, found.workers, strict=True):
        np.testing.assert_array_equal(here.events, there.events)
        np.testing.assert_array_equal(here.cells, there.cells)
    assert found.steps == STEPS


def test_a_service_of_another_version_is_refused_in_words() -> None:
    other = profile_message(PROFILE)
    other.phases.pop()
    with pytest.raises(ServiceError, match="same version"):
        read_profile(other)
    short = profile_message(PROFILE)
    short.workers[0].cells = short.workers[0].cells[:-8]
    with pytest.raises(ServiceError, match="same version"):
        read_profile(short)
