from __future__ import annotations

from http import HTTPStatus
from typing import Any

import pytest
from tests.helpers.logs import logged_events
from tests.unit.support import Body, StubChannel, logged_failures, stub_request
from twisted.internet.address import IPv4Address
from twisted.web.http_headers import Headers
from twisted.web.iweb import IRequest
from twisted.web.server import NOT_DONE_YET
from zope.interface.verify import verifyObject

from txgateway.errors import BadRequest, BodyTooLarge, InternalError, NoRoute, UpstreamReset
from txgateway.forwarded import Forwarded
from txgateway.request import GatewayRequest
from txgateway.transport.interfaces import NO_BODY, UNKNOWN_LENGTH


def head_of(channel: StubChannel) -> tuple[int, list[tuple[bytes, bytes]], int]:
    (head,) = [event for event in channel.events if event[0] == "head"]
    return head[1], head[3], head[4]


def body_of(channel: StubChannel) -> bytes:
    return b"".join(event[1] for event in channel.events if event[0] == "body")


def made(**given: Any) -> tuple[GatewayRequest, StubChannel]:
    channel = StubChannel()
    return stub_request(channel=channel, **given), channel


# --- what it is -----------------------------------------------------------------------------------------------------


def test_is_a_complete_request_of_twisted_web() -> None:
    request = stub_request()
    request.forwarded = Forwarded("192.0.2.1", b"https", [])
    verifyObject(IRequest, request)
    assert request.isSecure()


def test_costly_parts_are_made_when_asked_for() -> None:
    fields = {b"Host": b"a", b"Cookie": b"x=1; y = 2;z", b"X-A": b"b"}
    request = stub_request(target=b"/p?q=1&q=2&empty=", fields=fields)
    assert not {"requestHeaders", "responseHeaders", "args", "content", "received_cookies"} & set(request.__dict__)
    assert list(request.requestHeaders.getAllRawHeaders()) == [
        (b"Host", [b"a"]), (b"Cookie", [b"x=1; y = 2;z"]), (b"X-A", [b"b"]),
    ]  # fmt: skip
    assert request.args == {b"q": [b"1", b"2"], b"empty": [b""]}
    assert request.received_cookies == {b"x": b"1", b"y": b"2"}
    assert request.getCookie(b"y") == b"2"
    assert request.content.read() == b""
    assert request.requestHeaders is request.requestHeaders


def test_single_fields_are_read_without_headers_objects() -> None:
    request = stub_request(fields={b"Host": b"a", b"X-A": b"\xc3\xa9"})
    assert request.getHeader(b"X-a") == request.header(b"x-a") == b"\xc3\xa9"
    assert request.getHeader("x-A") == "é"
    assert request.getHeader(b"none") is None
    assert request.getHeader("none") is None
    assert "requestHeaders" not in request.__dict__


def test_removed_fields_are_gone_everywhere() -> None:
    request = stub_request(fields={b"Host": b"a", b"X-A": b"1", b"x-b": b"2"})
    request.remove_headers(frozenset((b"x-a",)))
    assert list(request.headers) == [(b"host", b"Host", b"a"), (b"x-b", b"x-b", b"2")]
    assert request.header(b"x-a") is None


def test_addresses() -> None:
    request, channel = made()
    request.client_ip = "203.0.113.9"
    assert request.getClientAddress() == IPv4Address("TCP", "203.0.113.9", 0)
    assert request.getHost() == channel.transport.getHost()


# --- hooks ------------------------------------------------------------------------------------------------------------


def test_hooks_before_the_head_run_once_last_registered_first_and_may_change_it() -> None:
    request, channel = made()
    order = []

    def first(request: GatewayRequest) -> None:
        order.append("first")
        request.status = 201

    def second(request: GatewayRequest) -> None:
        order.append("second")
        request.response_headers.append((b"x-a", b"X-A", b"1"))

    request.before_head(first)
    request.before_head(second)
    request.answer(200, [], b"ok")
    assert order == ["second", "first"]
    assert head_of(channel) == (201, [(b"X-A", b"1")], 2)


