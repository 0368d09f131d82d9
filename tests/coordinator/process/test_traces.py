"""A real `numoe serve` sends each request's spans to a real receiver of OTLP, and is not harmed where there is none."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from structlog.testing import capture_logs

from numoe.coordinator.process.tracing import start_tracing
from numoe.v1.generation_pb2 import ChatMessage, ChatRequest, Sampling, Stopping
from numoe.v1.generation_pb2_grpc import GenerationServiceStub
from tests.coordinator.api.grpc.grpc_serving import SHAPE, ask
from tests.coordinator.commands.numoe_process import NUMOE, start
from tests.coordinator.process.collector import collecting, values_of
from tests.log_lines import Line, captured, read_log
from tests.tiny_model import write_tiny_model

PATIENCE_SECONDS = 60.0
END_SECONDS = 25.0  # for the service; the SDK by itself waits 30 for a collector
SECRET = "xyzzy"
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, NOT_SAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"
PARENTS = (("traceparent", SAMPLED),)
ON = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    write_tiny_model(path, SHAPE)
    return path


@dataclass(slots=True)
class Service:
    """A process that serves, and its log once it has ended."""

    address: str
    channel: grpc.Channel
    log: list[Line] = field(default_factory=list)

    @property
    def generation(self) -> GenerationServiceStub:
        return GenerationServiceStub(self.channel)

    def events(self, name: str) -> list[Line]:
        return [line for line in self.log if line["event"] == name]


@contextmanager
def serving(model: Path) -> Iterator[Service]:
    """A service with fake workers that must end well, and soon; its environment is this process's."""
    process, address = start(model)
    with process, grpc.insecure_channel(address) as channel:
        service = Service(address, channel)
        try:
            yield service
        finally:
            process.send_signal(signal.SIGTERM)
            _, text = process.communicate(timeout=END_SECONDS)
        assert process.returncode == 0, text
        service.log = read_log(text)


@dataclass(frozen=True, slots=True)
class Told:
    """What a service told of some requests."""

    spans: list[Span]
    resource: dict[str, Any]
    lines: dict[str, Line]  # of the log, by request
    commands: list[str]  # ids of the requests of the command line

    def of(self, request_id: str) -> tuple[Span, list[Span]]:
        """The span of a request, and those below it."""
        [whole] = [one for one in self.spans if values_of(one.attributes).get("gen_ai.response.id") == request_id]
        return whole, [one for one in self.spans if one.parent_span_id == whole.span_id]


@pytest.fixture(scope="module")
def told(model: Path) -> Told:
    """Of requests of all kinds."""
    short, turns = Stopping(max_tokens=2, ignore_eos=True), [ChatMessage(role="user", content=SECRET)]
    with collecting() as collector, pytest.MonkeyPatch.context() as environment:
        environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.address)
        with serving(model) as service:
            asked = ask((5, 6, 7), 8, request_id="traced", sampling=Sampling(temperature=0.5, seed=7))
            list(service.generation.Generate(asked, metadata=(("traceparent", SAMPLED), ("tracestate", "rojo=1"))))
            list(service.generation.Chat(ChatRequest(request_id="alone", messages=turns, stopping=short)))
            with pytest.raises(grpc.RpcError):
                list(service.generation.Generate(ask(max_tokens=999, request_id="refused"), metadata=PARENTS))
            not_sampled = (("traceparent", NOT_SAMPLED),)
            list(service.generation.Generate(ask(request_id="not sampled"), metadata=not_sampled))
            environment.setenv("TRACEPARENT", SAMPLED)
            environment.setenv("TRACESTATE", "rojo=1")
            for command in (["generate", "Hello"], ["chat", "Hello"]):
                call = [NUMOE, *command, "--address", service.address, "--max-tokens", "2"]
                subprocess.run(call, check=True, capture_output=True, timeout=PATIENCE_SECONDS)
        spans = collector.wait_for(2 * 4 + 1 + 2 * 4)  # sent before the service ended
    lines = {line["request"]: line for line in service.log if "request" in line}
    return Told(spans, collector.resource, lines, list(lines)[-2:])


