"""What gRPC says in header fields, and what becomes of it: times, repetitions, the length of silences."""

from __future__ import annotations

import math
import re

import pytest
from tests.helpers.http2_client import POST, Http2Client
from tests.integration.h2_frames import INTERNAL_ERROR, data_frame
from tests.unit.proxy.test_attempts_http2 import Http2Gateway
from tests.unit.support import MemoryClient, message

from txgateway.proxy.breaker import BreakerState
from txgateway.proxy.grpc import is_unavailable, pushback_s, timeout_s
from txgateway.transport.interfaces import NO_BODY, UNKNOWN_LENGTH, Header

GRPC = b"Content-Type: application/grpc"
UNAVAILABLE = ("grpc-status", "14")


def called(*fields: bytes, body: bytes = b"hello") -> bytes:
    return message(b"/", GRPC, *fields, b"Content-Length: %d" % len(body), method=b"POST", body=body)


def gateway_of(**environment: str) -> Http2Gateway:
    values = {"RETRY_MAX_ATTEMPTS": "3", "RETRY_ON": "grpc-unavailable", **environment}
    return Http2Gateway(1, 100, **values)


def told(gateway: Http2Gateway) -> list[str | None]:
    """The timeout of each call that reached the target, in order; all of them, if there are more."""
    calls = [one for far in gateway.targets for _, one in sorted(far.requests.items())]
    return [",".join(value for name, value in one.ordinary if name == "grpc-timeout") or None for one in calls]


def answer(gateway: Http2Gateway, *fields: tuple[str, str], ends: bool = True, status: str = "200") -> int:
    """Answer the newest call with a head; returns its stream."""
    (far,) = gateway.targets
    stream = max(far.requests)
    far.link.send_headers(stream, [(":status", status), ("content-type", "application/grpc"), *fields], ends=ends)
    gateway.turn()
    return stream


def status_of(client: MemoryClient) -> tuple[bytes | None, bytes | None]:
    response = client.response()
    assert response.status == 200
    return response.get(b"grpc-status"), response.get(b"grpc-message")


def wait(gateway: Http2Gateway, seconds: float) -> None:
    for _ in range(round(seconds * 10)):
        gateway.wait(0.1)
        gateway.turn()


# --- what the fields say ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"2H", 7200.0), (b"3M", 180.0), (b"4S", 4.0), (b"250m", 0.25), (b"250u", 0.00025), (b"5n", 5e-9),
        (b"0S", 0.0), (b"99999999H", 99999999 * 3600.0),
        (b"123456789S", None), (b"-1S", None), (b"1.5S", None), (b"S", None), (b"1", None), (b"1s", None),
        (b"1h", None), (b" 1S", None), (b"1S ", None), (b"", None), (b"1SS", None), (b"\xb2S", None),
    ],
)  # fmt: skip
def test_timeout_is_a_number_of_eight_digits_with_a_unit(value: bytes, expected: float | None) -> None:
    assert timeout_s(value) == (None if expected is None else pytest.approx(expected, rel=1e-12, abs=0))


def fields_of(name: bytes, *values: bytes) -> list[Header]:
    return [(b"x", b"X", b"14"), *((name, name, value) for value in values)]


@pytest.mark.parametrize(
    ("values", "length", "expected"),
    [
        ([b"14"], NO_BODY, True),
        ([b"14"], UNKNOWN_LENGTH, False),  # messages follow, and the status that counts
        ([b"14"], 5, False),
        ([b"0"], NO_BODY, False),
        ([b"4"], NO_BODY, False),
        ([b"14", b"14"], NO_BODY, False),
        ([], NO_BODY, False),
    ],
)
def test_unavailable_is_a_head_that_is_all(values: list[bytes], length: int, expected: bool) -> None:
    assert is_unavailable(fields_of(b"grpc-status", *values), length) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], 0.0), ([b"0"], 0.0), ([b"1500"], 1.5), ([b"10", b"20"], 0.02),
        ([b"-1"], math.inf), ([b""], math.inf), ([b"soon"], math.inf), ([b"1.5"], math.inf), ([b"9" * 400], math.inf),
    ],
)  # fmt: skip
def test_server_says_when_or_that_not_at_all(values: list[bytes], expected: float) -> None:
    assert pushback_s(fields_of(b"grpc-retry-pushback-ms", *values)) == expected


# --- repetitions --------------------------------------------------------------------------------------------------