def test_hooks_at_the_end_run_once_last_registered_first_whatever_one_does() -> None:
    request, _ = made()
    order = []

    def fail(request: GatewayRequest) -> None:
        order.append("bad")
        raise ValueError("hook")

    request.on_finish(lambda _: order.append("first"))
    request.on_finish(fail)
    request.on_finish(lambda _: order.append("last"))
    with logged_failures() as failures:
        request.answer(200, [], b"")
        request.client_gone()
        request.fail(NoRoute())
        request.abort()
    assert order == ["last", "bad", "first"]
    assert len(failures) == 1
    assert request.reason is None


@pytest.mark.parametrize("way", ["answer", "fail", "abort", "client_gone"])
def test_every_end_is_told_once(way: str) -> None:
    request, _ = made()
    ends = []
    request.on_finish(lambda request: ends.append((request.status, request.reason)))
    if way == "answer":
        request.answer(200, [], b"ok")
    elif way == "fail":
        request.fail(NoRoute())
    elif way == "abort":
        request.abort()
    else:
        request.client_gone()
    expected = {
        "answer": (200, None), "fail": (404, "NO_ROUTE"), "abort": (0, None), "client_gone": (499, "CLIENT_GONE"),
    }  # fmt: skip
    assert ends == [expected[way]]


def test_hook_before_the_head_that_fails_does_not_stop_the_error_answer() -> None:
    request, channel = made()
    ran = []

    def fail(request: GatewayRequest) -> None:
        raise ValueError("hook")

    request.before_head(lambda _: ran.append("outer"))
    request.before_head(fail)
    request.before_head(fail)
    with logged_failures() as failures:
        request.fail(NoRoute())
    assert head_of(channel)[0] == 500
    assert ran == ["outer"]
    assert len(failures) == 2
    assert (request.status, request.reason, request.ended) == (500, "INTERNAL_ERROR", True)


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        ("200", []),
        (None, []),
        (0, []),
        (199, []),
        (600, []),
        (200, [(b"x-a", b"X-A\r\nX-B", b"v")]),
        (200, [(b"x-a", b"X-A", b"v\r\nSet-Cookie: a=b")]),
        (200, [(b"x-a", b"X-A", b"v\0")]),
        (200, [(b"x-a\r\nx-b", b"x-a\r\nx-b", b"v")]),
        (200, [(b"x-b", b"X-A", b"v")]),
        (200, [("x-a", "X-A", "v")]),
        (200, [(b"X-A", b"v")]),
        (200, [None]),
        (200, None),
    ],
)
def test_what_a_hook_leaves_that_cannot_be_sent_is_an_error_and_nothing_else(status: Any, headers: Any) -> None:
    request, channel = made()

    def spoil(request: GatewayRequest) -> None:
        request.status, request.response_headers = status, headers

    request.before_head(spoil)
    with logged_events() as events:
        with pytest.raises(InternalError):
            request.respond(200, b"", [], 0)
        assert channel.events == []
        assert request.status == 0  # what the log and the metrics say if the client leaves now
        request.fail(InternalError())
    assert [event["log_format"] for event in events] == ["answer cannot be sent: {problem}"]
    assert request.status == 500
    assert head_of(channel)[0] == 500


def test_status_of_the_library_is_a_number() -> None:
    request, channel = made()
    request.respond(HTTPStatus.NOT_FOUND, b"", [(b"x-a", b"X-A", b"v")], 0)
    assert request.status.__class__ is int
    assert head_of(channel)[0] == 404


def test_hooks_before_the_head_do_not_run_for_a_client_that_left() -> None:
    request, _ = made()
    request.before_head(lambda _: pytest.fail("no head goes out"))
    request.client_gone()


# --- ends ---------------------------------------------------------------------------------------------------------------


def test_error_before_the_head_is_answered() -> None:
    request, channel = made()
    request.request_id = "r"
    request.fail(NoRoute())
    status, headers, length = head_of(channel)
    assert (status, length) == (404, len(body_of(channel)))
    assert (b"Content-Type", b"application/problem+json") in headers
    assert channel.names() == ["head", "body", "end"]
    assert (request.error.reason if request.error else None, request.reason) == ("NO_ROUTE", "NO_ROUTE")


def test_error_that_ends_the_connection_says_so_first() -> None:
    request, channel = made()
    request.fail(BadRequest())
    assert channel.names() == ["close when idle", "head", "body", "end"]


