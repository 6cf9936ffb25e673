"""The admin site over real sockets, spoken to with raw bytes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import attrs
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint, connectProtocol
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure

from txgateway.admin.site import MAX_BODY_BYTES, admin_site
from txgateway.health.probes import Readiness, probe_resources
from txgateway.telemetry.metrics import RequestMetrics


class Collect(Protocol):
    """Everything until the server closes."""

    def __init__(self) -> None:
        self.data = b""
        self.done: Deferred[bytes] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.data += data

    def connectionLost(self, reason: Failure | None = None) -> None:
        self.done.callback(self.data)


@attrs.frozen
class Answer:
    status: int
    headers: dict[bytes, bytes]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def parse(data: bytes) -> Answer:
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    headers = dict(line.split(b": ", 1) for line in lines[1:])
    return Answer(int(lines[0].split(b" ")[1]), {name.lower(): value for name, value in headers.items()}, body)


class Client:
    def __init__(self, port: int) -> None:
        self.port = port

    async def send(self, data: bytes) -> bytes:
        from twisted.internet import reactor  # noqa: TID251 - real sockets

        protocol = await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", self.port), Collect())
        assert protocol.transport is not None
        protocol.transport.write(data)
        answer: bytes = await protocol.done
        return answer

    async def ask(
        self, path: bytes, method: bytes = b"GET", host: bytes = b"localhost:8001", extra: bytes = b""
    ) -> Answer:
        head = b"%s %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n%s\r\n" % (method, path, host, extra)
        return parse(await self.send(head))


ServeAdmin = Callable[[str], Awaitable[Client]]


@pytest_twisted.async_yield_fixture
async def serve() -> AsyncIterator[ServeAdmin]:
    from twisted.internet import reactor  # noqa: TID251 - real sockets

    ports = []

    async def start(admin_host: str) -> Client:
        readiness = Readiness()
        readiness.started()
        metrics = RequestMetrics()
        metrics.route("r").observe(b"GET", 200, 0.01, 0, 0, None)
        site = admin_site(
            admin_host=admin_host,
            probes=probe_resources("/health", readiness),
            metrics=metrics,
            status=lambda: {"version": "1", "half": "\ud800"},
            history=lambda: {"samples": []},
            config=lambda: {"settings": {"GATEWAY_PORT": {"value": 8000, "source": "default"}}},
        )
        port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(site)
        ports.append(port)
        return Client(port.getHost().port)

    yield start
    for port in ports:
        await port.stopListening()


@pytest_twisted.ensureDeferred
async def test_every_page_answers_with_the_security_headers_and_without_a_server(serve: ServeAdmin) -> None:
    client = await serve("127.0.0.1")
    for path in (b"/", b"/metrics", b"/status", b"/status/history", b"/config", b"/health/live", b"/dashboard/app.js"):
        answer = await client.ask(path)
        assert answer.status == 200, path
        assert answer.headers[b"cache-control"] == b"no-store"
        assert answer.headers[b"x-content-type-options"] == b"nosniff"
        assert answer.headers[b"content-security-policy"].startswith(b"default-src 'none'")
        assert b"server" not in answer.headers
        assert b"access-control-allow-origin" not in answer.headers


@pytest_twisted.ensureDeferred
async def test_the_pages_say_what_they_should(serve: ServeAdmin) -> None:
    client = await serve("127.0.0.1")
    assert (await client.ask(b"/status")).json() == {"version": "1", "half": "\ud800"}
    assert (await client.ask(b"/config")).json() == {"settings": {"GATEWAY_PORT": {"value": 8000, "source": "default"}}}
    assert (await client.ask(b"/status/history")).json() == {"samples": []}
    metrics = await client.ask(b"/metrics?x=1")
    assert metrics.headers[b"content-type"].startswith(b"text/plain; version=0.0.4")
    assert b'gateway_requests_total{route="r",method="GET",status="200"} 1\n' in metrics.body
    openmetrics = await client.ask(b"/metrics", extra=b"Accept: application/openmetrics-text; version=1.0.0\r\n")
    assert openmetrics.headers[b"content-type"].startswith(b"application/openmetrics-text")
    index = await client.ask(b"/")
    assert index.headers[b"content-type"] == b"text/html; charset=utf-8"
    assert b'<a href="/health/ready">' in index.body


@pytest_twisted.ensureDeferred
async def test_head_has_the_length_but_not_the_body(serve: ServeAdmin) -> None:
    client = await serve("127.0.0.1")
    for path in (b"/", b"/dashboard/dashboard.css", b"/config", b"/health/ready", b"/nothing"):
        whole, head = await client.ask(path), await client.ask(path, b"HEAD")
        assert head.status == whole.status
        assert head.body == b""
        assert head.headers[b"content-length"] == whole.headers[b"content-length"] == b"%d" % len(whole.body)


@pytest_twisted.ensureDeferred
async def test_other_methods_and_paths_are_refused(serve: ServeAdmin) -> None:
    client = await serve("127.0.0.1")
    for method in (b"POST", b"PUT", b"DELETE", b"OPTIONS", b"BREW"):
        answer = await client.ask(b"/config", method)
        assert (answer.status, answer.headers[b"allow"]) == (405, b"GET, HEAD")
    for path in (b"/nothing", b"/config/", b"//config", b"/%63onfig", b"/dashboard/", b"/dashboard/../config"):
        answer = await client.ask(path)
        assert answer.status == 404, path
        assert b"server" not in answer.headers
    answer = await client.ask(b"*", b"OPTIONS")
    assert answer.status == 200  # twisted.web's own answer; it says nothing
    assert answer.body == b""
    assert b"server" not in answer.headers


@pytest_twisted.ensureDeferred
async def test_on_loopback_a_name_of_somebody_else_is_refused(serve: ServeAdmin) -> None:
    client = await serve("127.0.0.1")
    for host in (
        b"evil.example",
        b"evil.example:8001",
        b"localhost.evil.example",
        b"127.0.0.1.evil.example",
        b"",
        b"[x",
    ):
        answer = await client.ask(b"/config", host=host)
        assert answer.status == 421, host
        assert b"GATEWAY_PORT" not in answer.body
    for host in (b"127.0.0.1:8001", b"LOCALHOST", b"10.2.3.4", b"[::1]:8001", b"[fe80::1]"):
        assert (await client.ask(b"/config", host=host)).status == 200, host


@pytest_twisted.ensureDeferred
async def test_a_refusal_says_in_words_what_it_is(serve: ServeAdmin) -> None:
    client = await serve("127.0.0.1")
    answer = await client.send(b"GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 421 Misdirected Request\r\n")


@pytest_twisted.ensureDeferred
async def test_two_hosts_are_refused(serve: ServeAdmin) -> None:
    client = await serve("0.0.0.0")
    assert (await client.ask(b"/config", extra=b"Host: localhost\r\n")).status == 421


@pytest_twisted.ensureDeferred
async def test_beyond_loopback_any_name_may_be_used(serve: ServeAdmin) -> None:
    client = await serve("0.0.0.0")
    assert (await client.ask(b"/metrics", host=b"gateway:8001")).status == 200


@pytest_twisted.ensureDeferred
async def test_a_body_is_not_kept_and_a_large_one_ends_the_connection(serve: ServeAdmin) -> None:
    client = await serve("127.0.0.1")
    small = b"POST /config HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 5\r\n\r\n12345"
    assert parse(await client.send(small)).status == 405
    large = b"POST /config HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\n" + b"x" * (
        2 * MAX_BODY_BYTES
    )
    assert await client.send(large) == b""


@pytest_twisted.ensureDeferred
async def test_a_head_beyond_the_limit_is_refused(serve: ServeAdmin) -> None:
    client = await serve("127.0.0.1")
    # The connection is reset rather than closed when the rest of the head was never read: 400 or nothing.
    answer = await client.send(b"GET /config HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"x" * 20_000 + b"\r\n\r\n")
    assert not answer.startswith(b"HTTP/1.1 2")
    assert b"GATEWAY_PORT" not in answer
