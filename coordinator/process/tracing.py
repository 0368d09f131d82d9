"""Traces for OpenTelemetry, with the extra numoe[otel]: a span for each request, below it queue, prefill and decode.

Spans are made once a request is over, of the times that the engine noted anyway. Where they go, which are kept and how
many wait is what OpenTelemetry's own variables say (OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_TRACES_SAMPLER, OTEL_BSP_...).
https://opentelemetry.io/docs/specs/semconv/gen-ai/ names their attributes. A collector that is away harms nothing:
what does not fit the queue of its sender is dropped, and the end of the process is held up by CLOSE_SECONDS at most.

*Rejected*: instrumenting gRPC, whose package is not finished, and which knows nothing of queue, prefill and decode.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import structlog

from numoe.coordinator.requests.request_end import RequestEnd

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
CLOSE_SECONDS = 3.0  # for what is not sent yet when the service ends
PARTS = ("queue", "prefill", "decode")

_log = structlog.get_logger()


def start_tracing(version: str, environment: Mapping[str, str]) -> OtlpTraces | None:
    """Traces if the environment wants them; None: it does not, or they cannot be had, which is logged."""
    if not _are_wanted(environment):
        return None
    try:
        _refuse_other_exporters(environment)
        return OtlpTraces(version, environment)
    except ImportError as error:
        why = f"the environment asks for traces, which need more packages ({error}): pip install 'numoe[otel]'"
    except Exception as error:  # a variable of OpenTelemetry's that makes no sense
        why = f"the environment asks for traces, but they cannot be made: {error}"
    _log.warning("traces_off", error=why)
    return None


def _are_wanted(environment: Mapping[str, str]) -> bool:
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporters = environment.get("OTEL_TRACES_EXPORTER", "").strip()
    return exporters != "none" if exporters else any(environment.get(name) for name in ENDPOINTS)


def _refuse_other_exporters(environment: Mapping[str, str]) -> None:
    for names, expected in (
        (("OTEL_TRACES_EXPORTER",), "otlp"),
        (("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"), "grpc"),
    ):
        for name in names:
            if found := environment.get(name, "").strip():
                if found != expected:
                    raise ValueError(f"{name} is {found!r}, expected {expected!r}")
                break


class OtlpTraces:
    """Sends spans to a collector by OTLP over gRPC."""

    def __init__(self, version: str, environment: Mapping[str, str]) -> None:
        """Raises ImportError without the extra, ValueError for a variable that makes no sense."""
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        facts = {"service.version": version}
        if not environment.get("OTEL_SERVICE_NAME") and "service.name=" not in environment.get(
            "OTEL_RESOURCE_ATTRIBUTES", ""
        ):
            facts["service.name"] = "numoe"
        self._exporter = OTLPSpanExporter()
        self._provider: TracerProvider = TracerProvider(resource=Resource.create(facts), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer("numoe", version)

    def trace(self, end: RequestEnd, model: str) -> str:
        """Make the spans of a request that is over; returns the id of its trace."""
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

        operation = _operation(end.asker.method)
        begin = end.ended_at - end.seconds
        span = self._tracer.start_span(
            f"{operation} {model}".strip(),
            context=_parent(end),
            kind=SpanKind.SERVER,
            attributes=_attributes(end, model, operation),
            start_time=_nanoseconds(begin),
        )
        if end.error or end.refused_field is not None:
            span.set_attribute("error.type", end.outcome)
        if end.error:
            span.set_status(Status(StatusCode.ERROR, end.error))
        inside = set_span_in_context(span)
        timings = end.timings
        times = (timings.queue_milliseconds, timings.prefill_milliseconds, timings.decode_milliseconds)
        for name, milliseconds in list(zip(PARTS, times, strict=True))[: end.parts]:
            part = self._tracer.start_span(name, context=inside, start_time=_nanoseconds(begin))
            begin += milliseconds / 1e3
            part.end(_nanoseconds(begin))
        span.end(_nanoseconds(end.ended_at))
        return f"{span.get_span_context().trace_id:032x}"

    def close(self) -> None:
        """Send what is not sent yet, for some seconds at most."""
        closing = threading.Thread(target=self._provider.shutdown, name="numoe-traces", daemon=True)
        closing.start()
        closing.join(CLOSE_SECONDS)
        if closing.is_alive():
            _log.warning("traces_lost", error=f"the collector did not take the last traces within {CLOSE_SECONDS:g} s")
            logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # which would say so many times over
            self._exporter.shutdown()  # ends its waiting for another try


def _parent(end: RequestEnd) -> Context:
    """The client's span; none: the request begins a trace of its own."""
    from opentelemetry.context import Context
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context
    from opentelemetry.trace.span import TraceState

    given = end.asker.trace
    if given is None:
        return Context()
    span = SpanContext(
        trace_id=int(given.trace_id, 16),
        span_id=int(given.parent_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(given.flags),
        trace_state=TraceState.from_header([given.state]),
    )
    return set_span_in_context(NonRecordingSpan(span), Context())


def _operation(method: str) -> str:
    """What the conventions call it."""
    return "chat" if "chat" in method.lower() else "text_completion"


def _attributes(end: RequestEnd, model: str, operation: str) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": "numoe",
        "gen_ai.response.id": end.asker.request_id,
        "rpc.method": end.asker.method,
        "numoe.client": end.asker.client,
    }
    if model:
        attributes |= {"gen_ai.request.model": model, "gen_ai.response.model": model}
    if end.refused_field is not None:
        return attributes
    attributes |= {
        "gen_ai.response.finish_reasons": (end.outcome,),
        "gen_ai.usage.input_tokens": end.prompt_tokens,
        "gen_ai.usage.output_tokens": end.generated_tokens,
    }
    if end.max_tokens is not None:
        attributes["gen_ai.request.max_tokens"] = end.max_tokens
    if end.sampling is not None:
        for name in ("temperature", "top_k", "top_p", "frequency_penalty", "presence_penalty"):
            attributes[f"gen_ai.request.{name}"] = getattr(end.sampling, name)
        if end.sampling.seed < 2**63:  # attributes have a sign
            attributes["gen_ai.request.seed"] = end.sampling.seed
    return attributes


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)