def test_error_after_the_head_cuts_the_answer() -> None:
    request, channel = made()
    request.respond(200, b"", [], 10)
    request.fail(UpstreamReset())
    assert channel.names() == ["head", "reset"]
    assert (request.status, request.reason, request.ended) == (200, "UPSTREAM_RESET", True)


def test_client_that_leaves_after_the_head_keeps_its_status() -> None:
    request, _ = made()
    request.respond(200, b"", [], 10)
    request.client_gone()
    assert (request.status, request.reason) == (200, "CLIENT_GONE")


def test_answer_of_the_wrong_length_is_an_internal_error() -> None:
    request, channel = made()
    channel.ends_well = False
    request.answer(200, [], b"ok")
    assert request.reason == "INTERNAL_ERROR"


def test_times_and_counts() -> None:
    times = iter([10.0, 12.5])
    channel = StubChannel(lambda: next(times))
    request = stub_request(channel=channel, length=5, method=b"POST")
    request.receive_body(b"hello")
    request.answer(200, [], b"ok")
    assert (request.started_at, request.ended_at, request.bytes_in, request.bytes_out) == (10.0, 12.5, 5, 2)


# --- the body -------------------------------------------------------------------------------------------------------------


def test_body_before_its_consumer_is_kept_and_given_once() -> None:
    request, channel = made(length=5, method=b"POST")
    request.receive_body(b"he")
    body = Body()
    request.want_body(body)
    assert (body.data, channel.names()) == (b"he", ["resume"])
    request.receive_body(b"llo")
    request.receive_body_end([(b"x", b"X", b"1")])
    assert (body.data, body.trailers) == (b"hello", [(b"X", b"1")])


def test_complete_body_ends_at_once() -> None:
    request, channel = made(length=UNKNOWN_LENGTH, method=b"POST")
    request.receive_body(b"hello")
    request.receive_body_end([(b"x", b"X", b"1")])
    body = Body()
    request.want_body(body)
    assert (body.data, body.trailers, channel.events) == (b"hello", [(b"X", b"1")], [])


def test_taken_body_is_not_given_again() -> None:
    request, _ = made(length=5, method=b"POST")
    request.receive_body(b"he")
    assert request.take_body() == b"he"
    body = Body()
    request.want_body(body)
    assert body.data == b""


EXPECT = {b"Host": b"a", b"Expect": b"100-continue"}


def test_body_is_invited_when_it_is_wanted_and_not_before() -> None:
    request, channel = made(length=5, method=b"POST", fields=EXPECT)
    assert channel.names() == []
    request.want_body(Body())
    assert channel.names() == ["continue", "resume"]


@pytest.mark.parametrize(
    ("given", "received"),
    [
        ({"length": 5, "version": b"HTTP/1.0", "fields": EXPECT}, b""),
        ({"length": 5, "fields": EXPECT}, b"h"),
        ({"length": 5}, b""),
    ],
)
def test_body_is_not_invited_without_need(given: dict[str, Any], received: bytes) -> None:
    request, channel = made(method=b"POST", **given)
    if received:
        request.receive_body(received)
    request.want_body(Body())
    assert channel.names() == ["resume"]


def test_refused_request_is_never_invited() -> None:
    request, channel = made(length=5, method=b"POST", fields=EXPECT)
    request.fail(NoRoute())
    assert "continue" not in channel.names()


@pytest.mark.parametrize("length", [6, UNKNOWN_LENGTH])
def test_body_over_the_limit_is_refused(length: int) -> None:
    request, channel = made(length=length, method=b"POST")
    if length > 0:
        with pytest.raises(BodyTooLarge):
            request.limit_body(5)
        return
    request.limit_body(5)
    body = Body()
    request.want_body(body)
    request.receive_body(b"hello")
    assert not request.ended
    request.receive_body(b"!")
    request.receive_body(b"more")
    request.receive_body_end([])
    assert (body.data, body.trailers) == (b"hello", None)
    assert (head_of(channel)[0], request.reason, request.bytes_in) == (413, "BODY_TOO_LARGE", 6)


def test_body_that_came_before_its_limit_counts() -> None:
    request, _ = made(length=UNKNOWN_LENGTH, method=b"POST")
    request.receive_body(b"hello!")
    with pytest.raises(BodyTooLarge):
        request.limit_body(5)