def test_a_request_is_a_span_below_its_client_s_with_its_parts_below_it(told: Told) -> None:
    (whole, parts), line = told.of("traced"), told.lines["traced"]
    assert [part.name for part in parts] == ["queue", "prefill", "decode"]
    assert (whole.name, whole.kind, whole.trace_state) == ("text_completion tiny qwen3moe", 2, "rojo=1")  # 2: server
    assert (whole.trace_id.hex(), whole.parent_span_id.hex(), line["trace"]) == (TRACE, PARENT, TRACE)
    assert {part.trace_id.hex() for part in parts} == {TRACE}
    begin = whole.start_time_unix_nano
    for part in parts:
        assert abs(part.start_time_unix_nano - begin) < 1000
        begin = part.end_time_unix_nano
        assert _seconds(part) == pytest.approx(line[f"{part.name}_seconds"], abs=2e-6)
    assert begin <= whole.end_time_unix_nano + 1000
    assert _seconds(whole) == pytest.approx(line["seconds"], abs=2e-6)
    expected = {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.request.model": "tiny qwen3moe",
        "gen_ai.response.id": "traced",
        "gen_ai.response.finish_reasons": ["length"],
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.output_tokens": 8,
        "gen_ai.request.max_tokens": 8,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.seed": 7,
        "rpc.method": "GenerationService/Generate",
        "numoe.client": line["client"],
    }
    attributes = values_of(whole.attributes)
    assert expected.items() <= attributes.items()
    assert "error.type" not in attributes
    assert told.resource["service.name"] == "numoe"


def _seconds(span: Span) -> float:
    return (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9


def test_a_request_without_a_parent_begins_a_trace(told: Told) -> None:
    whole, parts = told.of("alone")
    assert (whole.name, whole.parent_span_id, len(parts)) == ("chat tiny qwen3moe", b"", 3)
    assert told.lines["alone"]["trace"] == whole.trace_id.hex() != TRACE


def test_a_refused_request_is_a_span_but_no_error_of_the_service(told: Told) -> None:
    whole, parts = told.of("refused")
    assert (whole.trace_id.hex(), told.lines["refused"]["trace"], parts) == (TRACE, TRACE, [])
    assert values_of(whole.attributes)["error.type"] == "invalid_request"
    assert whole.status.code == 0


def test_what_the_client_does_not_sample_is_not_sent(told: Told) -> None:
    assert told.lines["not sampled"]["trace"] == TRACE
    assert not [one for one in told.spans if values_of(one.attributes).get("gen_ai.response.id") == "not sampled"]


def test_the_command_line_sends_the_trace_that_it_belongs_to(told: Told) -> None:
    spans = [told.of(request_id)[0] for request_id in told.commands]
    assert [span.name.partition(" ")[0] for span in spans] == ["text_completion", "chat"]
    assert {(span.trace_id.hex(), span.parent_span_id.hex(), span.trace_state) for span in spans} == {
        (TRACE, PARENT, "rojo=1")
    }


def test_no_span_says_what_was_asked(told: Told) -> None:
    assert SECRET not in str(told.spans)


@pytest.mark.parametrize("collector", ["refuses", "is silent"])
def test_a_collector_that_is_away_costs_some_lines_and_seconds(
    model: Path, collector: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:  # it accepts, and never answers
        address = "127.0.0.1:1" if collector == "refuses" else f"127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://{address}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "2" if collector == "refuses" else "600")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")  # milliseconds
        monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "16")
        monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4")
        with serving(model) as service:
            for _ in range(30):
                list(service.generation.Generate(ask(max_tokens=2)))
    assert len(service.events("request_ended")) == 30
    lines = service.events("library")
    assert all(line["logger"].startswith("opentelemetry") and "exception" not in line for line in lines)
    assert 1 <= len(lines) <= 3, [line["text"] for line in lines]
    assert len(service.events("traces_lost")) == 1


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        ON | {"OTEL_SDK_DISABLED": "True"},
        ON | {"OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_without_a_wish_for_traces_nothing_of_them_is_imported(environment: dict[str, str]) -> None:
    program = f"""
import sys
from numoe.coordinator.process.tracing import start_tracing
assert start_tracing("1", {environment!r}) is None
assert not [name for name in sys.modules if name.startswith("opentelemetry")]
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=PATIENCE_SECONDS)


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        (ON | {"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER is 'zipkin', expected 'otlp'"),
        (ON | {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, "OTEL_EXPORTER_OTLP_PROTOCOL is 'http/protobuf'"),
        (ON, "pip install 'numoe[otel]'"),
    ],
)
def test_traces_that_cannot_be_had_are_a_warning(
    environment: dict[str, str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.grpc.trace_exporter", None)
    with capture_logs() as logged:
        assert start_tracing("1", environment) is None
    [line] = captured(logged)
    assert (line["event"], line["level"]) == ("traces_off", "warning")
    assert told in line["error"]


def test_a_variable_of_theirs_that_makes_no_sense_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "soon")
    with capture_logs() as logged:
        assert start_tracing("1", ON) is None
    assert [line["event"] for line in captured(logged)] == ["traces_off"]
