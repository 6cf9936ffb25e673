"""``python -m bench observe``: what logs, metrics and traces cost a request, each in pairs against going without."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import click

from bench.driver import EXPORTED_TO, REACTOR_ONLY, UNCOUNTED, compare_settings, show

HERE = Path(__file__).resolve().parent.parent
#: Starts tracing; what is not sent anywhere needs no collector there.
TRACED = "OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:9"
SAMPLED, UNSAMPLED = "OTEL_TRACES_SAMPLER=always_on", "OTEL_TRACES_SAMPLER=always_off"


class _Collector(BaseHTTPRequestHandler):
    """Takes spans and says so; its work is not the gateway's."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@click.command()
@click.option("--requests", type=click.IntRange(1000, 1_000_000), default=30_000, show_default=True)
@click.option("--pairs", type=click.IntRange(2, 200), default=20, show_default=True)
def observe(requests: int, pairs: int) -> None:
    """CPU per request of the access log and the metrics, and of traces: unsampled, sampled, and sampled and exported."""
    collector = ThreadingHTTPServer(("127.0.0.1", 0), _Collector)
    threading.Thread(target=collector.serve_forever, daemon=True).start()
    exported = f"{EXPORTED_TO}={collector.server_address[1]}"
    log = "GATEWAY_ACCESS_LOG"
    cases = {
        "log and metrics": ((f"{log}=true",), (f"{log}=false", f"{UNCOUNTED}=yes")),
        "unsampled": ((TRACED, UNSAMPLED), ()),
        "sampled, reactor thread": ((TRACED, SAMPLED, f"{REACTOR_ONLY}=yes"), (f"{REACTOR_ONLY}=yes",)),
        "sampled and exported, process": ((SAMPLED, exported), ()),
    }
    for name, (ours, theirs) in cases.items():
        mine, others = compare_settings(HERE, requests, pairs, ours, theirs)
        show(name, [one - other for one, other in zip(mine, others, strict=True)])
    collector.shutdown()
