from __future__ import annotations

import re
from typing import Any

import pytest
from tests.unit.support import Inner, StubChannel, stub_request
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.web.server import NOT_DONE_YET

from txgateway.errors import BadRequest, RateLimited, RateLimitStoreDown
from txgateway.middleware.rate_limit import RateLimit
from txgateway.ratelimit import Decision, Limit, Limiter
from txgateway.ratelimit.memory import MemoryLimiter
from txgateway.request import GatewayRequest


class Waiting:
    """A limiter that answers when the test wants."""

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self.answers: list[Deferred[Decision]] = []

    def take(self, key: bytes) -> Deferred[Decision]:
        self.answers.append(Deferred())
        return self.answers[-1]


class Fixed:
    """A limiter that always decides the same."""

    def __init__(self, decision: Decision) -> None:
        self.limit = decision.limit
        self.decision = decision
        self.keys: list[bytes] = []

    def take(self, key: bytes) -> Decision:
        self.keys.append(key)
        return self.decision


LIMIT = Limit.of([(2, 1)])
ALLOWED = Decision(LIMIT, True, [500_000])


class Decorated:
    """A middleware with its inner resource and its counts."""

    def __init__(
        self, limiter: Limiter, key: tuple[str, ...] = ("ip",), name: str = "default", route: str = "r"
    ) -> None:
        self.inner = Inner()
        self.counts: list[str] = []
        self.middleware = RateLimit(self.inner, limiter, name, key, route, self.counts.append)

    def render(self, request: GatewayRequest | None = None) -> Any:
        return self.middleware.render(request or stub_request())


def memory(*rates: tuple[int, int], burst: int | None = None) -> MemoryLimiter:
    return MemoryLimiter(Limit.of(rates, burst), Clock().seconds)


