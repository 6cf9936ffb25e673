"""A collector of traces that does what a test tells it to: OTLP over HTTP, decoded with OpenTelemetry's own messages."""

from __future__ import annotations

import gzip
import threading
from typing import Any

from attrs import define
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2
from tests.integration.backend import Exchange, ScriptedBackend
from tests.integration.wire import TIMEOUT_S

_KINDS = {trace_pb2.Span.SPAN_KIND_SERVER: "server", trace_pb2.Span.SPAN_KIND_CLIENT: "client"}


@define
class Span:
    """A span as it was exported; ids are hexadecimal digits, empty for none, times are nanoseconds."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: str
    attributes: dict[str, Any]
    is_error: bool
    trace_state: str
    start_ns: int
    end_ns: int
    resource: dict[str, Any]


class Collector(ScriptedBackend):
    """Keeps the spans that are posted to it.

    Attributes:
        status: what it answers with; spans count only with 200.
        posts: exports so far, accepted or not.
        targets: the paths that were posted to.
    """

    def __init__(self) -> None:
        super().__init__()
        self.script = self._take
        self.status = b"200 OK"
        self.posts = 0
        self.targets: set[bytes] = set()
        self.spans: list[Span] = []
        self.hold = threading.Event()
        self.hold.set()
        self._came = threading.Condition()

    def wait_for(self, count: int) -> list[Span]:
        """So many spans, when they have come; in the order of their ends, an attempt's before its request's."""
        with self._came:
            assert self._came.wait_for(lambda: len(self.spans) >= count, TIMEOUT_S), self.spans
            return list(self.spans)

    def wait_for_posts(self, count: int) -> None:
        """Wait until it was asked so often."""
        with self._came:
            assert self._came.wait_for(lambda: self.posts >= count, TIMEOUT_S), self.posts

    def forget(self) -> None:
        """Begin anew."""
        with self._came:
            self.spans.clear()

    def _take(self, exchange: Exchange) -> None:
        body = exchange.read_body()
        assert exchange.request.header("Content-Type") == "application/x-protobuf"
        if exchange.request.header("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        with self._came:
            self.posts += 1
            self.targets.add(exchange.request.target)
            if self.status == b"200 OK":
                self.spans += _spans(body)
            self._came.notify_all()
        self.hold.wait()
        exchange.send(b"HTTP/1.1 %b\r\nContent-Length: 0\r\n\r\n" % self.status)


def _spans(body: bytes) -> list[Span]:
    request = ExportTraceServiceRequest.FromString(body)
    return [
        Span(
            span.trace_id.hex(),
            span.span_id.hex(),
            span.parent_span_id.hex(),
            span.name,
            _KINDS[span.kind],
            _values(span.attributes),
            span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
            span.trace_state,
            span.start_time_unix_nano,
            span.end_time_unix_nano,
            _values(of_resource.resource.attributes),
        )
        for of_resource in request.resource_spans
        for of_scope in of_resource.scope_spans
        for span in of_scope.spans
    ]


def _values(pairs: Any) -> dict[str, Any]:
    values: dict[str, Any] = {}
    pair: KeyValue
    for pair in pairs:
        kind = pair.value.WhichOneof("value")
        values[pair.key] = None if kind is None else getattr(pair.value, kind)
    return values
