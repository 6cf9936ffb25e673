"""Who looks at the body of an answer sees what is sent, and knows in the end whether it was all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.unit.support import StubChannel, logged_failures, stub_request

from txgateway.errors import GatewayError, UpstreamReset
from txgateway.middleware import Context, Inner, Middleware
from txgateway.request import GatewayRequest
from txgateway.testing import GatewayHarness, Reset, Response, Stall
from txgateway.transport.interfaces import NO_BODY, UNKNOWN_LENGTH


class Watched:
    """A request with an answer on the way, whose body is looked at."""

    def __init__(self, status: int = 200, **given: Any) -> None:
        self.channel = StubChannel()
        self.request = stub_request(channel=self.channel, **given)
        self.pieces: list[bytes] = []
        self.ends: list[bool] = []
        self.request.on_body(self.look)
        self.request.on_finish(lambda request: self.ends.append(request.is_whole))
        self.request.respond(status, b"", [], UNKNOWN_LENGTH)

    def look(self, request: GatewayRequest, data: bytes) -> None:
        assert request is self.request
        self.pieces.append(data)

    @property
    def sent(self) -> list[bytes]:
        return [event[1] for event in self.channel.events if event[0] == "body"]


def test_pieces_are_seen_in_order_before_they_are_sent() -> None:
    watched = Watched()
    for piece in (b"a", b"", b"bc"):
        watched.request.send_body(piece)
    assert (watched.pieces, watched.request.is_whole) == ([b"a", b"bc"], False)
    watched.request.end([])
    assert (watched.ends, watched.request.bytes_out) == ([True], 3)


def test_last_registered_sees_first_and_fault_keeps_the_piece_back() -> None:
    watched = Watched()
    order = []

    def fail(request: GatewayRequest, data: bytes) -> None:
        order.append(len(watched.pieces))
        if data == b"b":
            raise ValueError("hook")

    watched.request.on_body(fail)
    with logged_failures() as failures:
        for piece in (b"a", b"b"):
            watched.request.send_body(piece)
        watched.request.end([])
    assert (order, watched.pieces, watched.sent, watched.ends) == ([0, 1], [b"a"], [b"a"], [False])
    assert (len(failures), watched.request.reason, watched.channel.names()[-1]) == (1, "INTERNAL_ERROR", "reset")


def test_hook_may_break_the_answer_off_with_an_error() -> None:
    watched = Watched()

    def refuse(request: GatewayRequest, data: bytes) -> None:
        raise UpstreamReset

    watched.request.on_body(refuse)
    with logged_failures() as failures:
        watched.request.send_body(b"a")
    assert (watched.sent, watched.ends, watched.request.reason) == ([], [False], UpstreamReset.reason)
    assert failures == []


@pytest.mark.parametrize(("status", "method"), [(200, b"HEAD"), (304, b"GET"), (204, b"GET")])
def test_answer_without_a_body_shows_none(status: int, method: bytes) -> None:
    watched = Watched(status, method=method)
    watched.request.send_body(b"for nobody")
    watched.request.end([])
    assert (watched.pieces, watched.ends) == ([], [True])


def is_grpc(watched: Watched) -> None:
    watched.request.clientproto, watched.request.fields = b"HTTP/2", {b"content-type": b"application/grpc"}
    watched.request.fail(UpstreamReset())


def ends_short(watched: Watched) -> None:
    watched.channel.ends_well = False
    watched.request.end([])


ENDS: dict[str, Callable[[Watched], None]] = {
    "abort": lambda watched: watched.request.abort(),
    "loseConnection": lambda watched: watched.request.loseConnection(),
    "failure": lambda watched: watched.request.fail(UpstreamReset()),
    "gRPC status": is_grpc,
    "client": lambda watched: watched.request.client_gone(),
    "shorter than declared": ends_short,
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_cut_answer_is_not_whole(end: Callable[[Watched], None]) -> None:
    watched = Watched()
    watched.request.send_body(b"a")
    end(watched)
    assert (watched.pieces, watched.ends, watched.request.is_whole) == ([b"a"], [False], False)


def test_error_and_tunnel_are_no_whole_answers() -> None:
    request = stub_request()
    request.fail(GatewayError())
    tunnel = stub_request()
    tunnel.switch_protocols([], object())  # type: ignore[arg-type]
    tunnel.tunnel_ended(None)
    assert not request.is_whole
    assert not tunnel.is_whole
    whole = stub_request()
    whole.respond(200, b"", [], NO_BODY)
    whole.end([])
    assert whole.is_whole


# --- through the whole gateway --------------------------------------------------------------------------------------


class Keeps(Middleware):
    """Keeps what it sees."""

    def __init__(self, inner: Inner, settings: Any, context: Context) -> None:
        super().__init__(inner, settings, context)
        self.seen: list[tuple[bytes, bool]] = []

    def render(self, request: GatewayRequest) -> Any:
        pieces: list[bytes] = []
        request.on_body(lambda _, data: pieces.append(data))
        request.on_finish(lambda request: self.seen.append((b"".join(pieces), request.is_whole)))
        return self.inner.render(request)


class Writes(Middleware):
    """Sends an empty piece before each other: what once ended a chunked body."""

    def render(self, request: GatewayRequest) -> Any:
        request.respond(200, b"", [], UNKNOWN_LENGTH)
        for piece in (b"", b"ab", b"", b"c"):
            request.send_body(piece)
        request.end([])
        return 1


def test_bodies_through_the_gateway() -> None:
    made: list[Keeps] = []

    def keeps(inner: Inner, context: Context) -> Inner:
        made.append(Keeps(inner, None, context))
        return made[-1]

    with GatewayHarness(middlewares={"keeps": keeps}) as gateway:
        backend, seen = gateway.backends["default"], made[0].seen
        for method, script, due in (
            ("GET", Response(200, [], b"hello"), (b"hello", True)),
            ("GET", Response(200, [], chunks=[b"a", b"bc"]), (b"abc", True)),
            ("HEAD", Response(200, [], b"hello"), (b"", True)),
            ("GET", Response(304, [], b""), (b"", True)),
        ):
            backend.script = script
            gateway.ask(method)
            assert seen.pop() == due
        for cut in (Reset(2, Response(200, [], b"hello")), Stall(2, Response(200, [], b"hello"))):
            backend.script = cut
            call = gateway.start("GET", "/")
            gateway.advance(1.0)
            call.leave()
            gateway.advance(1.0)
            assert seen.pop()[1] is False


def test_empty_pieces_do_not_end_a_chunked_body() -> None:
    with GatewayHarness(middlewares={"writes": lambda inner, context: Writes(inner, None, context)}) as gateway:
        assert gateway.ask().body == b"abc"
