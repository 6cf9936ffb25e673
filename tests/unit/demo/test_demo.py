from __future__ import annotations

from typing import Any

import orjson
import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IPushProducer
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from txgateway.demo import DemoSite
from txgateway.demo.resources import MAX_ECHO_BYTES, RESUMES
from txgateway.demo.ticker import Ticker


class Exchange:
    """One connection to the demo in memory and in virtual time."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.transport = StringTransport()
        protocol = DemoSite(self.clock).buildProtocol(IPv4Address("TCP", "127.0.0.1", 1))
        assert protocol is not None
        self.protocol = protocol
        self.protocol.makeConnection(self.transport)

    def send(self, target: bytes, method: bytes = b"GET", body: bytes = b"", *headers: bytes) -> Exchange:
        fields = b"".join(header + b"\r\n" for header in (b"Host: demo", b"Content-Length: %d" % len(body), *headers))
        self.protocol.dataReceived(method + b" " + target + b" HTTP/1.1\r\n" + fields + b"\r\n" + body)
        return self

    def leave(self) -> None:
        self.protocol.connectionLost(Failure(ConnectionDone()))

    @property
    def received(self) -> bytes:
        return bytes(self.transport.value())

    @property
    def head(self) -> bytes:
        return self.received.partition(b"\r\n\r\n")[0]

    @property
    def status(self) -> int:
        return int(self.received.split(b" ", 2)[1])

    @property
    def body(self) -> bytes:
        return self.received.partition(b"\r\n\r\n")[2]

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


def exchange(target: bytes, method: bytes = b"GET", body: bytes = b"", *headers: bytes) -> Exchange:
    return Exchange().send(target, method, body, *headers)


def test_unknown_path_is_echoed_with_its_raw_target_and_headers() -> None:
    echoed = exchange(b"/any%2fthing/x?q=%41&q=2", b"PATCH", b"", b"X-Thing: one", b"X-Thing: two").json
    assert echoed["method"] == "PATCH"
    assert echoed["path"] == "/any%2fthing/x?q=%41&q=2"
    assert [pair for pair in echoed["headers"] if pair[0] == "X-Thing"] == [["X-Thing", "one"], ["X-Thing", "two"]]


@pytest.mark.parametrize(
    ("body", "text", "encoding"),
    [
        (b"", "", "text"),
        ("grüß".encode(), "grüß", "text"),
        (b"\xff\x00", "/wA=", "base64"),
        (b"a\xc3", "YcM=", "base64"),
    ],
)
def test_echo_shows_text_as_text_and_bytes_as_base64(body: bytes, text: str, encoding: str) -> None:
    echoed = exchange(b"/", b"POST", body).json
    assert (echoed["body"], echoed["body_encoding"], echoed["body_bytes"]) == (text, encoding, len(body))


def test_echo_repeats_only_the_beginning_of_a_long_body() -> None:
    body = b"x" + "ü".encode() * MAX_ECHO_BYTES
    echoed = exchange(b"/", b"POST", body).json
    assert echoed["body"] == "x" + "ü" * (MAX_ECHO_BYTES // 2 - 1)  # the character cut in two is left out
    assert (echoed["body_encoding"], echoed["body_bytes"]) == ("text", len(body))


def test_body_that_only_claims_to_be_a_form_is_left_alone() -> None:
    answer = exchange(b"/f", b"POST", b"no form", b"Content-Type: multipart/form-data; boundary=x")
    assert answer.json["body"] == "no form"


@pytest.mark.parametrize("target", [b"/resumes", b"/resumes/"])
def test_resumes_lists_them_all(target: bytes) -> None:
    assert exchange(target).json == list(RESUMES.values())


def test_resume_is_found_by_its_id() -> None:
    assert exchange(b"/resumes/2").json == RESUMES["2"]


@pytest.mark.parametrize("target", [b"/resumes/99", b"/resumes/1/photo"])
def test_unknown_resume_is_a_json_404(target: bytes) -> None:
    answer = exchange(target)
    assert answer.status == 404
    assert answer.json == {"error": "no such resume"}


def test_head_has_the_length_and_no_body() -> None:
    get, head = exchange(b"/resumes/1"), exchange(b"/resumes/1", b"HEAD")
    assert head.status == 200
    assert b"Content-Length: %d" % len(get.body) in head.head
    assert head.body == b""


@pytest.mark.parametrize("code", [200, 418, 503, 599])
def test_status_answers_with_the_status_asked_for(code: int) -> None:
    answer = exchange(b"/status/%d" % code)
    assert answer.status == code
    assert answer.json == {"status": code}


@pytest.mark.parametrize("code", [204, 304])
def test_status_without_a_body_declares_none(code: int) -> None:
    answer = exchange(b"/status/%d" % code)
    assert answer.status == code
    assert b"content-length" not in answer.head.lower()
    assert answer.body == b""


@pytest.mark.parametrize("segment", [b"", b"199", b"600", b"200.5", b"x", b"nan", b"inf", b"200/1"])
def test_status_out_of_range_is_refused(segment: bytes) -> None:
    assert exchange(b"/status/" + segment).status == 400


def test_delay_answers_only_after_that_time() -> None:
    answer = exchange(b"/delay/1.5")
    answer.clock.advance(1.4)
    assert answer.received == b""
    answer.clock.advance(0.1)
    assert answer.status == 200
    assert b'{\n  "delay": 1.5\n}\n' in answer.body


@pytest.mark.parametrize("segment", [b"", b"-1", b"61", b"inf", b"nan", b"soon"])
def test_delay_out_of_range_is_refused_at_once(segment: bytes) -> None:
    assert exchange(b"/delay/" + segment).status == 400


@pytest.mark.parametrize("target", [b"/delay/60", b"/events"])
def test_client_that_leaves_takes_the_timers_with_it(target: bytes) -> None:
    answer = exchange(target)
    assert answer.clock.getDelayedCalls()
    answer.leave()
    assert answer.clock.getDelayedCalls() == []


def test_events_tick_at_once_and_each_second() -> None:
    answer = exchange(b"/events")
    assert b"text/event-stream" in answer.head
    assert answer.body.count(b"event: tick") == 1
    answer.clock.pump([1.0, 1.0])
    assert [line for line in answer.body.split(b"\n") if line.startswith(b"id")] == [b"id: 0", b"id: 1", b"id: 2"]


def test_events_leave_out_what_a_slow_reader_has_no_room_for() -> None:
    answer = exchange(b"/events")
    assert answer.transport.producer is not None
    answer.transport.producer.pauseProducing()
    answer.clock.pump([1.0, 1.0])
    answer.transport.producer.resumeProducing()
    answer.clock.advance(1.0)
    assert [line for line in answer.body.split(b"\n") if line.startswith(b"id")] == [b"id: 0", b"id: 3"]


def test_ticker_is_a_push_producer() -> None:
    assert verifyObject(IPushProducer, Ticker(Clock(), None))  # type: ignore[arg-type]


def test_plain_request_for_the_socket_is_told_to_upgrade() -> None:
    answer = exchange(b"/ws")
    assert answer.status == 426
    assert b"Upgrade: websocket" in answer.head
