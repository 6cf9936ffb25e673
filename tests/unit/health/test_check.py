"""What one check sends, what it makes of the answer, and what is left of it: byte for byte, in virtual time."""

from __future__ import annotations

import gzip
from typing import Any

import pytest
from tests.helpers.logs import logged
from tests.unit.health.checked import STEP_S, Case
from tests.unit.support import MemoryTarget
from twisted.python.failure import Failure

from txgateway.errors import (
    UpstreamConnectFailed,
    UpstreamNameUnknown,
    UpstreamProtocolError,
    UpstreamReset,
    UpstreamTimeout,
    UpstreamTlsError,
)
from txgateway.health.check import MAX_BODY_BYTES, Verdict, verdict_of

OK = b"HTTP/1.1 200 OK\r\n"
LONG = b"x" * (MAX_BODY_BYTES - 1)


def asked(**check: Any) -> tuple[Case, MemoryTarget]:
    """A backend whose one target has been sent a request."""
    case = Case(**{"path": "/well", "fall": 1, "interval_s": 4, "timeout_s": 2, **check}).start()
    return case, case.dialer.target


def result(case: Case) -> tuple[str, str]:
    """Health and reason, when nothing else of the check is left."""
    ((_, health, why),) = case.backend.told
    case.checks.stop()
    case.assert_nothing_left()
    return health.value, why


# --- the request ------------------------------------------------------------------------------------------------------


def test_request_is_this_and_no_more() -> None:
    case, target = asked()
    assert sorted(target.received().split(b"\r\n")) == sorted(
        [b"GET /well HTTP/1.1", b"Host: t0:81", b"User-Agent: txgateway-health", b"", b""]
    )
    target.answer()
    assert result(case) == ("healthy", "status 200")
    assert target.transport.closed
    assert not target.transport.aborted


@pytest.mark.parametrize(
    ("authority", "path", "line"),
    [
        (b"[2001:db8::1]:81", "/", b"GET / HTTP/1.1"),
        (b"localhost", "//a//b/", b"GET //a//b/ HTTP/1.1"),
        (b"bad_name.test", "/%7euser/%C3%A9", b"GET /%7euser/%C3%A9 HTTP/1.1"),
        (b"a", "/é", b"GET /%C3%A9 HTTP/1.1"),
        (b"a", "/a:b@c=d&e,$!*+~", b"GET /a:b@c=d&e,$!*+~ HTTP/1.1"),
    ],
)
def test_any_authority_and_path_can_be_asked(authority: bytes, path: str, line: bytes) -> None:
    case = Case(path=path)
    case.targets[0].authority = authority
    case.start()
    head = case.dialer.target.received()
    assert head.startswith(line + b"\r\n")
    assert b"\r\nHost: " + authority + b"\r\n" in head


def test_each_check_has_a_connection_of_its_own_and_replays_no_cookie() -> None:
    case, target = asked()
    first = target.received()
    target.answer(b"", b"Set-Cookie: session=1; Path=/")
    assert case.health == ["healthy"]
    again = case.wait_for_request()
    assert again is not target
    assert target.closed
    assert again.received() == first
    again.answer()
    assert case.health == ["healthy"]


# --- the answer -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expect", "status", "is_well"),
    [
        ("200-399", 200, True), ("200-399", 204, True), ("200-399", 301, True), ("200-399", 399, True),
        ("200-399", 400, False), ("200-399", 404, False), ("200-399", 503, False),
        ("200,204", 200, True), ("200,204", 202, False), ("200,204", 204, True), ("200,204", 302, False),
        ("401", 401, True), ("401", 200, False), ("200-200,500-599", 503, True),
    ],
)  # fmt: skip
def test_status(expect: str, status: int, is_well: bool) -> None:
    case, target = asked(expect=expect)
    target.send(b"HTTP/1.1 %d Any\r\nLocation: http://other.test/\r\n\r\n" % status)
    target.end()
    assert result(case) == ("healthy" if is_well else "unhealthy", f"status {status}")
    assert len(case.dialer.targets) == 1  # whatever Location says