def test_pace_of_the_body_is_passed_on_until_it_is_complete() -> None:
    request, channel = made(length=5, method=b"POST")
    request.pause_body()
    request.resume_body()
    request.receive_body_end([])
    request.pause_body()
    request.resume_body()
    assert channel.names() == ["pause", "resume"]


# --- as twisted.web's resources use it ------------------------------------------------------------------------------------


def test_first_write_sends_the_head() -> None:
    request, channel = made()
    request.setResponseCode(201, b"Made")
    request.setHeader(b"X-A", b"1")
    request.responseHeaders.addRawHeader(b"X-A", b"2")
    request.addCookie(b"c", b"v", path=b"/")
    request.write(b"he")
    request.write(b"")
    request.write(b"llo")
    request.finish()
    assert channel.events[0][:3] == ("head", 201, b"Made")
    status, headers, length = head_of(channel)
    assert (status, length) == (201, UNKNOWN_LENGTH)
    assert [value for name, value in headers if name == b"X-A"] == [b"1", b"2"]
    assert (b"Set-Cookie", b"c=v; Path=/") in headers
    assert (b"Content-Type", b"text/html") in headers
    assert body_of(channel) == b"hello"
    assert (request.ended, request.sentLength) == (True, 5)


def test_declared_length_frames_the_answer_and_hop_by_hop_fields_stay_here() -> None:
    request, channel = made()
    for name, value in ((b"Content-Length", b"5"), (b"Connection", b"x"), (b"Transfer-Encoding", b"chunked")):
        request.setHeader(name, value)
    request.write(b"hello")
    request.finish()
    status, headers, length = head_of(channel)
    assert (status, length) == (200, 5)
    assert headers == [(b"Content-Type", b"text/html")]


def test_finish_without_write_is_an_empty_answer() -> None:
    request, channel = made()
    request.setResponseCode(404)
    request.finish()
    assert head_of(channel)[::2] == (404, 0)
    assert body_of(channel) == b""


@pytest.mark.parametrize("status", [204, 304])
def test_bodiless_status_has_no_default_type(status: int) -> None:
    request, channel = made()
    request.setResponseCode(status)
    request.finish()
    assert head_of(channel)[1] == []


def test_validators_become_fields() -> None:
    request, channel = made()
    request.setLastModified(0)
    request.setETag(b'"e"')
    request.write(b"")
    assert (b"Last-Modified", b"Thu, 01 Jan 1970 00:00:00 GMT") in head_of(channel)[1]
    assert (b"ETag", b'"e"') in head_of(channel)[1]


def test_misuse_after_the_end_is_an_error_as_with_twisted() -> None:
    request, _ = made()
    request.finish()
    request.finish()
    with pytest.raises(RuntimeError):
        request.write(b"late")
    request, _ = made()
    request.client_gone()
    request.write(b"nobody reads this")
    with pytest.raises(RuntimeError):
        request.finish()


def test_writing_after_an_answer_of_the_gateway_is_refused() -> None:
    request, _ = made()
    request.respond(200, b"", [], UNKNOWN_LENGTH)
    with pytest.raises(RuntimeError):
        request.write(b"x")


def test_bad_length_of_a_resource_is_an_error() -> None:
    request, _ = made()
    request.setHeader(b"Content-Length", b"+5")
    with pytest.raises(RuntimeError):
        request.write(b"hello")


def test_failed_resource_is_logged_and_answered_with_500() -> None:
    request, channel = made()
    with logged_failures() as failures:
        try:
            raise ValueError("secret detail")
        except ValueError:
            from twisted.python.failure import Failure

            request.processingFailed(Failure())
    assert len(failures) == 1
    assert head_of(channel)[0] == 500
    assert b"secret" not in body_of(channel)
    assert request.reason == InternalError.reason


class Done:
    def __init__(self, request: GatewayRequest) -> None:
        self.results: list[object] = []
        request.notifyFinish().addBoth(self.results.append)


def test_end_is_notified_with_its_outcome() -> None:
    request, _ = made()
    first, second = Done(request), Done(request)
    request.finish()
    assert first.results == second.results == [None]
    request, _ = made()
    lost = Done(request)
    request.client_gone()
    (failure,) = lost.results
    assert failure.value.args == ("CLIENT_GONE",)  # type: ignore[attr-defined]


