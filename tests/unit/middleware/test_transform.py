from __future__ import annotations

import pytest
from tests.unit.support import Inner, MemoryGateway, StubChannel, message, read_responses, stub_request

from txgateway.middleware.transform import HeaderTransform, PathTransform
from txgateway.request import GatewayRequest


def moved(target: bytes, strip: int, rewrite: str = "", parameters: dict[str, bytes] | None = None) -> bytes | None:
    request = stub_request(target=target)
    request.upstream_target = target
    request.path = target.partition(b"?")[0]
    request.path_parameters = parameters or {}
    inner = Inner()
    PathTransform(inner, strip, rewrite).render(request)
    assert inner.requests == [request]
    return request.upstream_target


@pytest.mark.parametrize(
    ("target", "strip", "result"),
    [
        (b"/a/b/c?q=/", 1, b"/b/c?q=/"),
        (b"/a/b/c", 2, b"/c"),
        (b"/a", 1, b"/"),
        (b"/a/", 1, b"/"),
        (b"/a?q", 1, b"/?q"),
        (b"//a//b", 1, b"/b"),
        (b"/a//b//c", 1, b"/b//c"),
        (b"/a%2f/b", 1, b"/b"),
        (b"/a%2Fb/c", 1, b"/b/c"),
        (b"/a%2fb%2Fc", 2, b"/c"),
        (b"/a;x/b", 1, b"/b"),
        (b"/a/%2e%2", 0, b"/a/%2e%2"),
    ],
)
def test_prefix_is_stripped_by_segments_and_the_rest_kept_to_the_byte(target: bytes, strip: int, result: bytes) -> None:
    assert moved(target, strip) == result


@pytest.mark.parametrize(
    ("rewrite", "result"),
    [
        ("/new", b"/new?q=1"),
        ("/u/{id}/x", b"/u/a%2Fb/x?q=1"),
        ("/{id}{id}", b"/a%2Fba%2Fb?q=1"),
        ("/ä b", b"/%C3%A4%20b?q=1"),
    ],
)
def test_path_is_rewritten_and_the_query_kept(rewrite: str, result: bytes) -> None:
    assert moved(b"/users/x?q=1", 0, rewrite, {"id": b"a%2Fb"}) == result


def changed(fields: dict[bytes, bytes]) -> GatewayRequest:
    request = stub_request(fields=fields)
    HeaderTransform(Inner(), {"X-Env": "prod"}, ("X-Debug",), {}, ()).render(request)
    return request


def test_request_fields_are_set_and_removed() -> None:
    request = changed({b"Host": b"a", b"x-env": b"evil", b"X-DEBUG": b"1", b"X-Other": b"2"})
    assert list(request.headers) == [
        (b"host", b"Host", b"a"),
        (b"x-other", b"X-Other", b"2"),
        (b"x-env", b"X-Env", b"prod"),
    ]
    assert request.fields == {b"host": b"a", b"x-other": b"2", b"x-env": b"prod"}


def test_client_cannot_spell_around_what_is_set_or_removed() -> None:
    fields = {b"X.Env": b"evil", b"x_debug": b"1", b"Connection": b"X-Env, X-More", b"X-More": b"2", b"X-Other": b"3"}
    assert changed(fields).fields == {b"x-other": b"3", b"x-env": b"prod"}


def test_response_fields_are_set_and_removed_before_the_head() -> None:
    channel = StubChannel()
    request = stub_request(channel=channel)
    HeaderTransform(Inner(), {}, (), {"X-Env": "prod"}, ("Server",)).render(request)
    request.answer(200, [(b"server", b"SERVER", b"x"), (b"x-env", b"x-env", b"y"), (b"x-a", b"X-A", b"1")], b"")
    assert channel.events[0][3] == [(b"X-A", b"1"), (b"X-Env", b"prod")]


TRANSFORMING = {
    "backends": {"b": {"targets": ["http://target"]}},
    "routes": [
        {
            "name": "r",
            "path": "/",
            "backend": "b",
            "request_headers": {"set": {"X-Env": "prod"}, "remove": ["X-Debug"]},
        }
    ],
}


@pytest.mark.parametrize(
    "connection",
    [(b"Connection: X-Env",), (b"Connection: X-Env", b"Connection: keep-alive"), (b"connection: TE, x-ENV",)],
)
def test_client_cannot_take_a_field_away_that_the_route_sets(connection: tuple[bytes, ...]) -> None:
    gateway = MemoryGateway(document=TRANSFORMING)
    gateway.get(b"/", *connection, b"Connection: X-Hop", b"X-Hop: 1", b"X-Env: mine", b"X-Kept: 1")
    received = gateway.target.received()
    assert b"X-Hop" not in received
    assert b"\r\nX-Env: prod\r\n" in received
    assert b"mine" not in received
    assert b"\r\nX-Kept: 1\r\n" in received


def test_fields_set_for_one_request_are_not_set_twice_on_the_next() -> None:
    gateway = MemoryGateway(document=TRANSFORMING)
    client = gateway.connect()
    for number in range(3):
        client.send(message(b"/%d" % number, b"X-Debug: 1", b"X-Env: mine"))
        received = gateway.target.received()
        assert received.count(b"X-Env") == 1
        assert b"X-Debug" not in received
        gateway.target.answer()
    assert len(read_responses(client.received())) == 3
