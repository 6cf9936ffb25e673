from __future__ import annotations

import pytest
from tests.unit.support import Inner, StubChannel, stub_request
from twisted.web.server import NOT_DONE_YET

from txgateway.cors import CorsPolicy
from txgateway.errors import NoRoute, OriginNotAllowed
from txgateway.middleware.cors import Cors, EdgeCors, Preflights

APP = b"https://app.example.com"
EVIL = b"https://evil.example"
ASKS = {b"Host": b"a", b"Access-Control-Request-Method": b"PUT", b"Access-Control-Request-Headers": b"x-a"}


def policy() -> CorsPolicy:
    return CorsPolicy(["https://app.example.com"], ["GET", "PUT"], ["X-A"], max_age_s=60)


def answered(origin: bytes | None, *backend: tuple[bytes, bytes], method: bytes = b"GET") -> list[tuple[bytes, bytes]]:
    """The fields of an ordinary answer."""
    channel, inner = StubChannel(), Inner()
    fields = {b"Host": b"a"} if origin is None else {b"Host": b"a", b"Origin": origin}
    request = stub_request(method, fields=fields, channel=channel)
    Cors(inner, policy()).render(request)
    assert inner.requests == [request]
    request.answer(200, [(name.lower(), name, value) for name, value in backend], b"")
    fields_sent: list[tuple[bytes, bytes]] = channel.events[0][3]
    return fields_sent


@pytest.mark.parametrize("method", [b"GET", b"POST", b"OPTIONS"])
def test_allowed_origin_reads_the_answer(method: bytes) -> None:
    backend = ((b"Vary", b"Accept"), (b"Access-Control-Allow-Origin", b"*"), (b"X-A", b"1"))
    assert answered(APP, *backend, method=method) == [
        (b"Vary", b"Accept, Origin"),
        (b"X-A", b"1"),
        (b"Access-Control-Allow-Origin", APP),
    ]


@pytest.mark.parametrize("origin", [None, EVIL])
def test_other_origin_is_forwarded_and_reads_nothing(origin: bytes | None) -> None:
    assert answered(origin, (b"Access-Control-Allow-Origin", b"*"), (b"X-A", b"1")) == [
        (b"X-A", b"1"),
        (b"Vary", b"Origin"),
    ]


def test_error_can_be_read_by_the_page() -> None:
    channel = StubChannel()
    request = stub_request(fields={b"Host": b"a", b"Origin": APP}, channel=channel)
    Cors(Inner(), policy()).render(request)
    request.fail(NoRoute())
    assert channel.events[0][1] == 404
    assert (b"Access-Control-Allow-Origin", APP) in channel.events[0][3]
    assert (b"Vary", b"Origin") in channel.events[0][3]


def test_origin_that_the_route_takes_out_on_the_way_to_the_backend_still_counts() -> None:
    channel = StubChannel()
    request = stub_request(fields={b"Host": b"a", b"Origin": APP}, channel=channel)
    Cors(Inner(), policy()).render(request)
    request.remove_headers(frozenset((b"origin",)))
    request.answer(200, [], b"")
    assert (b"Access-Control-Allow-Origin", APP) in channel.events[0][3]


def edge(route_name: str | None) -> list[tuple[bytes, bytes]]:
    channel = StubChannel()
    request = stub_request(fields={b"Host": b"a", b"Origin": APP}, channel=channel)
    EdgeCors(Inner(), policy()).render(request)
    request.route_name = route_name
    request.answer(200, [], b"")
    fields: list[tuple[bytes, bytes]] = channel.events[0][3]
    return fields


def test_edge_speaks_only_where_no_route_does() -> None:
    assert edge(None) == [(b"Vary", b"Origin"), (b"Access-Control-Allow-Origin", APP)]
    assert edge("r") == []


def test_edge_passes_preflights_on() -> None:
    inner = Inner()
    request = stub_request(b"OPTIONS", fields={**ASKS, b"Origin": APP})
    EdgeCors(inner, policy()).render(request)
    assert inner.requests == [request]


def test_preflight_is_answered() -> None:
    channel = StubChannel()
    request = stub_request(b"OPTIONS", fields={**ASKS, b"Origin": APP}, channel=channel)
    assert Preflights(policy()).render(request) is NOT_DONE_YET
    assert request.ended
    kind, status, _, fields, length = channel.events[0]
    assert (kind, status, length) == ("head", 204, -1)
    assert dict(fields) == {
        b"Vary": b"Origin, Access-Control-Request-Method, Access-Control-Request-Headers",
        b"Access-Control-Allow-Origin": APP,
        b"Access-Control-Max-Age": b"60",
        b"Access-Control-Allow-Methods": b"GET, PUT",
        b"Access-Control-Allow-Headers": b"X-A",
    }


def test_preflight_of_another_origin_is_refused() -> None:
    channel = StubChannel()
    request = stub_request(b"OPTIONS", fields={**ASKS, b"Origin": EVIL}, channel=channel)
    with pytest.raises(OriginNotAllowed) as raised:
        Preflights(policy()).render(request)
    request.fail(raised.value)
    assert channel.events[0][1] == 403
    assert [name for name, _ in channel.events[0][3]] == [b"Content-Type", b"Vary"]


def test_headers_asked_for_in_several_lines_all_count() -> None:
    channel = StubChannel()
    request = stub_request(b"OPTIONS", fields={**ASKS, b"Origin": APP}, channel=channel)
    request.headers = ((b"access-control-request-headers", b"A", b"x-evil"), *request.headers)
    Preflights(policy()).render(request)
    assert b"Access-Control-Allow-Headers" not in dict(channel.events[0][3])
