"""The HTTP/2 peers of the tests, with each other: what they say of the gateway is worth as much as this."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator

import pytest
import trustme
from h2.exceptions import NoSuchStreamError
from tests.integration import h2_frames as h2
from tests.integration.h2_backend import H2Backend, H2Exchange, echo, hang, respond, server_context
from tests.integration.h2_client import H2Client
from tests.integration.h2_frames import FrameWire, connected, h2_context
from tests.integration.h2_link import StreamReset
from tests.integration.harness import wait_until
from tests.integration.secure import TlsClient
from tests.integration.wire import ConnectionEnded

Opener = Callable[..., H2Client]
BODY = bytes(range(256)) * 2000


@pytest.fixture(params=["plain", "tls"])
def context(request: pytest.FixtureRequest, authority: trustme.CA) -> ssl.SSLContext | None:
    return h2_context(authority) if request.param == "tls" else None


@pytest.fixture
def backend(context: ssl.SSLContext | None, authority: trustme.CA) -> Iterator[H2Backend]:
    tls = None if context is None else server_context(authority)
    with H2Backend(tls=tls, max_streams=5, takes_connect=True) as running:
        yield running
    assert not running.faults, running.faults


@pytest.fixture
def client(backend: H2Backend, context: ssl.SSLContext | None) -> Iterator[H2Client]:
    with H2Client(backend.port, context, host="127.0.0.1") as connected_client:
        yield connected_client


def test_bodies_trailers_and_informational_responses(backend: H2Backend, client: H2Client) -> None:
    def mirror(exchange: H2Exchange) -> None:
        exchange.send_informational(103, ("link", "</style.css>"))
        exchange.send_head(201, ("x-one", "1"))
        exchange.send_data(exchange.read_body())
        exchange.send_trailers(("x-sum", exchange.request.trailers[0][1]))

    backend.handler = mirror
    stream = client.request("POST", "/mirror?x=1", ("x-two", "2"), ("cookie", "a"), ("cookie", "b"), body=None)
    assert client.informational(stream)[0].header("link") == "</style.css>"
    client.send_data(stream, BODY)
    client.send_trailers(stream, ("x-check", "42"))
    response = client.response(stream)
    assert (response.status, response.header("x-one"), response.trailers) == (201, "1", [("x-sum", "42")])
    assert response.body == BODY
    received = backend.received()
    assert received.pseudo == {
        ":method": "POST", ":scheme": client.scheme, ":authority": "127.0.0.1", ":path": "/mirror?x=1",
    }  # fmt: skip
    assert received.fields == [("x-two", "2"), ("cookie", "a"), ("cookie", "b")]
    assert (received.connection, received.body, received.trailers) == (1, BODY, [("x-check", "42")])


def test_responses_without_a_body(backend: H2Backend, client: H2Client) -> None:
    backend.handlers["/only"] = lambda exchange: exchange.send_head(200, ("grpc-status", "5"), ends=True)
    backend.handlers["/head"] = lambda exchange: exchange.send_head(200, ("content-length", "5"), ends=True)
    assert client.get("/only").headers("grpc-status") == ["5"]
    assert client.get("/head", method="HEAD").body == b""
    assert client.post("/", b"").body == b"ok"
    assert client.post("/", BODY).body == b"ok"
    assert backend.connections == 1


def test_streams_run_side_by_side_up_to_the_limit(backend: H2Backend, client: H2Client) -> None:
    go_on = threading.Event()

    def wait(exchange: H2Exchange) -> None:
        exchange.wait_for(go_on)
        exchange.answer(exchange.request.target)

    backend.handler = wait
    streams = [client.request("GET", f"/{number}") for number in range(5)]
    for _ in streams:
        backend.received()
    go_on.set()
    assert [client.response(stream).body for stream in reversed(streams)] == [b"/4", b"/3", b"/2", b"/1", b"/0"]
    assert backend.most_streams == 5


def test_stalled_stream_stops_its_sender_and_nobody_else(backend: H2Backend, client: H2Client) -> None:
    backend.handlers["/much"] = respond(BODY)
    stream = client.request("GET", "/much")
    client.stall(stream)
    client.body(stream, 65_535)
    assert client.get("/").body == b"ok"
    client.ping()
    assert len(client.streams[stream].body) == 65_535
    client.resume(stream)
    assert client.response(stream).body == BODY


def test_request_that_is_not_read_stops_its_sender(backend: H2Backend, client: H2Client) -> None:
    go_on, taken = threading.Event(), []

    def wait(exchange: H2Exchange) -> None:
        exchange.wait_for(go_on)
        taken.append(len(exchange.read_body()))
        exchange.answer()

    backend.handlers["/slow"] = wait
    stream = client.request("POST", "/slow", body=None)
    assert client.send_while_granted(stream, 10**6, silence_s=0.3) == 65_535
    assert client.post("/", BODY).body == b"ok"
    go_on.set()
    client.send_data(stream, b"!", ends=True)
    client.response(stream)
    assert taken == [65_536]


def test_both_sides_reset_streams(backend: H2Backend, client: H2Client) -> None:
    codes: list[int | None] = []
    backend.handlers["/refused"] = H2Exchange.refuse

    def go_on(exchange: H2Exchange) -> None:
        exchange.send_head()
        codes.append(exchange.wait_until_left())
        exchange.send_data(b"in vain")
        raise AssertionError("not told")

    backend.handlers["/left"] = go_on
    stream = client.request("GET", "/refused")
    with pytest.raises(StreamReset) as caught:
        client.response(stream)
    assert caught.value.code == client.reset_code(stream) == h2.REFUSED_STREAM
    stream = client.request("GET", "/left")
    client.head(stream)
    client.reset_stream(stream, h2.CANCEL)
    client.ping(b"after it")
    assert client.get("/").status == 200
    assert backend.pings == 1
    wait_until(lambda: codes == [h2.CANCEL], "the handler knows")  # it has a thread of its own


def test_goaway_lets_streams_end(backend: H2Backend, client: H2Client) -> None:
    def leave(exchange: H2Exchange) -> None:
        exchange.session.goaway(exchange.stream, h2.NO_ERROR)
        exchange.answer(b"last")
        exchange.session.close()

    backend.handler = leave
    stream = client.request("GET", "/")
    assert client.goaway().last_stream == stream
    assert client.response(stream).body == b"last"
    assert client.is_gone()


@pytest.mark.parametrize("how", ["close", "reset"])
def test_abrupt_ends(backend: H2Backend, client: H2Client, how: str) -> None:
    backend.handler = lambda exchange: getattr(exchange.session, how)()
    stream = client.request("GET", "/")
    with pytest.raises(ConnectionEnded):
        client.response(stream)
    # ssl does not say which of the two it was.
    assert client.ended == ("reset" if how == "reset" and client.scheme == "http" else "end")
    backend.wait_until_closed()


def test_handlers_see_the_client_leave(backend: H2Backend, client: H2Client) -> None:
    backend.handler = hang
    client.request("GET", "/")
    backend.received()
    client.close()
    backend.wait_until_closed()


def test_extended_connect(backend: H2Backend, client: H2Client) -> None:
    backend.handler = echo
    assert client.may_connect
    stream = client.connect("/chat", "websocket", ("sec-websocket-version", "13"))
    assert client.head(stream).status == 200
    for piece in (b"one", b"two"):
        client.send_data(stream, piece)
        client.body(stream, 3)
    client.end(stream)
    assert client.response(stream).body == b"onetwo"
    assert backend.received().pseudo[":protocol"] == "websocket"


def test_frames_of_the_test_s_own(backend: H2Backend, context: ssl.SSLContext | None) -> None:
    with FrameWire(connected(backend.port, context, host="127.0.0.1")) as wire:
        assert wire.greet({h2.INITIAL_WINDOW_SIZE: 1000})[h2.MAX_CONCURRENT_STREAMS] == 5
        wire.send_request(1, "GET", "/", ("x-one", "1"))
        assert wire.read_response(1).body == b"ok"
        wire.send(h2.ping())
        wire.read_ping_ack()
        wire.send(h2.frame(h2.DATA, 0, 3, b"of an idle stream"))
        assert wire.read_goaway().error_code == h2.PROTOCOL_ERROR
        assert wire.is_gone()
    backend.wait_until_closed()
    assert [type(fault) for fault in backend.faults] == [NoSuchStreamError]
    backend.faults.clear()


def test_raw_backend_and_sections_without_memory(authority: trustme.CA) -> None:
    def answer(wire: FrameWire) -> None:
        wire.greet_back({h2.MAX_CONCURRENT_STREAMS: 7})
        request = wire.read_kind(h2.HEADERS)
        block = h2.literal_block([(b":status", b"200"), (b"x-long", b"y" * 300)])
        wire.send(h2.frame(h2.HEADERS, h2.END_HEADERS, request.stream, block))
        wire.send(h2.data_frame(request.stream, b"raw", ends=True))

    with H2Backend() as backend:
        backend.raw = answer
        with H2Client(backend.port) as client:
            response = client.get("/")
        assert (response.body, response.header("x-long")) == (b"raw", "y" * 300)
    assert not backend.faults


def test_early_answer_ends_an_upload(backend: H2Backend, client: H2Client) -> None:
    def refuse(exchange: H2Exchange) -> None:
        exchange.answer(b"no", 413)
        exchange.reset(h2.NO_ERROR)

    backend.handler = refuse
    stream = client.request("POST", "/", body=None)
    with pytest.raises(StreamReset):
        client.send_data(stream, bytes(10**6))
    assert client.response(stream).status == 413
    assert client.reset_code(stream) == h2.NO_ERROR


def test_mute_backend_says_nothing(backend: H2Backend, client: H2Client) -> None:
    def fall_silent(exchange: H2Exchange) -> None:
        exchange.session.is_mute = True

    backend.handler = fall_silent
    client.request("GET", "/")
    backend.received()
    with pytest.raises(TimeoutError):
        client.ping(timeout_s=0.2)


def test_backend_may_choose_http1(authority: trustme.CA) -> None:
    with H2Backend(tls=server_context(authority, "http/1.1")) as backend:
        with TlsClient(backend.port, h2_context(authority, "h2", "http/1.1"), "127.0.0.1") as client:
            assert client.tls.selected_alpn_protocol() == "http/1.1"
            client.send(b"GET /old HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.read_response().body == b"ok"
        assert backend.received_over_http1().target == b"/old"
        assert not backend.sessions
