"""The gateway in front of targets that speak HTTP/2: by prior knowledge, and by what is agreed on with TLS."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import trustme
from tests.integration import h2_frames as h2
from tests.integration.client import Client, Response
from tests.integration.h2_backend import H2Backend, H2Exchange, echo, reset_with, respond, server_context
from tests.integration.harness import ONE_ATTEMPT, Gateway, routes, wait_until
from tests.integration.problems import assert_problem

BODY = bytes(range(256)) * 1200


@pytest.fixture(scope="module")
def backends(authority: trustme.CA) -> Iterator[dict[str, H2Backend]]:
    """By the name of their route; ``old`` is one that speaks HTTP/1.1 only."""
    with ExitStack() as stack:
        made = {
            "plain": H2Backend(),
            "few": H2Backend(max_streams=2),
            "tls": H2Backend(tls=server_context(authority, "h2", "http/1.1")),
            "old": H2Backend(tls=server_context(authority, "http/1.1")),
            "moody": H2Backend(tls=server_context(authority, "h2", "http/1.1")),
            "well": H2Backend(),
        }
        for backend in made.values():
            stack.enter_context(backend)
        yield made


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory, backends: dict[str, H2Backend], authority: trustme.CA
) -> Iterator[Gateway]:
    directory = tmp_path_factory.mktemp("gateway")
    ca_file = directory / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    tls = {"ca_file": str(ca_file)}
    document = {
        "backends": {
            "plain": {"targets": [backends["plain"].url]},
            "few": {"targets": [backends["few"].url], "pool": {"max_connections": 1, "max_pending": 50}},
            "tls": {"targets": [backends["tls"].url], "tls": tls},
            "old": {"targets": [backends["old"].url], "tls": tls},
            "moody": {"targets": [backends["moody"].url], "tls": tls},
            "well": {
                "targets": [backends["well"].url],
                "health_check": {"path": "/health", "interval": "100ms", "rise": 1, "fall": 1},
            },
        },
        "routes": [{"name": name, "path": f"/{name}", "backend": name, "upgrades": ["websocket"]} for name in backends],
    }
    with Gateway(directory, {**ONE_ATTEMPT, **routes(document)}) as running:
        yield running


@pytest.fixture
def plain(backends: dict[str, H2Backend]) -> Iterator[H2Backend]:
    yield from renewed(backends["plain"])


@pytest.fixture
def few(backends: dict[str, H2Backend]) -> Iterator[H2Backend]:
    yield from renewed(backends["few"])


@pytest.fixture
def tls(backends: dict[str, H2Backend]) -> Iterator[H2Backend]:
    yield from renewed(backends["tls"])


@pytest.fixture
def old(backends: dict[str, H2Backend]) -> Iterator[H2Backend]:
    yield from renewed(backends["old"])


def renewed(backend: H2Backend) -> Iterator[H2Backend]:
    backend.renew()
    yield backend
    assert not backend.faults, backend.faults


def post(gateway: Gateway, path: str, body: bytes) -> Response:
    head = f"POST {path} HTTP/1.1\r\nHost: gateway.test\r\nContent-Length: {len(body)}\r\n\r\n"
    return gateway.ask(head.encode() + body)


def begin(client: Client, path: str) -> None:
    client.send(f"GET {path} HTTP/1.1\r\nHost: gateway.test\r\n\r\n".encode())


# --- which version ----------------------------------------------------------------------------------------------------------


def test_request_by_prior_knowledge(gateway: Gateway, plain: H2Backend) -> None:
    plain.handler = respond(b"hello", 201, ("x-one", "1"))
    response = gateway.get("/plain?x=1", "X-Two: 2")
    assert (response.status, response.body, response.header("X-One")) == (201, b"hello", "1")
    assert response.header("Via") == "2 txgateway"
    received = plain.received()
    assert received.pseudo == {
        ":method": "GET", ":scheme": "http", ":authority": f"127.0.0.1:{plain.port}", ":path": "/plain?x=1",
    }  # fmt: skip
    assert received.header("x-two") == "2"
    assert {"host", "connection", "content-length"}.isdisjoint(name for name, _ in received.fields)


def test_request_by_agreement(gateway: Gateway, tls: H2Backend) -> None:
    response = post(gateway, "/tls", BODY)
    assert (response.status, response.header("Via")) == (200, "2 txgateway")
    received = tls.received()
    assert (received.pseudo[":scheme"], received.body) == ("https", BODY)


def test_target_that_agrees_on_http1(gateway: Gateway, old: H2Backend) -> None:
    connections = set()
    for _ in range(2):
        assert gateway.get("/old").header("Via") == "1.1 txgateway"
        received = old.received_over_http1()
        assert received.target == b"/old"
        connections.add(received.connection)
    assert not old.sessions
    assert len(connections) == 1


# --- one connection for all ---------------------------------------------------------------------------------------------------


def test_many_requests_share_a_connection(gateway: Gateway, plain: H2Backend) -> None:
    go_on = threading.Event()

    def wait(exchange: H2Exchange) -> None:
        exchange.wait_for(go_on)
        exchange.answer(exchange.request.target)

    plain.handler = wait
    with ExitStack() as stack:
        clients = [stack.enter_context(gateway.client()) for _ in range(20)]
        for number, client in enumerate(clients):
            begin(client, f"/plain/{number}")
        assert len({plain.received().connection for _ in clients}) == 1
        go_on.set()
        for number, client in enumerate(clients):
            assert client.read_response().body == b"/plain/%d" % number
    assert plain.most_streams == 20
    gateway.wait_until_free()


def test_limit_of_the_target_is_kept(gateway: Gateway, few: H2Backend) -> None:
    go_on = threading.Event()

    def wait(exchange: H2Exchange) -> None:
        exchange.wait_for(go_on)
        exchange.answer()

    few.handler = wait
    with ExitStack() as stack:
        clients = [stack.enter_context(gateway.client()) for _ in range(12)]
        for client in clients:
            begin(client, "/few")
        wait_until(lambda: gateway.in_use()["pending"] == 10, "10 in the queue")
        go_on.set()
        assert [client.read_response().status for client in clients] == [200] * 12
    assert len({few.received().connection for _ in clients}) == 1
    assert few.most_streams == 2


# --- bodies -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["plain", "tls"])
def test_large_bodies_go_both_ways(gateway: Gateway, backends: dict[str, H2Backend], name: str) -> None:
    backend = backends[name]
    backend.renew()
    backend.handler = respond(BODY * 5)
    response = post(gateway, f"/{name}", BODY * 4)
    assert response.body == BODY * 5
    assert backend.received().body == BODY * 4
    assert not backend.faults


def test_bodies_stream_both_ways_at_once(gateway: Gateway, plain: H2Backend) -> None:
    plain.handler = echo
    with gateway.client() as client:
        client.send(b"POST /plain HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
        assert client.read_head().status == 200
        assert client.read_exactly(8) == b"3\r\none\r\n"
        client.send(b"3\r\ntwo\r\n")
        assert client.read_exactly(8) == b"3\r\ntwo\r\n"
        client.send(b"0\r\n\r\n")
        assert client.read_exactly(5) == b"0\r\n\r\n"


def test_trailers_and_hints(gateway: Gateway, plain: H2Backend) -> None:
    def answer(exchange: H2Exchange) -> None:
        exchange.send_informational(103, ("link", "</a.css>"))
        exchange.read_body()
        exchange.send_head(200)
        exchange.send_data(b"body")
        exchange.send_trailers(("x-sum", "1"))

    plain.handler = answer
    response = gateway.ask(
        b"POST /plain HTTP/1.1\r\nHost: x\r\nTE: trailers\r\nConnection: TE\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"2\r\nhi\r\n0\r\nX-Check: 7\r\n\r\n"
    )
    assert [(one.status, one.header("Link")) for one in response.informational] == [(103, "</a.css>")]
    assert response.body == b"body"
    assert [(name.lower(), value) for name, value in response.trailers] == [("x-sum", "1")]
    received = plain.received()
    assert (received.body, received.trailers) == (b"hi", [("x-check", "7")])


def test_slow_client_holds_up_its_own_stream_only(gateway: Gateway, plain: H2Backend) -> None:
    sent: list[int] = []

    def pour(exchange: H2Exchange) -> None:
        exchange.send_head(200)
        sent.append(exchange.send_while_granted(100 * 2**20))
        exchange.wait_until_left()

    plain.handlers["/plain/much"] = pour
    with Client(gateway.port, receive_bytes=4096) as slow:
        begin(slow, "/plain/much")
        wait_until(lambda: bool(sent), "no more granted")
        assert sent[0] < 20 * 2**20
        plain.handlers["/plain/other"] = respond(BODY * 5)
        assert gateway.get("/plain/other").body == BODY * 5
    gateway.wait_until_free()


# --- other ends ---------------------------------------------------------------------------------------------------------------


def test_refused_stream_is_sent_once_more_and_the_client_does_not_notice(gateway: Gateway, plain: H2Backend) -> None:
    def refuse(exchange: H2Exchange) -> None:
        plain.handler = respond(b"at last")
        exchange.refuse()

    plain.handler = refuse
    response = post(gateway, "/plain", b"once")
    assert (response.status, response.body) == (200, b"at last")
    first, second = plain.received(), plain.received()
    assert first.connection != second.connection
    assert second.body == b"once"
    assert gateway.access_line(response)["attempts"] == 2


def test_request_that_is_refused_by_goaway_is_sent_once_more(gateway: Gateway, plain: H2Backend) -> None:
    def leave(exchange: H2Exchange) -> None:
        exchange.read_body()
        plain.handler = respond(b"elsewhere")
        exchange.session.goaway(exchange.stream - 1)

    plain.handler = leave
    response = post(gateway, "/plain", b"hello")
    assert (response.status, response.body) == (200, b"elsewhere")
    first, second = plain.received(), plain.received()
    assert (first.body, second.body) == (b"hello", b"hello")
    assert first.connection != second.connection


def test_goaway_lets_requests_end_and_moves_the_others(gateway: Gateway, plain: H2Backend) -> None:
    go_on = threading.Event()

    def leave(exchange: H2Exchange) -> None:
        exchange.session.goaway(exchange.stream)
        exchange.wait_for(go_on)
        exchange.answer(b"late")

    plain.handlers["/plain/late"] = leave
    with gateway.client() as client:
        begin(client, "/plain/late")
        late = plain.received()
        wait_until(lambda: bool(gateway.get("/plain")) and plain.received().connection != late.connection, "a move")
        go_on.set()
        assert client.read_response().body == b"late"
    session = next(one for one in plain.sessions if one.number == late.connection)
    wait_until(lambda: session.is_over, "the old connection is closed")


def test_target_that_requires_http1_is_asked_over_that(gateway: Gateway, backends: dict[str, H2Backend]) -> None:
    moody = backends["moody"]
    moody.handler = reset_with(h2.HTTP_1_1_REQUIRED)
    for number in range(2):
        response = post(gateway, "/moody", b"hello")
        assert (response.status, response.header("Via")) == (200, "1.1 txgateway")
        assert gateway.access_line(response)["attempts"] == 2 - number
        if number == 0:
            assert moody.received().version == "HTTP/2"
        received = moody.received_over_http1()
        assert (received.method, received.body) == ("POST", b"hello")
    assert not moody.faults


@pytest.mark.parametrize("name", ["plain", "tls"])
def test_client_that_leaves_resets_its_stream(gateway: Gateway, backends: dict[str, H2Backend], name: str) -> None:
    backend = backends[name]
    backend.renew()
    codes: list[int | None] = []
    backend.handlers[f"/{name}/left"] = lambda exchange: codes.append(exchange.wait_until_left())
    with gateway.client() as client:
        begin(client, f"/{name}/left")
        left = backend.received()
    wait_until(lambda: bool(codes), "the stream is given up")
    assert codes == [h2.CANCEL]
    assert gateway.get(f"/{name}").status == 200
    assert backend.received().connection == left.connection
    gateway.wait_until_free()


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("name", ["plain", "tls"])
def test_target_that_goes_away_abruptly(gateway: Gateway, backends: dict[str, H2Backend], name: str, how: str) -> None:
    backend = backends[name]
    backend.renew()
    backend.handler = lambda exchange: getattr(exchange.session, how)()
    response = post(gateway, f"/{name}", b"hello")
    line = assert_problem(gateway, response, 502, "UPSTREAM_RESET", proxy_error="connection_terminated")
    assert line["attempts"] == 1
    backend.handler = respond()
    assert gateway.get(f"/{name}").status == 200


def test_response_that_breaks_off_is_not_taken_for_whole(gateway: Gateway, plain: H2Backend) -> None:
    go_on = threading.Event()

    def break_off(exchange: H2Exchange) -> None:
        exchange.send_head(200)
        exchange.send_data(b"half")
        exchange.wait_for(go_on)
        exchange.reset()

    plain.handler = break_off
    with gateway.client() as client:
        begin(client, "/plain/half")
        assert client.read_head().status == 200
        go_on.set()
        assert client.is_cut()
    assert gateway.access_line_at("/plain/half")["reason"] == "UPSTREAM_RESET"


def test_malformed_response(gateway: Gateway, plain: H2Backend) -> None:
    plain.handler = lambda exchange: exchange.send_fields([(":status", "200"), ("Connection", "close")], ends=True)
    assert_problem(gateway, gateway.get("/plain"), 502, "UPSTREAM_PROTOCOL_ERROR", proxy_error="http_protocol_error")


# --- health ---------------------------------------------------------------------------------------------------------------------


def test_health_checks(gateway: Gateway, backends: dict[str, H2Backend]) -> None:
    backend = backends["well"]

    def is_well() -> bool:
        return gateway.get("/well").status == 200

    wait_until(is_well, "healthy")
    backend.handlers["/health"] = respond(b"no", 503)
    wait_until(lambda: gateway.get("/well").status == 503, "unhealthy")
    backend.handlers.pop("/health")
    wait_until(is_well, "healthy again")
    assert {received.version for received in (backend.received(), backend.received())} == {"HTTP/2"}
