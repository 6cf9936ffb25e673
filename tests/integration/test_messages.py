"""HTTP/1.1 between client, gateway and backend: what passes, in which form, and when a connection lives on."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing
from email.utils import parsedate_to_datetime

import pytest
from tests.integration.backend import OK, Exchange, ScriptedBackend, answer, answer_and_close, hang
from tests.integration.harness import Gateway, routes
from tests.integration.problems import assert_problem

EMPTY = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, module_backend: ScriptedBackend) -> Iterator[Gateway]:
    document = {
        "backends": {"main": {"targets": [module_backend.url]}},
        "routes": [
            {"name": "main", "path": "/", "backend": "main"},
            {"name": "small", "path": "/small", "backend": "main", "max_body_bytes": "1MiB"},
            {"name": "fixed", "path": "/fixed", "response": {"body": "fixed"}},
        ],
    }
    with Gateway(tmp_path_factory.mktemp("gateway"), routes(document)) as running:
        yield running


# --- Expect: 100-continue ----------------------------------------------------------------------------------------------

EXPECTING = b"POST %b HTTP/1.1\r\nHost: %b\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n"


def test_admitted_request_is_invited_by_the_gateway_itself(gateway: Gateway, backend: ScriptedBackend) -> None:
    with gateway.client() as client:
        client.send(EXPECTING % (b"/x", b"x", 3))
        head = client.read_head()
        assert (head.status, head.fields) == (100, [])
        client.send(b"abc")
        response = client.read_response()
    received = backend.received()
    assert (response.status, response.informational) == (200, [])
    assert (received.body, received.headers("Expect")) == (b"abc", [])


@pytest.mark.parametrize(
    ("path", "host", "length", "status"),
    [(b"/small", b"x", 2**21, 413), (b"/%00", b"x", 3, 400), (b"/x", b"a b", 3, 400)],
)
def test_refused_request_is_not_invited(
    gateway: Gateway, backend: ScriptedBackend, path: bytes, host: bytes, length: int, status: int
) -> None:
    with gateway.client() as client:
        client.send(EXPECTING % (path, host, length))
        response = client.read_response()
        assert (response.status, response.informational) == (status, [])
        assert response.header("Connection") == "close"
        assert client.is_at_end()
    assert not backend.has_received()


def test_body_that_comes_uninvited_is_taken_without_invitation(gateway: Gateway, backend: ScriptedBackend) -> None:
    response = gateway.ask(EXPECTING % (b"/x", b"x", 3) + b"abc")
    assert (response.status, response.informational) == (200, [])
    assert backend.received().body == b"abc"


def test_backends_own_100_is_not_relayed(gateway: Gateway, backend: ScriptedBackend) -> None:
    backend.script = answer(b"HTTP/1.1 100 Continue\r\n\r\n" + OK)
    assert gateway.ask(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\na").informational == []


def test_early_refusal_can_be_read_by_a_client_that_is_still_sending(
    gateway: Gateway, backend: ScriptedBackend
) -> None:
    size = 8 * 2**20
    with gateway.client() as client:
        client.send(b"POST /small HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size)
        client.send(b"x" * size)  # a reset would break this, or lose the answer
        response = client.read_response()
        assert client.is_at_end()
    assert_problem(gateway, response, 413, "BODY_TOO_LARGE", closes=True)


def test_backends_early_answer_to_an_unfinished_upload_reaches_the_client(
    gateway: Gateway, backend: ScriptedBackend
) -> None:
    def refuse(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
        exchange.wait_until_left()

    backend.script = refuse
    with gateway.client() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n\r\nabc")
        response = client.read_response()
        assert (response.status, response.body, response.header("Connection")) == (403, b"no", "close")
        assert client.is_at_end()
    backend.wait_until_closed()
    gateway.wait_until_free()


# --- keeping the connection --------------------------------------------------------------------------------------------


def test_connection_serves_one_request_after_the_other(gateway: Gateway, backend: ScriptedBackend) -> None:
    with gateway.client() as client:
        for number in range(3):
            client.send(b"POST /%d HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi" % number)
            response = client.read_response()
            assert (response.status, response.header("Connection")) == (200, None)


@pytest.mark.parametrize(
    ("version", "connection", "kept", "said"),
    [
        (b"1.1", b"close", False, "close"),
        (b"1.1", b"Keep-Alive, CLOSE", False, "close"),
        (b"1.1", b"keep-alive", True, None),
        (b"1.0", b"", False, "close"),
        (b"1.0", b"keep-alive", True, "keep-alive"),
    ],
)
def test_connection_is_kept_as_version_and_field_say(
    gateway: Gateway, backend: ScriptedBackend, version: bytes, connection: bytes, kept: bool, said: str | None
) -> None:
    field = b"Connection: %b\r\n" % connection if connection else b""
    with gateway.client() as client:
        client.send(b"GET / HTTP/%b\r\nHost: x\r\n%b\r\n" % (version, field))
        response = client.read_response()
        assert (response.status, response.body, response.header("Connection")) == (200, b"ok", said)
        if kept:
            client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.read_response().status == 200
        else:
            assert client.is_at_end()
    received = backend.received()
    assert (received.version, received.headers("Connection")) == ("HTTP/1.1", [])
    assert received.header("Via") == f"{version.decode()} txgateway"


def test_http_1_0_client_gets_a_body_of_unknown_length_until_the_end(
    gateway: Gateway, backend: ScriptedBackend
) -> None:
    backend.script = answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n")
    with gateway.client() as client:
        client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        response = client.read_response()
    assert (response.header("Transfer-Encoding"), response.header("Connection")) == (None, "close")
    assert response.body == b"abc"
    assert gateway.access_line(response)["protocol"] == "HTTP/1.0"


def test_backends_connection_fields_stay_between_it_and_the_gateway(gateway: Gateway, backend: ScriptedBackend) -> None:
    backend.script = answer_and_close(
        b"HTTP/1.1 200 OK\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nContent-Length: 0\r\n\r\n"
    )
    with gateway.client() as client:
        for _ in range(2):
            client.send(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: X-Mine\r\nX-Mine: 1\r\nKeep-Alive: 1\r\n\r\n")
            response = client.read_response()
            assert not response.headers("Connection") + response.headers("X-Hop") + response.headers("Keep-Alive")
    first, second = backend.received(), backend.received()
    assert first.connection != second.connection
    assert not first.headers("X-Mine") + first.headers("Keep-Alive") + first.headers("Connection")


def test_pipelined_requests_are_answered_in_order_bodies_included(gateway: Gateway, backend: ScriptedBackend) -> None:
    def echo(exchange: Exchange) -> None:
        body = exchange.request.target + b":" + exchange.read_body()
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    backend.script = echo
    chunked = b"POST /2 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    with gateway.client() as client:
        client.send(
            b"GET /0 HTTP/1.1\r\nHost: x\r\n\r\n"
            b"POST /1 HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nGET" + chunked + b"GET /nope%00 HTTP/1.1\r\n"
            b"Host: x\r\n\r\nGET /fixed HTTP/1.1\r\nHost: x\r\n\r\nHEAD /3 HTTP/1.1\r\nHost: x\r\n\r\n"
            b"GET /4 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\nGET /5 HTTP/1.1\r\nHost: x\r\n\r\n"
        )
        assert [client.read_response().body for _ in range(3)] == [b"/0:", b"/1:GET", b"/2:abc"]
        assert client.read_response().status == 400
        assert client.read_response().body == b"fixed"
        assert client.read_response("HEAD").header("Content-Length") == "3"
        assert client.read_response().body == b"/4:"
        assert client.is_at_end()


def test_more_pipelined_requests_than_one_read_holds(gateway: Gateway, backend: ScriptedBackend) -> None:
    count = 400
    one = b"GET /fixed/%03d HTTP/1.1\r\nHost: x\r\nX-Padding: " + b"p" * 400 + b"\r\n\r\n"
    with gateway.client() as client:
        client.send(b"".join(one % number for number in range(count)))
        for _ in range(count):
            assert client.read_response().body == b"fixed"
    lines = [line["path"] for line in gateway.lines if str(line.get("path")).startswith("/fixed/")]
    assert lines == sorted(lines)


# --- bodies and no bodies ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "sent", "status", "length"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n", 200, "1234"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 200, None),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", 204, None),
        ("GET", b'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\nContent-Length: 99\r\n\r\n', 304, "99"),
    ],
)
def test_answer_without_body_leaves_both_connections_usable(
    gateway: Gateway, backend: ScriptedBackend, method: str, sent: bytes, status: int, length: str | None
) -> None:
    backend.script = answer(sent)
    with gateway.client() as client:
        client.send(b"%b / HTTP/1.1\r\nHost: x\r\n\r\n" % method.encode())
        response = client.read_response(method)
        assert (response.status, response.header("Content-Length"), response.body) == (status, length, b"")
        backend.script = answer()
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.read_response().body == b"ok"
    assert backend.received().connection == backend.received().connection


def test_body_until_the_end_of_the_connection_becomes_chunks(gateway: Gateway, backend: ScriptedBackend) -> None:
    backend.script = answer_and_close(b"HTTP/1.0 200 OK\r\n\r\nall of it")
    with gateway.client() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        response = client.read_response()
        assert (response.header("Transfer-Encoding"), response.body) == ("chunked", b"all of it")
        assert response.header("Via") == "1.0 txgateway"
        client.send(b"GET /fixed HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.read_response().body == b"fixed"


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "GET", "OPTIONS"])
def test_body_keeps_its_length_with_every_method(gateway: Gateway, backend: ScriptedBackend, method: str) -> None:
    gateway.ask(b"%b / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc" % method.encode())
    received = backend.received()
    assert (received.method, received.header("Content-Length"), received.body) == (method, "3", b"abc")


@pytest.mark.parametrize(("fields", "lengths"), [(b"", []), (b"Content-Length: 0\r\n", ["0"])])
def test_no_body_and_an_empty_one_are_told_apart(
    gateway: Gateway, backend: ScriptedBackend, fields: bytes, lengths: list[str]
) -> None:
    gateway.ask(b"POST / HTTP/1.1\r\nHost: x\r\n" + fields + b"\r\n")
    received = backend.received()
    assert (received.headers("Content-Length"), received.headers("Transfer-Encoding")) == (lengths, [])


def test_trailers_pass_in_both_directions_but_not_those_that_would_be_headers(
    gateway: Gateway, backend: ScriptedBackend
) -> None:
    backend.script = answer(
        b"HTTP/1.1 200 OK\r\nTrailer: Digest\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"2\r\nok\r\n0\r\nDiGest: d\r\nSet-Cookie: a=b\r\nContent-Length: 5\r\n\r\n"
    )
    with gateway.client() as client:
        client.send(
            b"POST / HTTP/1.1\r\nHost: x\r\nTE: trailers, deflate\r\nConnection: TE\r\nTrailer: X-Sum\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
        )
        received = backend.received()
        client.send(b"0\r\nX-Sum: 6\r\nHost: evil\r\nAuthorization: evil\r\n\r\n")
        response = client.read_response()
    assert (response.header("Trailer"), response.trailers) == ("Digest", [("DiGest", "d")])
    assert (received.body, received.trailers) == (b"abc", [("X-Sum", "6")])
    assert (received.header("TE"), received.header("Trailer")) == ("trailers", "X-Sum")


def test_trailers_of_a_request_that_comes_in_one_piece(gateway: Gateway, backend: ScriptedBackend) -> None:
    gateway.ask(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 6\r\n\r\n")
    received = backend.received()
    assert (received.body, received.trailers) == (b"abc", [("X-Sum", "6")])


def test_early_hints_are_relayed_when_they_come(gateway: Gateway, backend: ScriptedBackend) -> None:
    def hint_and_wait(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nConnection: x\r\n\r\n")
        assert go_on.recv(1)
        exchange.send(EMPTY)

    backend.script = hint_and_wait
    go_on, told = socket.socketpair()
    with closing(go_on), closing(told), gateway.client() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        head = client.read_head()
        assert (head.status, head.fields) == (103, [("Link", "</a.css>; rel=preload")])
        told.send(b"x")
        assert client.read_response().status == 200
    backend.script = answer(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n" + EMPTY)
    assert gateway.ask(b"GET / HTTP/1.0\r\n\r\n").informational == []


# --- targets and fields --------------------------------------------------------------------------------------------------


def test_options_of_the_server_are_answered_by_the_gateway(gateway: Gateway, backend: ScriptedBackend) -> None:
    response = gateway.get("*", method="OPTIONS")
    assert response.status == 204
    assert gateway.access_line(response)["path"] == "*"
    assert not backend.has_received()
    assert gateway.get("/x", method="OPTIONS").status == 200
    assert backend.received().method == "OPTIONS"


def test_absolute_form_becomes_origin_form_and_its_authority_the_host(
    gateway: Gateway, backend: ScriptedBackend
) -> None:
    response = gateway.get("HTTP://real.test:81/a//b?x=1", host="other.test")
    received = backend.received()
    assert received.target == b"/a//b?x=1"
    assert received.header("X-Forwarded-Host") == "real.test:81"
    assert gateway.access_line(response)["host"] == "real.test:81"
    gateway.get("http://real.test?x")
    assert backend.received().target == b"/?x"


def test_fields_pass_in_order_and_as_spelled(gateway: Gateway, backend: ScriptedBackend) -> None:
    fields = [("x-LOWER", "1"), ("X-Twice", "a"), ("X-Empty", ""), ("x-twice", "b"), ("X-Bytes", "\xe9\xff"),
              ("ETag", '"q"'), ("X-Spaces", "a   b")]  # fmt: skip
    lines = [f"{name}: {value}" for name, value in fields]
    backend.script = answer(
        "\r\n".join(("HTTP/1.1 299 Very Fine", *lines, "Content-Length: 0", "", "")).encode("latin-1")
    )
    response = gateway.get("/", *lines)
    names = {name for name, _ in fields}
    assert [field for field in backend.received().fields if field[0] in names] == fields
    assert [field for field in response.fields if field[0] in names] == fields
    assert (response.status, response.reason) == (299, "Very Fine")


def test_answers_carry_date_via_and_id_and_no_name_of_ours(gateway: Gateway, backend: ScriptedBackend) -> None:
    response = gateway.get("/")
    assert parsedate_to_datetime(response.header("Date") or "").tzinfo is not None
    assert response.header("Via") == "1.1 txgateway"
    assert response.header("Server") is None
    backend.script = answer(
        b"HTTP/1.1 200 OK\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\nVia: 1.1 other\r\nServer: s\r\n"
        b"X-Request-ID: theirs\r\nContent-Length: 0\r\n\r\n"
    )
    response = gateway.get("/")
    assert response.header("Date") == "Thu, 01 Jan 1970 00:00:00 GMT"
    assert ", ".join(response.headers("Via")) == "1.1 other, 1.1 txgateway"
    assert response.header("Server") == "s"
    assert response.header("X-Request-ID") not in {"theirs", None}


def test_te_other_than_trailers_does_not_pass(gateway: Gateway, backend: ScriptedBackend) -> None:
    gateway.get("/", "TE: gzip", "Connection: TE")
    received = backend.received()
    assert received.headers("TE") + received.headers("Connection") == []


# --- the limit on connections ----------------------------------------------------------------------------------------------


def test_connections_beyond_the_limit_are_closed_at_once(
    tmp_path_factory: pytest.TempPathFactory, backend: ScriptedBackend
) -> None:
    environment = {"GATEWAY_BACKEND_TARGET": backend.url, "GATEWAY_MAX_CONNECTIONS": "2"}
    with Gateway(tmp_path_factory.mktemp("gateway"), environment) as gateway:
        with gateway.client() as first, gateway.client() as second:
            for client in (first, second):
                client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                assert client.read_response().status == 200
            with gateway.client() as third:
                assert third.is_gone()
            assert gateway.metric("gateway_connections", protocol="h1") == 2
            second.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert second.read_response().status == 200
            second.close()
            gateway.wait_for_metric("gateway_connections", 1, protocol="h1")
            assert gateway.get("/").status == 200
        assert gateway.metric("gateway_connections_refused_total") == 1


def test_hanging_backend_does_not_hold_up_other_connections(gateway: Gateway, backend: ScriptedBackend) -> None:
    backend.script = hang
    with gateway.client() as waiting:
        waiting.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        backend.received()
        backend.script = answer()
        assert gateway.get("/").status == 200
    gateway.wait_until_free()


# --- what the gateway answers itself, too, is asked for in HTTP/1.1 -----------------------------------------------------


@pytest.mark.parametrize("path", [b"/health/live", b"/health/ready", b"/fixed"])
def test_request_without_host_is_refused_whoever_would_answer_it(gateway: Gateway, path: bytes) -> None:
    with gateway.client() as client:
        client.send(b"GET %b HTTP/1.1\r\n\r\n" % path)
        response = client.read_response()
        assert_problem(gateway, response, 400, "BAD_HOST", closes=True)
        assert client.is_at_end()
    with gateway.client() as client:
        client.send(b"GET %b HTTP/1.0\r\n\r\n" % path)
        assert client.read_response().status == 200