def answered(decorated: Decorated, headers: list[tuple[bytes, bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    channel = StubChannel()
    request = stub_request(channel=channel)
    try:
        decorated.render(request)
    except RateLimited as error:
        request.fail(error)
    else:
        request.answer(200, headers, b"")
    head: list[tuple[bytes, bytes]] = channel.events[0][3]
    return head


def limits_in(head: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    return {name: value for name, value in head if b"ratelimit" in name.lower()}


def test_requests_beyond_the_limit_are_refused_with_the_time_to_wait() -> None:
    decorated = Decorated(memory((2, 1)))
    assert [decorated.render() for _ in range(2)] == [1, 1]
    with pytest.raises(RateLimited) as caught:
        decorated.render()
    assert caught.value.retry_after_s == pytest.approx(0.5)
    assert len(decorated.inner.requests) == 2
    assert decorated.counts == ["allowed", "allowed", "limited"]


def test_headers_tell_the_limit_on_allowed_and_refused_answers() -> None:
    decorated = Decorated(memory((5, 60), burst=1), name="orders")
    expected = {
        b"RateLimit-Policy": b'"orders";q=1;w=12',
        b"RateLimit": b'"orders";r=0;t=12',
        b"X-RateLimit-Limit": b"1",
        b"X-RateLimit-Remaining": b"0",
        b"X-RateLimit-Reset": b"12",
    }
    assert limits_in(answered(decorated, [])) == expected
    head = answered(decorated, [])
    assert limits_in(head) == expected
    assert (b"Retry-After", b"12") in head


def test_each_rate_is_a_list_member_and_the_tightest_is_in_the_older_fields() -> None:
    decorated = Decorated(memory((10, 1), (4, 60), (4, 3600)))
    head = limits_in(answered(decorated, []))
    assert head[b"RateLimit-Policy"] == b'"default";q=10;w=1, "default";q=4;w=60, "default";q=4;w=3600'
    assert head[b"RateLimit"] == b'"default";r=9;t=1, "default";r=3;t=15, "default";r=3;t=900'
    assert head[b"X-RateLimit-Limit"] == b"4"
    assert head[b"X-RateLimit-Remaining"] == b"3"
    assert head[b"X-RateLimit-Reset"] == b"900"


def test_fields_of_a_backend_are_replaced_and_others_kept() -> None:
    theirs = [
        (b"ratelimit", b"ratelimit", b"x"), (b"x-ratelimit-limit", b"X-RateLimit-Limit", b"x"),
        (b"x-a", b"X-A", b"1"), (b"ratelimit-policy", b"RATELIMIT-POLICY", b"x"),
        (b"x-ratelimit-reset", b"x-ratelimit-reset", b"x"), (b"x-ratelimit-remaining", b"x-ratelimit-remaining", b"x"),
    ]  # fmt: skip
    head = answered(Decorated(memory((2, 1))), theirs)
    assert head[0] == (b"X-A", b"1")
    assert len(head) == 6
    assert all(value != b"x" for _, value in head)
    assert len(theirs) == 6


@pytest.mark.parametrize(("name", "quoted"), [("a b%d", b'"a b%d"'), ('q"\\', b'"q\\"\\\\"'), ("ä\n", b'"??"')])
def test_name_is_a_structured_field_string(name: str, quoted: bytes) -> None:
    head = limits_in(answered(Decorated(memory((2, 1)), name=name), []))
    assert head[b"RateLimit"] == quoted + b";r=1;t=1"
    assert head[b"RateLimit-Policy"] == quoted + b";q=2;w=1"
    assert re.fullmatch(rb'"(?:[ !#-\[\]-~]|\\["\\])*"', quoted)


def key_of(*parts: str, **changes: Any) -> bytes:
    limiter = Fixed(ALLOWED)
    request = stub_request(fields=changes.pop("fields", None))
    for name, value in changes.items():
        setattr(request, name, value)
    Decorated(limiter, parts).render(request)
    return limiter.keys[0]


def test_address_is_the_key_of_those_without_subject_or_header() -> None:
    assert key_of("ip") == key_of("subject") == key_of("header:x-key") == b"ip=192.0.2.1"
    assert key_of("header:x-key", fields={b"X-Key": b""}) == b"ip=192.0.2.1"
    assert key_of("ip", client_ip=None) == key_of("ip", client_ip="") == b"ip=unknown"
    assert key_of("ip", client_ip="2001:db8::1") == key_of("ip", client_ip="2001:db8::2") == b"ip=2001:db8::/64"


def test_subject_header_and_route_make_keys_of_their_own() -> None:
    assert key_of("subject", subject="u1") == b"subject=u1"
    assert key_of("route") == b"route=r"
    by_header = key_of("header:x-key", fields={b"X-Key": b"u1"})
    assert by_header.startswith(b"header:x-key=#")
    assert key_of("ip", "subject", "header:x-key", "route", subject="u1", fields={b"X-Key": b"u1"}) == b"|".join(
        (b"ip=192.0.2.1", b"subject=u1", by_header, b"route=r")
    )


def test_client_cannot_choose_the_bucket_of_another() -> None:
    assert key_of("subject", subject="ip=192.0.2.1") != key_of("ip")
    assert key_of("subject", "route", subject="a|route=r") != key_of("subject", "route", subject="a") + b"|route=r"


def test_answer_that_comes_later_lets_the_request_go_on() -> None:
    limiter = Waiting(LIMIT)
    decorated = Decorated(limiter)
    request = stub_request()
    assert decorated.render(request) == NOT_DONE_YET
    assert decorated.inner.requests == []
    limiter.answers[0].callback(ALLOWED)
    assert decorated.inner.requests == [request]
    assert decorated.counts == ["allowed"]


def test_refusal_that_comes_later_ends_the_request() -> None:
    limiter = Waiting(LIMIT)
    decorated = Decorated(limiter)
    channel = StubChannel()
    request = stub_request(channel=channel)
    decorated.render(request)
    limiter.answers[0].callback(Decision(LIMIT, False, [0]))
    assert channel.events[0][1] == 429
    assert limits_in(channel.events[0][3])[b"RateLimit"] == b'"default";r=0;t=1'
    assert request.reason == "RATE_LIMITED"
    assert decorated.inner.requests == []
    assert decorated.counts == ["limited"]


def test_client_that_leaves_cancels_the_decision() -> None:
    limiter = Waiting(LIMIT)
    decorated = Decorated(limiter)
    request = stub_request()
    decorated.render(request)
    request.client_gone()
    assert limiter.answers[0].called
    limiter.answers[0].callback(ALLOWED)
    assert decorated.inner.requests == []
    assert decorated.counts == []


def test_without_store_local_decisions_count_twice_and_have_headers() -> None:
    decorated = Decorated(Fixed(Decision(LIMIT, True, [500_000], store_failed=True)))
    assert limits_in(answered(decorated, []))[b"RateLimit"] == b'"default";r=1;t=1'
    assert decorated.counts == ["store_error", "allowed"]


def test_without_store_an_open_limit_admits_without_headers() -> None:
    decorated = Decorated(Fixed(Decision(LIMIT, True, [], store_failed=True)))
    assert answered(decorated, [(b"ratelimit", b"RateLimit", b"theirs")]) == [(b"RateLimit", b"theirs")]
    assert decorated.counts == ["store_error", "allowed"]


def test_without_store_a_closed_limit_refuses_everything() -> None:
    decorated = Decorated(Fixed(Decision(LIMIT, False, [], store_failed=True)))
    with pytest.raises(RateLimitStoreDown):
        decorated.render()
    assert decorated.inner.requests == []
    assert decorated.counts == ["store_error"]


def test_second_line_of_the_header_in_the_key_is_refused() -> None:
    request = stub_request(fields={b"X-Key": b"valid"})
    request.headers = (*request.headers, (b"x-key", b"x-key", b"random"))
    limiter = Fixed(ALLOWED)
    with pytest.raises(BadRequest):
        Decorated(limiter, ("header:x-key",)).render(request)
    assert limiter.keys == []
    Decorated(limiter, ("header:x-other",)).render(request)
    assert limiter.keys == [b"ip=192.0.2.1"]