def test_each_attempt_is_given_what_is_left_of_the_time() -> None:
    gateway = gateway_of()
    client = gateway.ask(called(b"grpc-timeout: 2S", b"X-Kept: 1"))
    assert told(gateway) == ["2S"]
    for _ in range(2):
        wait(gateway, 0.5)
        answer(gateway, UNAVAILABLE)
        wait(gateway, 0.1)  # the retry is a call of the clock
    first, *later = told(gateway)
    assert first == "2S"
    left_ms = [int(found[1]) for value in later if (found := re.fullmatch("([0-9]+)m", value or ""))]
    assert left_ms == [pytest.approx(1500, abs=2), pytest.approx(900, abs=2)]
    assert dict(gateway.targets[0].requests[5].ordinary)["x-kept"] == "1"
    answer(gateway, ("grpc-status", "0"))
    assert status_of(client) == (b"0", None)
    gateway.assert_clean()


@pytest.mark.parametrize("value", [b"99999999H", b"later", b"2"])
def test_time_that_is_no_number_or_beyond_them_is_passed_on_as_it_is(value: bytes) -> None:
    gateway = gateway_of()
    client = gateway.ask(called(b"grpc-timeout: " + value))
    wait(gateway, 0.5)
    answer(gateway, UNAVAILABLE)
    wait(gateway, 0.1)
    assert told(gateway) == [value.decode()] * 2
    answer(gateway, ("grpc-status", "0"))
    assert status_of(client)[0] == b"0"
    gateway.assert_clean()


def test_first_attempt_is_not_given_the_time_that_the_call_has_waited() -> None:
    gateway = gateway_of(BULKHEAD_MAX_CONCURRENT="1", BULKHEAD_MAX_QUEUE="1", BULKHEAD_QUEUE_TIMEOUT="5s")
    first = gateway.ask(called())
    second = gateway.ask(called(b"grpc-timeout: 3S"))
    wait(gateway, 1)
    answer(gateway, ("grpc-status", "0"))
    wait(gateway, 0.1)
    assert told(gateway) == [None, "2000m"]
    answer(gateway, ("grpc-status", "0"))
    assert (status_of(first)[0], status_of(second)[0]) == (b"0", b"0")


@pytest.mark.parametrize(("ms", "is_repeated"), [("800", True), ("-1", False), ("5000", False)])
def test_pushback_is_obeyed(ms: str, is_repeated: bool) -> None:
    gateway = gateway_of(TIMEOUT_TOTAL="3s")
    client = gateway.ask(called())
    answer(gateway, UNAVAILABLE, ("grpc-retry-pushback-ms", ms))
    wait(gateway, 0.7)
    assert len(told(gateway)) == 1
    if is_repeated:
        assert not gateway.log
        wait(gateway, 0.2)
        assert len(told(gateway)) == 2
        answer(gateway, ("grpc-status", "0"))
    assert status_of(client)[0] == (b"0" if is_repeated else b"14")
    gateway.assert_clean()


def test_call_that_is_longer_than_what_is_kept_of_it_is_not_repeated() -> None:
    gateway = gateway_of(RETRY_MAX_BODY="4")
    client = gateway.ask(called())
    answer(gateway, UNAVAILABLE)
    wait(gateway, 0.1)
    assert (status_of(client)[0], len(told(gateway))) == (b"14", 1)
    assert gateway.metrics.retries("b").counts["body_too_large"] == 1


def test_unavailable_is_no_fault_of_the_target() -> None:
    gateway = gateway_of(RETRY_MAX_ATTEMPTS="2", BREAKER_FAILURES="2")
    for _ in range(4):
        client = gateway.ask(called())
        for _ in range(2):
            answer(gateway, UNAVAILABLE)
            wait(gateway, 0.1)
        assert status_of(client)[0] == b"14"
    assert len(told(gateway)) == 8


def test_other_words_do_not_mean_unavailable() -> None:
    gateway = gateway_of(RETRY_ON="connect,reset,200,5xx,refused_stream")  # 200 is noted, but this is a POST
    client = gateway.ask(called())
    answer(gateway, UNAVAILABLE)
    wait(gateway, 0.1)
    assert (status_of(client)[0], len(told(gateway))) == (b"14", 1)
    gateway.assert_clean()


def test_status_in_a_head_with_messages_is_not_the_call_s() -> None:
    gateway = gateway_of()
    client = gateway.ask(called())
    stream = answer(gateway, UNAVAILABLE, ends=False)
    gateway.targets[0].link.connection.send_data(stream, b"message", end_stream=True)
    gateway.turn()
    wait(gateway, 0.1)
    assert (client.response().body, len(told(gateway))) == (b"message", 1)
    gateway.assert_clean()


