"""A collector of traces in this process: a real OTLP receiver over gRPC, that keeps every span it is sent."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

PATIENCE_SECONDS = 60.0


@dataclass(slots=True)
class Collector:
    """What was sent so far."""

    address: str = ""
    spans: list[Span] = field(default_factory=list)
    resource: dict[str, Any] = field(default_factory=dict)
    news: threading.Condition = field(default_factory=threading.Condition)

    def wait_for(self, count: int) -> list[Span]:
        """The spans, once there are so many; in order of their begin, parents first."""
        with self.news:
            assert self.news.wait_for(lambda: len(self.spans) >= count, PATIENCE_SECONDS), self.spans
            return sorted(self.spans, key=lambda span: (span.start_time_unix_nano, -span.end_time_unix_nano))

    def Export(  # noqa: N802
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: grpc.ServicerContext
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        with self.news:
            for sent in request.resource_spans:
                self.resource |= values_of(sent.resource.attributes)
                self.spans += [span for scope in sent.scope_spans for span in scope.spans]
            self.news.notify_all()
        return trace_service_pb2.ExportTraceServiceResponse()


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector for the length of a block."""
    collector = Collector()
    server = grpc.server(ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]
    collector.address = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield collector
    finally:
        server.stop(None).wait()


def values_of(attributes: Any) -> dict[str, Any]:
    """Attributes as plain values."""
    return {one.key: _plain(one.value) for one in attributes if isinstance(one, KeyValue)}


def _plain(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_plain(one) for one in value.array_value.values]
    return None if kind is None else getattr(value, kind)