@pytest.mark.parametrize(
    "response",
    [
        pytest.param(OK + b"Content-Length: 0\r\n\r\n", id="no body"),
        pytest.param(OK + b"Content-Length: 2\r\n\r\nok", id="length"),
        pytest.param(OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nA: b\r\n\r\n", id="chunks"),
        pytest.param(b"HTTP/1.0 200 OK\r\n\r\n", id="of an old server"),
        pytest.param(OK + b"Connection: close\r\nContent-Length: 2\r\n\r\nok", id="closing"),
        pytest.param(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 204 No\r\n\r\n", id="informational"),
        pytest.param(OK + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\nok", id="not what it says it is"),
        pytest.param(OK + b"Content-Length: 65536\r\n\r\nx" + LONG, id="as much as is read"),
        pytest.param(OK + b"Content-Length: 999999999\r\n\r\nx" + LONG, id="much more than is read"),
        pytest.param(OK + b"\r\n" + LONG + b"xx", id="more than is read, and no end"),
        pytest.param(
            OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"100000\r\n" + LONG + b"xx", id="a big chunk that goes on"
        ),
    ],
)
def test_good_answer(response: bytes) -> None:
    case, target = asked()
    head, blank, body = response.partition(b"\r\n\r\n")
    target.send(head + blank, *([body[:30000], body[30000:]] if body else []))
    if response.startswith(b"HTTP/1.0"):
        target.end()
    assert result(case)[0] == "healthy"


def test_compressed_body_is_not_expanded() -> None:
    case, target = asked()
    body = gzip.compress(b"\0" * 10_000_000)
    assert len(body) < MAX_BODY_BYTES
    target.answer(body, b"Content-Encoding: gzip")
    assert result(case) == ("healthy", "status 200")
    assert not target.transport.aborted  # as it would be if more than so many bytes had come


@pytest.mark.parametrize("name", [b"Set-Cookie", b"Set-Cookie2", b"Content-Encoding", b"Location", b"X-Any"])
@pytest.mark.parametrize("value", [b"\xff", b";;;=;", b"", b"a\xc3\xa9=1; Domain=\xe2\x82\xac; Expires=never"])
def test_strange_fields_do_not_matter(name: bytes, value: bytes) -> None:
    case, target = asked()
    target.answer(b"ok", name + b": " + value)
    assert result(case) == ("healthy", "status 200")


def test_body_that_is_not_over_is_waited_for() -> None:
    case, target = asked()
    target.send(OK + b"Content-Length: 65535\r\n\r\n", LONG[:-1])
    assert case.backend.told == []
    target.send(b"x")
    assert result(case) == ("healthy", "status 200")


def test_status_that_was_not_expected_needs_no_body() -> None:
    case, target = asked()
    target.send(b"HTTP/1.1 500 No\r\nContent-Length: 999999\r\n\r\nsome")
    assert result(case) == ("unhealthy", "status 500")
    assert target.transport.aborted


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "invalid response"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx", "invalid response"),
        (b"HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n", "invalid response"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\nno\r\n", "invalid response"),
        (OK + b"A: " + b"x" * 70000, "invalid response"),
        (b"", "connection closed before the response was complete"),
        (b"HTTP/1.1 20", "connection closed before the response was complete"),
        (OK + b"Content-Length: 9\r\n\r\nok", "connection closed before the response was complete"),
    ],
)
def test_bad_answer(data: bytes, why: str) -> None:
    case, target = asked()
    if data:
        target.send(data)
    if why.startswith("connection"):
        assert case.backend.told == []
        target.end()
    assert result(case) == ("unhealthy", why)


# --- time -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"HTTP/1.1 200 OK\r\n", OK + b"Content-Length: 9\r\n\r\nok"])
def test_silence_ends_with_the_timeout(data: bytes) -> None:
    case, target = asked()
    if data:
        target.send(data)
    case.wait(2 - STEP_S)
    assert case.backend.told == []
    case.wait(STEP_S)
    assert target.transport.aborted
    assert result(case) == ("unhealthy", "timeout after 2 s")


def test_slow_drip_does_not_move_the_timeout() -> None:
    case, target = asked()
    target.send(OK + b"Content-Length: 9999\r\n\r\n")
    for _ in range(15):
        case.wait(STEP_S)
        target.send(b"x")
    assert case.backend.told == []
    case.wait(STEP_S)
    assert result(case) == ("unhealthy", "timeout after 2 s")


@pytest.mark.parametrize("check", [{"path": "/well"}, {}])
def test_connecting_counts(check: dict[str, Any]) -> None:
    case = Case(timeout_s=2, fall=1, **check)
    case.dialer.holds = True
    case.start()
    case.wait(1.5)
    if check:
        case.dialer.let_through()
    case.wait(0.5)
    assert result(case) == ("unhealthy", "timeout after 2 s")


# --- reasons ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (UpstreamConnectFailed("Connection was refused by other side: 111: Connection refused."), "connect refused"),
        (
            UpstreamConnectFailed("An error occurred while connecting: 113: No route to host."),
            "connect failed: no route to host",
        ),
        (UpstreamConnectFailed("something of 10.0.0.1"), "connect failed"),
        (UpstreamNameUnknown("the name has no address"), "name unknown"),
        (UpstreamTimeout("connect timeout"), "connect timeout"),
        (
            UpstreamTlsError("[('SSL routines', '', 'certificate verify failed')]"),
            "TLS handshake failed: certificate verify failed",
        ),
        (
            UpstreamTlsError("VerificationError(errors=[DNSMismatch(mismatched_id=DNS_ID(hostname=b'a'))])"),
            "TLS handshake failed: certificate of another name",
        ),
        (UpstreamTlsError("something with 'a secret'"), "TLS handshake failed"),
        (UpstreamReset("Connection to the other side was lost"), "connection closed before the response was complete"),
        (UpstreamProtocolError("invalid status line b'secret'"), "invalid response"),
    ],
)
def test_reason_is_short_and_without_what_the_target_sent(error: Exception, why: str) -> None:
    with logged() as lines:
        assert verdict_of(Failure(error)) == Verdict(False, why)
    assert lines == []
