"""Attempts at targets that speak HTTP/2: what such a target has not looked at is sent once more, whatever it was."""

from __future__ import annotations

from typing import Any

import pytest
from tests.helpers.http2_target import Http2Target, raw_headers
from tests.integration.h2_frames import (
    CANCEL,
    HTTP_1_1_REQUIRED,
    MAX_CONCURRENT_STREAMS,
    REFUSED_STREAM,
    data_frame,
    goaway,
    rst_stream,
)
from tests.unit.proxy.retrying import problem
from tests.unit.support import MemoryClient, MemoryDialer, MemoryGateway, message

from txgateway.errors import UpstreamConnectFailed
from txgateway.proxy.backend import Backend
from txgateway.proxy.breaker import CircuitBreaker
from txgateway.proxy.multiplexed_pool import MultiplexedPool
from txgateway.proxy.pool import ConnectionPool
from txgateway.proxy.target import Target

POST = message(b"/", b"Content-Length: 5", method=b"POST", body=b"hello")
CHUNKED = message(b"/", b"Transfer-Encoding: chunked", method=b"POST")


class Http2Dialer(MemoryDialer):
    """Its connections speak HTTP/2; the far ends introduce themselves when the gateway's bytes are carried."""

    gateway: Http2Gateway
    settings: dict[int, int]

    def finish(self, receiver: Any) -> None:
        if self.fails:
            receiver.dial_failed(UpstreamConnectFailed("refused"))
            return
        far = Http2Target(self.clock, self.gateway.wheel, greets=False, settings=self.settings)
        self.gateway.targets.append(far)
        receiver.dialed(far.connection)


class Http2Gateway(MemoryGateway):
    """A gateway in front of one backend whose targets speak HTTP/2.

    Args:
        scheme: ``https`` targets may speak HTTP/1.1 as well.

    Attributes:
        targets: all connections so far, as their far ends see them.
        http1_dialer: of the last target.
    """

    http1_dialer: MemoryDialer

    def __init__(self, hosts: int = 1, streams: int = 100, scheme: str = "h2c", **environment: str) -> None:
        self.targets: list[Http2Target] = []
        self.streams = streams
        urls = [f"{scheme}://{name}" for name in ("one", "two", "three")[:hosts]]
        document = {"backends": {"b": {"targets": urls}}, "routes": [{"name": "r", "path": "/", "backend": "b"}]}
        values = {"RETRY_BACKOFF": "0", "RETRY_BUDGET_MIN": "1000", **environment}
        super().__init__({f"GATEWAY_{name}": value for name, value in values.items()}, document)

    def _backend(self, name: str) -> Backend:
        settings = self.configuration.backends[name]
        targets = []
        for configured in settings.targets:
            label = configured.label
            dialer = self.dialers[label] = Http2Dialer(self.clock)
            dialer.gateway, dialer.settings = self, {MAX_CONCURRENT_STREAMS: self.streams}
            http1 = None
            if configured.scheme == "https":
                self.http1_dialer = MemoryDialer(self.clock)
                http1 = ConnectionPool(label, self.http1_dialer, self.clock, self.wheel, settings.pool)
            pool = MultiplexedPool(label, dialer, self.clock, self.wheel, settings.pool, http1)
            breaker = CircuitBreaker(settings.breaker, self.chance)
            host = configured.host.encode()
            targets.append(Target(label, host, 1, pool, dialer, breaker, scheme=configured.scheme))
        return Backend(settings, targets, self.clock.seconds, self.chance, self.metrics.retries(name))

    def turn(self) -> None:
        """Let all bytes arrive."""
        for _ in range(3):
            self.clock.advance(0)
            for far in list(self.targets):
                far.turn()

    def ask(self, request: bytes = POST) -> MemoryClient:
        client = self.connect().send(request)
        self.turn()
        return client

    def seen(self) -> list[tuple[int, int, bytes, bool]]:
        """Connection, stream, body and end of all requests that reached the target."""
        return [
            (number, stream, one.body, one.ended)
            for number, far in enumerate(self.targets)
            for stream, one in far.requests.items()
        ]

    def refuse(self, connection: int, stream: int = 1, code: int = REFUSED_STREAM) -> None:
        self.targets[connection].link.connection.reset_stream(stream, code)
        self.turn()

    def answer(self, connection: int, stream: int = 1) -> None:
        self.targets[connection].link.send_headers(stream, [(":status", "200"), ("content-length", "2")])
        self.targets[connection].link.connection.send_data(stream, b"ok", end_stream=True)
        self.turn()