# --- times --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("waits_for", ["head", "retry"])
def test_deadline_ends_the_call_wherever_it_is(waits_for: str) -> None:
    gateway = gateway_of(RETRY_BACKOFF="100s", RETRY_BACKOFF_MAX="100s", TIMEOUT_TOTAL="0")
    client = gateway.ask(called(b"grpc-timeout: 500m"))
    if waits_for == "retry":
        answer(gateway, UNAVAILABLE)
    wait(gateway, 0.4)
    assert not gateway.log
    wait(gateway, 0.2)
    assert status_of(client) == (b"4", b"DEADLINE_EXCEEDED")
    assert gateway.log[-1].reason == "DEADLINE_EXCEEDED"
    gateway.assert_clean()


def test_call_that_is_over_has_no_deadline() -> None:
    gateway = gateway_of()
    client = gateway.ask(called(b"grpc-timeout: 500m"))
    answer(gateway, ("grpc-status", "0"))
    wait(gateway, 1)
    assert status_of(client)[0] == b"0"
    assert gateway.log[-1].reason is None
    gateway.assert_clean()


def test_streams_that_fall_silent_say_nothing_against_the_target() -> None:
    gateway = gateway_of(BREAKER_FAILURES="1", TIMEOUT_IDLE="1s")
    gateway.ask(called())
    stream = answer(gateway, ends=False)
    wait(gateway, 1.3)
    assert gateway.log[-1].reason == "UPSTREAM_TIMEOUT"
    assert gateway.targets[0].requests[stream].reset is not None
    (target,) = gateway.backends["b"].targets
    assert target.breaker.state_at(gateway.clock.seconds()) is BreakerState.CLOSED
    assert (target.in_flight, target.metrics.outcomes["timeout"]) == (0, 1)
    gateway.assert_clean()


def test_stream_of_another_kind_that_falls_silent_does() -> None:
    gateway = gateway_of(BREAKER_FAILURES="1", TIMEOUT_IDLE="1s")
    gateway.ask()
    answer(gateway, ends=False)
    wait(gateway, 1.3)
    (target,) = gateway.backends["b"].targets
    assert target.breaker.state_at(gateway.clock.seconds()) is BreakerState.OPEN


@pytest.mark.parametrize(("kind", "is_stalled"), [(GRPC, False), (b"Content-Type: application/grpc-web", True)])
def test_pause_between_messages_is_not_a_body_that_stalls(kind: bytes, is_stalled: bool) -> None:
    gateway = gateway_of(BODY_TIMEOUT="1s", TIMEOUT_IDLE="5s")
    client = gateway.ask(message(b"/", kind, b"Transfer-Encoding: chunked", method=b"POST") + b"1\r\na\r\n")
    wait(gateway, 1.5)
    assert bool(gateway.log) == is_stalled
    if not is_stalled:
        wait(gateway, 4)
        assert status_of(client) == (b"2", b"REQUEST_TIMEOUT")
    gateway.assert_clean()


def test_message_of_a_declared_length_that_breaks_off_is_the_target_s_reset() -> None:
    gateway = gateway_of()
    client = Http2Client(gateway)  # type: ignore[arg-type]
    client.request(1, [*POST, (b"content-type", b"application/grpc"), (b"te", b"trailers")])
    gateway.turn()
    stream = answer(gateway, ("content-length", "10"), ends=False)
    gateway.targets[0].link.connection.send_data(stream, b"half ")
    gateway.turn()
    gateway.targets[0].link.connection.reset_stream(stream, INTERNAL_ERROR)
    gateway.turn()
    client.look()
    assert (client.body(), client.resets()) == (b"half ", {1: INTERNAL_ERROR})
    assert gateway.log[-1].reason == "UPSTREAM_RESET"


def test_repeated_call_says_no_more_than_the_first() -> None:
    """A field of framing would be metadata to the server."""
    gateway = gateway_of()
    client = Http2Client(gateway)  # type: ignore[arg-type]
    client.request(1, [*POST, (b"content-type", b"application/grpc"), (b"te", b"trailers")], ends=False)
    client.send(data_frame(1, b"hello", ends=True))
    gateway.turn()
    answer(gateway, UNAVAILABLE)
    gateway.turn()
    first, second = [sorted(one.ordinary) for far in gateway.targets for one in far.requests.values()]
    assert first == second
    assert "content-length" not in dict(first)