class Pull:
    def __init__(self, request: GatewayRequest, pieces: int, *, fails: bool = False) -> None:
        self.request = request
        self.left = pieces
        self.fails = fails
        self.stopped = 0

    def resumeProducing(self) -> None:
        if self.fails:
            raise OSError("disk")
        self.left -= 1
        self.request.write(b"x")
        if not self.left:
            self.request.unregisterProducer()
            self.request.finish()

    def stopProducing(self) -> None:
        self.stopped += 1


def test_pull_producer_is_asked_once_a_turn_until_it_is_done() -> None:
    request, channel = made()
    producer = Pull(request, 3)
    request.registerProducer(producer, streaming=False)
    assert body_of(channel) == b""
    channel.clock.advance(0)
    assert body_of(channel) == b"xxx"
    assert request.ended
    assert channel.clock.getDelayedCalls() == []
    assert producer.stopped == 0


def test_pull_producer_waits_for_a_slow_client() -> None:
    request, channel = made()
    producer = Pull(request, 1000)
    request.registerProducer(producer, streaming=False)
    request.downstream_blocked()
    request.downstream_blocked()
    channel.clock.advance(1)
    assert producer.left == 1000
    request.downstream_drained()
    assert len(channel.clock.getDelayedCalls()) == 1


def test_pull_producer_of_a_client_that_left_is_stopped() -> None:
    request, channel = made()
    producer = Pull(request, 1000)
    request.registerProducer(producer, streaming=False)
    request.client_gone()
    assert producer.stopped == 1
    assert channel.clock.getDelayedCalls() == []


def test_pull_producer_that_fails_cuts_the_answer() -> None:
    request, channel = made()
    request.write(b"begun")
    producer = Pull(request, 3, fails=True)
    request.registerProducer(producer, streaming=False)
    with logged_failures() as failures:
        channel.clock.advance(0)
    assert len(failures) == 1
    assert channel.names() == ["head", "body", "reset"]
    assert (request.ended, producer.stopped) == (True, 1)
    assert channel.clock.getDelayedCalls() == []


class Push:
    def __init__(self) -> None:
        self.told: list[str] = []

    def pauseProducing(self) -> None:
        self.told.append("pause")

    def resumeProducing(self) -> None:
        self.told.append("resume")

    def stopProducing(self) -> None:
        self.told.append("stop")


def test_push_producer_follows_the_client_pace() -> None:
    request, _ = made()
    producer = Push()
    request.registerProducer(producer, streaming=True)
    request.downstream_blocked()
    request.downstream_drained()
    request.unregisterProducer()
    request.downstream_blocked()
    assert producer.told == ["pause", "resume"]


def test_push_producer_of_a_slow_client_starts_paused() -> None:
    request, channel = made()
    channel.write_blocked = True
    producer = Push()
    request.registerProducer(producer, streaming=True)
    assert producer.told == ["pause"]


def test_second_producer_is_refused_and_a_late_one_stopped() -> None:
    request, _ = made()
    request.registerProducer(Push(), streaming=True)
    with pytest.raises(ValueError, match="registering producer"):
        request.registerProducer(Push(), streaming=True)
    request.client_gone()
    late = Push()
    request.registerProducer(late, streaming=True)
    assert late.told == ["stop"]


def test_switch_runs_the_hooks_and_hands_over() -> None:
    request, channel = made(fields={b"Host": b"a"})
    ran = []
    request.before_head(lambda request: ran.append(request.status))
    early = request.switch_protocols([(b"upgrade", b"Upgrade", b"x")], "tunnel")  # type: ignore[arg-type]
    assert early == b"early"
    assert ran == [101]
    assert channel.events == [("switching", [(b"Upgrade", b"x")]), ("tunnel", "tunnel")]
    request.tunnel_ended("UPSTREAM_TIMEOUT")
    assert (request.status, request.reason, request.ended) == (101, "UPSTREAM_TIMEOUT", True)


def test_rendered_resource_may_wait() -> None:
    class Later:
        isLeaf = True

        def render(self, request: GatewayRequest) -> int:
            return NOT_DONE_YET

    request, channel = made()
    request.render(Later())
    assert channel.events == []
    assert isinstance(request.responseHeaders, Headers)
    assert request.length == NO_BODY