def assert_answered(gateway: Http2Gateway, client: MemoryClient, attempts: int) -> None:
    response = client.response()
    assert (response.status, response.body, response.get(b"via")) == (200, b"ok", b"2 txgateway")
    assert (gateway.log[-1].reason, gateway.log[-1].attempts) == (None, attempts)
    gateway.assert_clean()


# --- what the target has not looked at ----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [b"GET", b"POST", b"PATCH", b"DELETE"])
@pytest.mark.parametrize("how", ["refused", "goaway"])
def test_any_request_is_sent_once_more_on_another_connection(method: bytes, how: str) -> None:
    gateway = Http2Gateway()
    client = gateway.ask(message(b"/", b"Content-Length: 5", method=method, body=b"hello"))
    assert gateway.seen() == [(0, 1, b"hello", True)]
    if how == "refused":
        gateway.refuse(0)
    else:
        gateway.targets[0].raw(goaway(0))
        gateway.turn()
    assert client.received() == b""
    assert gateway.seen() == [(0, 1, b"hello", True), (1, 1, b"hello", True)]
    gateway.answer(1)
    assert_answered(gateway, client, attempts=2)
    assert gateway.backends["b"].retries.counts == {}  # it is no retry


def test_once_only() -> None:
    gateway = Http2Gateway()
    client = gateway.ask()
    gateway.refuse(0)
    gateway.refuse(1)
    assert len(gateway.seen()) == 2
    assert problem(client) == (502, "UPSTREAM_RESET")
    gateway.assert_clean()


def test_body_that_was_not_kept_whole_is_not_sent_again() -> None:
    gateway = Http2Gateway(RETRY_MAX_BODY="4")
    client = gateway.ask()
    gateway.refuse(0)
    assert len(gateway.seen()) == 1
    assert problem(client) == (502, "UPSTREAM_RESET")
    gateway.assert_clean()


def test_body_that_is_still_coming_is_sent_again_from_its_beginning() -> None:
    gateway = Http2Gateway()
    client = gateway.ask(CHUNKED + b"3\r\nabc\r\n")
    gateway.refuse(0)
    client.send(b"3\r\ndef\r\n0\r\nX-Sum: 1\r\n\r\n")
    gateway.turn()
    assert gateway.seen() == [(0, 1, b"abc", False), (1, 1, b"abcdef", True)]
    assert gateway.targets[1].requests[1].trailers == [("x-sum", "1")]
    gateway.answer(1)
    assert_answered(gateway, client, attempts=2)


@pytest.mark.parametrize("status", ["103", "200"])
def test_what_has_been_answered_is_not_sent_again(status: str) -> None:
    gateway = Http2Gateway()
    client = gateway.ask()
    gateway.targets[0].link.send_headers(1, [(":status", status)])
    gateway.targets[0].turn()
    gateway.refuse(0)
    gateway.turn()
    assert len(gateway.seen()) == 1
    assert gateway.log[-1].reason == "UPSTREAM_RESET"
    assert client.received().startswith(b"HTTP/1.1 " + status.encode())


@pytest.mark.parametrize(("method", "is_sent_again"), [(b"GET", True), (b"POST", False)])
def test_what_was_lost_with_a_used_connection_is_sent_again_if_that_does_no_harm(
    method: bytes, is_sent_again: bool
) -> None:
    gateway = Http2Gateway()
    gateway.ask()
    gateway.answer(0)
    client = gateway.ask(message(b"/", method=method))
    assert len(gateway.seen()) == 2
    gateway.targets[0].transport.reset()
    gateway.turn()
    assert len(gateway.seen()) == 2 + is_sent_again
    if is_sent_again:
        gateway.answer(1)
        assert_answered(gateway, client, attempts=2)
    else:
        assert problem(client) == (502, "UPSTREAM_RESET")


