"""Traffic over TLS: all that is true of a plain connection is true of one over TLS."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator

import pytest
import trustme
from tests.integration.backend import Exchange, ScriptedBackend, answer_and_close, answer_and_reset
from tests.integration.client import Client
from tests.integration.harness import ONE_ATTEMPT, PATIENCE_S, Gateway, Line, routes, wait_until
from tests.integration.secure import HOST, TlsClient, certificate_variables, client_context, get_over_tls

MIB = 2**20
GET = b"GET / HTTP/1.1\r\nHost: gateway.test\r\n\r\n"
GET_10 = b"GET / HTTP/1.0\r\nHost: gateway.test\r\n\r\n"
CLOSE_DELIMITED = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
BOTH = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory, module_backend: ScriptedBackend, authority: trustme.CA
) -> Iterator[Gateway]:
    directory = tmp_path_factory.mktemp("gateway")
    document = {
        "backends": {"main": {"targets": [module_backend.url]}},
        "routes": [
            {"name": "main", "path": "/", "backend": "main", "upgrades": ["echo"]},
            {"name": "small", "path": "/small", "backend": "main", "max_body_bytes": "1KiB"},
        ],
    }
    environment = {
        **ONE_ATTEMPT, **routes(document), **certificate_variables(directory, authority),
        "GATEWAY_MAX_BODY_BYTES": "0", "GATEWAY_HEADER_TIMEOUT": "1s",
    }  # fmt: skip
    with Gateway(directory, environment) as running:
        yield running
        assert "Traceback" not in running.output_text


@pytest.fixture
def context(authority: trustme.CA) -> ssl.SSLContext:
    return client_context(authority)


@pytest.fixture
def client(gateway: Gateway, context: ssl.SSLContext) -> Iterator[TlsClient]:
    with TlsClient(gateway.port, context) as connected:
        yield connected


# --- what is negotiated ----------------------------------------------------------------------------------------------------


@BOTH
def test_request_over_tls_is_forwarded_as_such(
    gateway: Gateway, backend: ScriptedBackend, context: ssl.SSLContext, version: ssl.TLSVersion
) -> None:
    context.minimum_version = context.maximum_version = version
    response = get_over_tls(gateway, context, "/a", "X-Forwarded-Proto: http", "X-Forwarded-Port: 1")
    assert response.status == 200
    assert response.header("Strict-Transport-Security") == "max-age=31536000; includeSubDomains"
    request = backend.received()
    assert request.header("X-Forwarded-Proto") == "https"
    assert request.header("X-Forwarded-Port") == str(gateway.port)
    assert request.header("Forwarded") == "for=127.0.0.1;host=gateway.test;proto=https"
    assert request.header("X-Forwarded-Client-Cert") is None
    assert gateway.access_line(response)["client_ip"] == "127.0.0.1"


def test_client_of_http_1_1_gets_it(gateway: Gateway, backend: ScriptedBackend, context: ssl.SSLContext) -> None:
    context.set_alpn_protocols(["http/1.1"])
    with TlsClient(gateway.port, context) as client:
        assert client.tls.selected_alpn_protocol() == "http/1.1"
        client.send(GET)
        assert client.read_response().status == 200


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_old_version_is_refused(gateway: Gateway, context: ssl.SSLContext, version: ssl.TLSVersion) -> None:
    context.minimum_version = context.maximum_version = version
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError, match=r"(?i)version"):
        TlsClient(gateway.port, context)


@pytest.mark.parametrize("suites", ["AES128-GCM-SHA256:AES256-SHA", "ECDHE-ECDSA-AES128-SHA:ECDHE-RSA-AES256-SHA"])
def test_weak_suites_are_refused(gateway: Gateway, context: ssl.SSLContext, suites: str) -> None:
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(f"{suites}:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError, match=r"(?i)handshake"):
        TlsClient(gateway.port, context)


@BOTH
def test_session_is_resumed(
    gateway: Gateway, backend: ScriptedBackend, context: ssl.SSLContext, version: ssl.TLSVersion
) -> None:
    context.minimum_version = context.maximum_version = version
    with TlsClient(gateway.port, context) as first:
        first.send(GET)
        assert first.read_response().status == 200  # by now there is a ticket
        session = first.tls.session
    with TlsClient(gateway.port, context, session=session) as second:
        assert second.tls.session_reused
        second.send(GET)
        assert second.read_response().status == 200


@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl command")
def test_second_handshake_is_refused(gateway: Gateway) -> None:
    asked = subprocess.Popen(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{gateway.port}", "-tls1_2", "-servername", HOST],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    patience = threading.Timer(PATIENCE_S, asked.kill)
    patience.start()
    with asked:
        assert asked.stdin is not None
        asked.stdin.write(b"R\n")
        asked.stdin.flush()
        assert asked.stdout is not None
        said = asked.stdout.read()  # it gives up by itself
    patience.cancel()
    assert b"RENEGOTIATING" in said
    assert b"no renegotiation" in said


# --- messages ----------------------------------------------------------------------------------------------------------------


@BOTH
def test_body_of_small_records_passes_both_ways(
    gateway: Gateway, backend: ScriptedBackend, context: ssl.SSLContext, version: ssl.TLSVersion
) -> None:
    context.minimum_version = context.maximum_version = version
    body = bytes(range(256)) * (MIB // 256)

    def echo(exchange: Exchange) -> None:
        sent = exchange.read_body()
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(sent))
        for start in range(0, len(sent), 700):
            exchange.send(sent[start : start + 700])

    backend.script = echo
    with TlsClient(gateway.port, context) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body))
        for start in range(0, len(body), 500):
            client.send(body[start : start + 500])
        assert client.read_response("POST").body == body


def test_stream_passes_as_it_comes_in_both_directions(backend: ScriptedBackend, client: TlsClient) -> None:
    def echo_chunks(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while piece := exchange.read_chunk():
            exchange.send(b"%x\r\n%b\r\n" % (len(piece), piece.upper()))
        exchange.request.trailers = exchange.read_fields()
        exchange.send(b"0\r\nX-Sum: 1\r\n\r\n")

    backend.script = echo_chunks
    client.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert client.read_head().status == 200
    for piece in (b"one", b"two", b"three"):
        client.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        assert client.read_chunk() == piece.upper()
    client.send(b"0\r\nX-Up: 1\r\nX-Forwarded-Client-Cert: Hash=1\r\nX_Forwarded_Client_Cert: Hash=2\r\n\r\n")
    assert client.read_chunk() == b""
    assert client.read_fields() == [("X-Sum", "1")]
    assert backend.received().trailers == [("X-Up", "1")]


def test_connection_is_kept_and_pipelined_requests_are_answered_in_order(
    backend: ScriptedBackend, client: TlsClient
) -> None:
    def tell(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n" + exchange.request.target)

    backend.script = tell
    for _ in range(2):
        client.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % number for number in range(9)))
        assert [client.read_response().body for _ in range(9)] == [b"/%d" % number for number in range(9)]


def test_slow_client_holds_up_the_backend_and_takes_no_memory(
    gateway: Gateway, backend: ScriptedBackend, context: ssl.SSLContext
) -> None:
    size, taken = 64 * MIB, []

    def pour(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        first = exchange.send_while_taken(bytes(MIB), size)
        taken.append(first)
        exchange.send(bytes(size - first))

    backend.script = pour
    before = gateway.resident_bytes()
    with TlsClient(gateway.port, context, receive_bytes=65536) as client:
        client.send(GET)
        head = client.read_head()
        wait_until(lambda: bool(taken), "the backend is held up")
        assert taken[0] < 40 * MIB
        assert gateway.resident_bytes() - before < 12 * MIB
        body, _ = client.read_body(head)
        assert len(body) == size


def test_early_answer_to_an_unfinished_upload_is_read(backend: ScriptedBackend, client: TlsClient) -> None:
    client.send(b"POST /small HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
    client.send(b"1000\r\n" + bytes(4096) + b"\r\n")
    for _ in range(8 * 16):  # much more than the kernels take while nobody reads
        client.send(b"10000\r\n" + bytes(65536) + b"\r\n")
    response = client.read_response("POST")
    assert (response.status, response.header("Connection")) == (413, "close")
    assert client.is_at_end()


def test_head_that_is_too_slow_is_told_so(client: TlsClient) -> None:
    client.send(b"GET / HTTP/1.1\r\nHost: ")
    response = client.read_response()
    assert response.status == 408
    assert client.is_at_end()


def test_probe_answers_over_tls_and_the_admin_port_stays_plain(gateway: Gateway, context: ssl.SSLContext) -> None:
    assert get_over_tls(gateway, context, "/health/ready").status == 200
    assert gateway.admin("/health/ready").status == 200


# --- ends -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("request_bytes", [GET_10, GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")])
def test_close_is_clean(backend: ScriptedBackend, client: TlsClient, request_bytes: bytes) -> None:
    client.send(request_bytes)
    assert client.read_response().status == 200
    assert client.is_at_end()


def test_body_that_ends_with_the_connection_ends_cleanly(backend: ScriptedBackend, client: TlsClient) -> None:
    backend.script = answer_and_close(CLOSE_DELIMITED + b"all of it")
    client.send(GET_10)
    assert client.read_response().body == b"all of it"


@pytest.mark.parametrize("head", [CLOSE_DELIMITED, b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"])
@pytest.mark.parametrize("request_bytes", [GET, GET_10])
def test_response_that_the_backend_breaks_off_does_not_look_whole(
    gateway: Gateway, backend: ScriptedBackend, client: TlsClient, head: bytes, request_bytes: bytes
) -> None:
    backend.script = answer_and_reset(head + b"half")
    client.send(request_bytes)
    assert client.read_head().status == 200
    assert client.is_cut()


def test_client_that_says_goodbye_takes_its_request_along(
    gateway: Gateway, backend: ScriptedBackend, client: TlsClient
) -> None:
    backend.script = lambda exchange: exchange.wait_until_left()
    client.send(GET)
    backend.received()
    client.tls.settimeout(5)
    with pytest.raises((ssl.SSLError, OSError)):
        client.tls.unwrap()  # which is not answered: nothing whole has come
    backend.wait_until_closed()
    gateway.wait_until_free()


def test_client_that_resets_takes_its_request_along(
    gateway: Gateway, backend: ScriptedBackend, context: ssl.SSLContext
) -> None:
    backend.script = lambda exchange: exchange.wait_until_left()
    client = TlsClient(gateway.port, context)
    client.send(GET)
    backend.received()
    client.reset()
    backend.wait_until_closed()
    gateway.wait_until_free()


# --- tunnels -----------------------------------------------------------------------------------------------------------------

SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n"
UPGRADE = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"


def shout(exchange: Exchange) -> None:
    exchange.send(SWITCH)
    while data := exchange.read_some():
        exchange.send(data.upper())
    exchange.close()


def test_tunnel_carries_bytes_both_ways(gateway: Gateway, backend: ScriptedBackend, client: TlsClient) -> None:
    backend.script = shout
    client.send(UPGRADE + b"early")
    assert client.read_head().status == 101
    assert client.read_exactly(5) == b"EARLY"
    for _ in range(3):
        client.send(b"a" * 100_000)
        assert client.read_exactly(100_000) == b"A" * 100_000
    assert gateway.metric("gateway_connections", protocol="tunnel") == 1
    client.close()
    backend.wait_until_closed()


def test_tunnel_that_the_backend_closes_ends_cleanly(backend: ScriptedBackend, client: TlsClient) -> None:
    backend.script = answer_and_close(SWITCH + b"last words")
    client.send(UPGRADE)
    assert client.read_head().status == 101
    assert client.read_to_end() == b"last words"


# --- what is no handshake --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [GET, b"\x16\x03\x01\x02\x00garbage" + bytes(600), bytes(100), b"\x16"])
def test_what_is_no_handshake_is_closed_and_counted(gateway: Gateway, backend: ScriptedBackend, data: bytes) -> None:
    before = gateway.metric("gateway_tls_handshake_failures_total")
    with Client(gateway.port) as client:
        client.send(data)
        assert client.is_gone()
    gateway.wait_for_metric("gateway_tls_handshake_failures_total", before + 1)
    assert not backend.has_received()


def test_client_that_never_finishes_its_handshake_is_closed(gateway: Gateway, context: ssl.SSLContext) -> None:
    before = gateway.metric("gateway_tls_handshake_failures_total")
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    half = context.wrap_bio(incoming, outgoing, server_hostname=HOST)
    with pytest.raises(ssl.SSLWantReadError):
        half.do_handshake()
    with Client(gateway.port) as silent, Client(gateway.port) as started:
        started.send(outgoing.read())
        assert silent.is_gone()
        assert started.is_gone()
    gateway.wait_for_metric("gateway_tls_handshake_failures_total", before + 2)


def test_connection_that_only_looks_is_no_failure(gateway: Gateway, context: ssl.SSLContext) -> None:
    before = gateway.metric("gateway_tls_handshake_failures_total")
    Client(gateway.port).close()
    assert get_over_tls(gateway, context, "/health/live").status == 200
    assert gateway.metric("gateway_tls_handshake_failures_total") == before


def test_failures_are_logged_now_and_then(gateway: Gateway) -> None:
    def told() -> list[Line]:
        return [line for line in gateway.lines if line["event"] == "TLS handshake failed"]

    before = len(told())
    for _ in range(30):
        with Client(gateway.port) as client:
            client.send(GET)
            assert client.is_gone()
    lines = told()
    assert lines
    assert len(lines) - before < 10
    assert lines[0].keys() >= {"problem", "client_ip", "unsaid"}
    assert all("traceback" not in line for line in lines)
