"""Ways to make the gateway hold, repeat or pass on what it must not, each tried once and found open."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.unit.support import MemoryClient, MemoryGateway, Server, logged_failures, message, read_responses
from twisted.internet.interfaces import IReactorTime
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from txgateway.answers import MAX_FORM_PARTS, Mounted
from txgateway.forwarded import Forwarded
from txgateway.middleware.recovery import Recovery

TOTAL_S, IDLE_S = 5.0, 20.0


def routed(**keys: Any) -> MemoryGateway:
    """A gateway with one route to one target."""
    route = {"name": "r", "path": "/", "backend": "b", **keys}
    return MemoryGateway(document={"backends": {"b": {"targets": ["http://target"]}}, "routes": [route]})


class _Leaf(Resource):
    isLeaf = True

    def __init__(self, render: Callable[[Any], Any]) -> None:
        super().__init__()
        self._render = render

    def render(self, request: Any) -> Any:
        return self._render(request)


def mounted(render: Callable[[Any], Any], total_s: float = TOTAL_S) -> Server:
    """A server whose every request is rendered by a mounted resource."""

    def dispatch(request: Any) -> None:
        request.path, _, _ = request.uri.partition(b"?")
        request.canonical_path = request.path
        request.forwarded = Forwarded("192.0.2.1", b"http", [])
        entry.render(request)

    server = Server(dispatch)
    clock: IReactorTime = server.clock
    entry = Recovery(Mounted(_Leaf(render), 0, 30.0, server.wheel, clock, total_s, IDLE_S))
    return server


def opened(server: Server, data: bytes) -> MemoryClient:
    return server.connect().send(data)


# --- what must not reach a target -------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [b"/x", b"*", b"a:80", b"http://a/x"])
def test_connect_is_refused_in_every_form(target: bytes) -> None:
    gateway = routed()
    client = gateway.connect().send(message(target, method=b"CONNECT") + message(b"/behind"))
    assert client.response().status == 405
    assert not gateway.pool.open_connections
    assert len(gateway.log) == 1


def test_every_connection_line_counts_after_a_field_was_dropped() -> None:
    gateway = routed()
    gateway.get(b"/", b"X-Hop: 1", b"X_Dropped: 1", b"Connection: x-hop", b"Connection: keep-alive")
    gateway.wait(0.1)
    assert b"X-Hop" not in gateway.target.received()


def test_what_a_route_removes_or_sets_does_not_come_back_as_a_trailer() -> None:
    gateway = routed(request_headers={"set": {"X-Env": "prod"}, "remove": ["X-Debug"]})
    head = message(b"/", b"Transfer-Encoding: chunked", method=b"POST")
    gateway.connect().send(head + b"0\r\nX-Env: evil\r\nX-Debug: 1\r\nX-Sum: 2\r\n\r\n")
    gateway.wait(0.1)
    assert gateway.target.received().endswith(b"\r\n\r\n0\r\nX-Sum: 2\r\n\r\n")


def test_trailers_that_come_later_are_filtered_as_well() -> None:
    gateway = routed(request_headers={"set": {"X-Env": "prod"}})
    client = gateway.connect().send(message(b"/", b"Transfer-Encoding: chunked", method=b"POST"))
    gateway.wait(0.1)
    client.send(b"1\r\nx\r\n", b"0\r\nX-Env: evil\r\n\r\n")
    assert gateway.target.received().endswith(b"1\r\nx\r\n0\r\n\r\n")


# --- what a target must not do ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "upgrade", [b"Upgrade: h2c", b"Upgrade: websocket, h2c", b"Upgrade: websocket\r\nUpgrade: h2c"]
)
def test_target_that_switches_to_what_nobody_asked_for_is_refused(upgrade: bytes) -> None:
    gateway = routed(upgrades=["websocket"])
    client = gateway.get(b"/", b"Connection: upgrade", b"Upgrade: websocket")
    gateway.wait(0.1)
    gateway.target.send(b"HTTP/1.1 101 X\r\nConnection: upgrade\r\n%b\r\n\r\nraw" % upgrade)
    assert client.response().problem["reason"] == "UPSTREAM_PROTOCOL_ERROR"
    assert gateway.target.closed
    gateway.assert_clean()


def test_protocol_name_is_compared_without_case() -> None:
    gateway = routed(upgrades=["websocket"])
    client = gateway.get(b"/", b"Connection: upgrade", b"Upgrade: WebSocket")
    gateway.wait(0.1)
    gateway.target.send(b"HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nraw")
    assert client.received().endswith(b"\r\n\r\nraw")


# --- what must not be held --------------------------------------------------------------------------------------------


def test_pipelined_requests_that_are_answered_on_the_spot_take_turns() -> None:
    server = Server(lambda request: request.answer(200, [], request.uri))
    clients = [server.connect(), server.connect()]
    for name, client in zip((b"a", b"b"), clients, strict=True):
        client.transport.send(b"".join(message(b"/%b%d" % (name, number)) for number in range(3)))
    server.clock.advance(0)
    assert [request.uri for request in server.requests] == [b"/a0", b"/b0", b"/a1", b"/b1", b"/a2", b"/b2"]
    for client, name in zip(clients, (b"a", b"b"), strict=True):
        bodies = [response.body for response in read_responses(client.received(), [b"GET"] * 3)]
        assert bodies == [b"/%b0" % name, b"/%b1" % name, b"/%b2" % name]
        assert client.transport.is_reading


def test_resource_that_does_not_answer_is_given_up() -> None:
    server = mounted(lambda request: NOT_DONE_YET)
    client = opened(server, message(b"/"))
    server.wait(TOTAL_S - 0.5)
    assert client.received() == b""
    server.wait(1)
    assert client.response().problem["reason"] == "DEADLINE_EXCEEDED"
    assert not server.wheel._fine


def test_resource_without_a_total_time_is_given_up_when_idle() -> None:
    server = mounted(lambda request: NOT_DONE_YET, total_s=0)
    client = opened(server, message(b"/"))
    server.wait(IDLE_S - 0.5)
    assert client.received() == b""
    server.wait(1)
    assert client.response().status == 504


def test_client_that_stops_reading_a_resource_is_cut_off() -> None:
    def render(request: Any) -> int:
        request.registerProducer(producer, True)
        request.write(b"x" * 200_000)
        return NOT_DONE_YET

    class Producer:
        stopped = 0

        def pauseProducing(self) -> None: ...
        def resumeProducing(self) -> None: ...
        def stopProducing(self) -> None:
            self.stopped += 1

    producer = Producer()
    server = mounted(render)
    client = server.connect()
    client.transport.takes = False
    client.send(message(b"/"))
    server.wait(TOTAL_S + 0.5)
    client.transport.take(1000)
    server.wait(IDLE_S)
    assert not server.request.ended  # it moves
    server.wait(2 * IDLE_S)
    assert client.transport.aborted
    assert (server.request.reason, producer.stopped) == ("REQUEST_TIMEOUT", 1)
    assert not server.wheel._fine


def test_resource_that_goes_on_writing_is_left_alone() -> None:
    def render(request: Any) -> int:
        request.write(b"0")
        return NOT_DONE_YET

    server = mounted(render)
    client = opened(server, message(b"/"))
    for _ in range(5):
        server.wait(IDLE_S - 1)
        server.request.write(b"x")
    assert not server.request.ended
    server.request.finish()
    assert client.response().body == b"0xxxxx"
    assert not server.wheel._fine


def test_answer_longer_than_declared_is_over_at_once() -> None:
    over: list[Any] = []

    def render(request: Any) -> int:
        request.on_finish(over.append)
        request.setHeader(b"content-length", b"2")
        request.write(b"too long")
        return NOT_DONE_YET

    with logged_failures() as failures:
        server = mounted(render)
        client = opened(server, message(b"/"))
    assert len(failures) == 1
    assert client.transport.aborted
    assert [(request.status, request.reason) for request in over] == [(200, "INTERNAL_ERROR")]
    assert not server.wheel._fine


@pytest.mark.parametrize("separator", [b"&", b";"])
@pytest.mark.parametrize(("count", "status"), [(MAX_FORM_PARTS, 200), (MAX_FORM_PARTS + 1, 400)])
def test_form_with_too_many_fields_is_refused(separator: bytes, count: int, status: int) -> None:
    body = separator.join([b"a=1"] * count)
    head = message(
        b"/", b"Content-Type: application/x-www-form-urlencoded", b"Content-Length: %d" % len(body), method=b"POST"
    )
    client = opened(mounted(lambda request: b"ok"), head + body)
    assert client.response(b"POST").status == status


# --- what must not be miscounted --------------------------------------------------------------------------------------


def test_body_that_an_answer_to_head_leaves_out_is_not_counted() -> None:
    gateway = MemoryGateway(
        document={"routes": [{"name": "r", "path": "/", "response": {"status": 200, "body": "four"}}]}
    )
    client = gateway.get(method=b"HEAD")
    assert client.response(b"HEAD").get(b"content-length") == b"4"
    assert [request.bytes_out for request in gateway.log] == [0]