@pytest.mark.parametrize("status", ["103", "200"])
def test_what_was_lost_behind_the_beginning_of_its_answer_is_not_sent_again(status: str) -> None:
    gateway = Http2Gateway()
    gateway.ask()
    gateway.answer(0)
    client = gateway.ask(message(b"/"))
    gateway.targets[0].link.send_headers(3, [(":status", status)])
    gateway.turn()
    gateway.targets[0].transport.reset()
    gateway.turn()
    assert len(gateway.seen()) == 2
    assert gateway.log[-1].reason == "UPSTREAM_RESET"
    assert client.received().count(b"HTTP/1.1 200") == int(status == "200")


def test_what_was_reset_on_a_used_connection_is_not_sent_again() -> None:
    gateway = Http2Gateway()
    gateway.ask()
    gateway.answer(0)
    client = gateway.ask(message(b"/"))
    gateway.refuse(0, 3, code=CANCEL)  # the connection is well: the target has had the request
    assert len(gateway.seen()) == 2
    assert problem(client) == (502, "UPSTREAM_RESET")


def test_all_that_were_lost_are_sent_again_over_one_connection() -> None:
    gateway = Http2Gateway(POOL_MAX_CONNECTIONS="1", POOL_MAX_PENDING="50")
    gateway.ask()
    gateway.answer(0)
    clients = [gateway.ask(message(b"/")) for _ in range(20)]
    gateway.targets[0].transport.reset()
    gateway.turn()
    assert len(gateway.targets) == 2
    assert len(gateway.targets[1].requests) == 20
    for number, client in enumerate(clients):
        gateway.answer(1, 2 * number + 1)
        assert client.response().status == 200
    gateway.wait(1.5)  # until nobody can be waiting any more
    gateway.assert_clean()


# --- what the target wants to be asked over HTTP/1.1 ----------------------------------------------------------------------


@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_target_that_requires_http1_is_asked_over_that(method: bytes) -> None:
    gateway = Http2Gateway(scheme="https")
    client = gateway.ask(message(b"/", b"Content-Length: 5", method=method, body=b"hello"))
    gateway.refuse(0, code=HTTP_1_1_REQUIRED)
    http1 = gateway.http1_dialer.target
    sent = http1.received()
    assert sent.startswith(method + b" / HTTP/1.1\r\n")
    assert sent.endswith(b"\r\n\r\nhello")
    http1.answer()
    response = client.response()
    assert (response.status, response.get(b"via")) == (200, b"1.1 txgateway")
    assert (gateway.log[-1].attempts, gateway.backends["b"].retries.counts) == (2, {})
    gateway.ask()  # and so is whoever comes later
    assert http1.received().startswith(b"POST / HTTP/1.1\r\n")
    assert len(gateway.seen()) == 1
    http1.answer()
    gateway.assert_clean()


@pytest.mark.parametrize(("method", "is_sent_again"), [(b"GET", True), (b"POST", False)])
@pytest.mark.parametrize("last", [0, 1])
def test_connection_that_requires_http1(method: bytes, last: int, is_sent_again: bool) -> None:
    gateway = Http2Gateway(scheme="https")
    client = gateway.ask(message(b"/", method=method))
    gateway.targets[0].raw(goaway(last, HTTP_1_1_REQUIRED))
    if last:
        assert gateway.http1_dialer.targets == []  # it may be answered yet
        gateway.targets[0].transport.end()
    gateway.turn()
    if last == 0 or is_sent_again:
        gateway.http1_dialer.target.answer()
        assert client.response().status == 200
    else:
        assert problem(client) == (502, "UPSTREAM_RESET")
    gateway.assert_clean()


def test_call_is_never_sent_over_http1() -> None:
    gateway = Http2Gateway(scheme="https")
    call = message(b"/", b"Content-Type: application/grpc", method=b"POST")
    gateway.ask(call)
    gateway.refuse(0, code=HTTP_1_1_REQUIRED)
    gateway.refuse(1, code=HTTP_1_1_REQUIRED)
    assert gateway.http1_dialer.targets == []
    assert gateway.log[-1].reason == "UPSTREAM_RESET"
    gateway.ask(call)
    assert len(gateway.seen()) == 3
    gateway.answer(0, 3)


def test_target_that_knows_no_http1_cannot_require_it() -> None:
    gateway = Http2Gateway()
    client = gateway.ask(message(b"/"))
    gateway.refuse(0, code=HTTP_1_1_REQUIRED)
    assert len(gateway.seen()) == 1
    assert problem(client) == (502, "UPSTREAM_RESET")
    gateway.assert_clean()


def test_requirement_behind_the_beginning_of_an_answer_comes_too_late() -> None:
    gateway = Http2Gateway(scheme="https")
    client = gateway.ask(message(b"/"))
    gateway.targets[0].link.send_headers(1, [(":status", "200")])
    gateway.turn()
    gateway.refuse(0, code=HTTP_1_1_REQUIRED)
    assert client.received().startswith(b"HTTP/1.1 200")
    gateway.ask(message(b"/"))
    assert len(gateway.seen()) == 2
    assert gateway.http1_dialer.targets == []


# --- retries --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("word", "is_retried"), [("refused_stream", True), ("reset", True), ("5xx", False)])
def test_refused_twice_is_tried_elsewhere_if_retries_say_so(word: str, is_retried: bool) -> None:
    gateway = Http2Gateway(2, RETRY_MAX_ATTEMPTS="2", RETRY_ON=word)
    client = gateway.ask()
    gateway.refuse(0)
    gateway.refuse(1)
    assert len(gateway.seen()) == 2 + is_retried
    if is_retried:
        gateway.answer(2)
        assert_answered(gateway, client, attempts=3)
        assert gateway.backends["b"].retries.counts == {"success": 1}
    else:
        assert problem(client) == (502, "UPSTREAM_RESET")


def test_other_resets_are_no_refusals() -> None:
    gateway = Http2Gateway(2, RETRY_MAX_ATTEMPTS="2", RETRY_ON="refused_stream")
    client = gateway.ask()
    gateway.refuse(0, code=CANCEL)
    assert len(gateway.seen()) == 1
    assert problem(client) == (502, "UPSTREAM_RESET")


# --- the gateway as a whole -------------------------------------------------------------------------------------------------


def test_client_that_leaves_resets_its_stream_and_no_other() -> None:
    gateway = Http2Gateway()
    leaving, staying = gateway.ask(), gateway.ask()
    leaving.leave()
    gateway.turn()
    (far,) = gateway.targets
    assert [one.reset for one in far.requests.values()] == [CANCEL, None]
    gateway.answer(0, 3)
    assert staying.response().status == 200
    gateway.assert_clean()


def test_slow_target_holds_its_client_up_and_no_other() -> None:
    gateway = Http2Gateway()
    slow = gateway.connect().send(message(b"/", b"Content-Length: 300000", method=b"PUT"))
    gateway.turn()
    (far,) = gateway.targets
    far.reads = False
    slow.send(b"x" * 100_000)
    gateway.turn()
    assert not slow.transport.is_reading
    assert len(far.requests[1].body) == 65_535
    far.reads = True
    far.grant(200_000)
    far.grant(200_000, 1)
    gateway.turn()
    assert slow.transport.is_reading
    slow.send(b"x" * 200_000)
    gateway.turn()
    assert (len(far.requests[1].body), far.requests[1].ended) == (300_000, True)
    gateway.answer(0)
    assert_answered(gateway, slow, attempts=1)


def test_client_gets_what_there_is_of_an_answer_that_breaks_off_in_the_same_read() -> None:
    """Or it would take the connection for one that was closed while it was idle, and ask again."""
    gateway = Http2Gateway()
    client = gateway.ask(message(b"/"))
    head = raw_headers(1, [(b":status", b"200"), (b"content-length", b"10")])
    gateway.targets[0].raw(head + data_frame(1, b"abc") + rst_stream(1, CANCEL))
    gateway.turn()
    received = client.received()
    assert received.startswith(b"HTTP/1.1 200 OK\r\n")
    assert received.endswith(b"\r\n\r\nabc")
    assert client.transport.aborted
    assert (gateway.log[-1].status, gateway.log[-1].reason) == (200, "UPSTREAM_RESET")
