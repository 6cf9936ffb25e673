"""How connections over TLS end, and what does not change while they last."""

from __future__ import annotations

import gc
import hmac
import re
import ssl
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from OpenSSL import SSL
from tests.helpers.tls import MemoryTlsClient, TlsServer, client_context, key_pair
from tests.unit.support import MemoryTransport, logged_failures, message, read_responses

from txgateway.transport.http1_server import LINGER_S
from txgateway.transport.interfaces import UNKNOWN_LENGTH, ServerLimits
from txgateway.transport.server_contexts import ServerContexts, TlsPolicy
from txgateway.transport.server_tls import UNREAD_BYTES

GET = message(b"/")
GET_10 = b"GET / HTTP/1.0\r\n\r\n"
POST = message(b"/", b"Content-Length: 100000", method=b"POST")


@pytest.fixture(scope="module")
def contexts(authority: trustme.CA) -> ServerContexts:
    return ServerContexts([key_pair("a", authority.issue_cert("a.example"))], TlsPolicy())


@pytest.fixture
def server(contexts: ServerContexts) -> TlsServer:
    """Keeps requests for the test to answer."""
    return TlsServer(contexts, limits=ServerLimits(header_timeout_s=10, keepalive_timeout_s=75))


@pytest.fixture
def client(server: TlsServer, authority: trustme.CA) -> MemoryTlsClient:
    return MemoryTlsClient(server, client_context(authority))


def answer(request: Any) -> None:
    request.answer(200, [], b"ok")


def statuses(data: bytes) -> list[int]:
    return [response.status for response in read_responses(data, [b"GET"])]


@pytest.mark.parametrize("request_bytes", [GET_10, message(b"/", b"Connection: close")])
def test_close_is_an_alert_and_a_close(contexts: ServerContexts, authority: trustme.CA, request_bytes: bytes) -> None:
    server = TlsServer(contexts, dispatch=answer)
    client = MemoryTlsClient(server, client_context(authority))
    client.send(request_bytes)
    assert statuses(client.received()) == [200]
    assert client.ended == "clean"
    assert client.transport.closed
    assert not client.transport.aborted
    assert not server.factory.connections


@pytest.mark.parametrize("length", [UNKNOWN_LENGTH, 5])
@pytest.mark.parametrize("head", [GET, GET_10])
def test_answer_that_is_cut_has_no_closing_alert(
    server: TlsServer, client: MemoryTlsClient, head: bytes, length: int
) -> None:
    client.send(head)
    server.request.respond(200, b"", [], length)
    server.request.send_body(b"half")
    server.request.flush()
    server.request.abort()
    server.clock.advance(0)
    assert b"half" in client.received()
    assert client.ended == ""
    assert client.transport.aborted
    assert not server.factory.connections


def test_client_that_says_goodbye_amid_its_answer_is_gone(server: TlsServer, client: MemoryTlsClient) -> None:
    client.send(GET_10)
    request = server.request
    request.respond(200, b"", [], UNKNOWN_LENGTH)
    request.send_body(b"half")
    request.flush()
    client.say_goodbye()
    assert (request.ended, request.reason) == (True, "CLIENT_GONE")
    assert client.transport.closed
    client.received()
    assert client.ended == ""


def test_client_that_says_goodbye_between_requests_gets_one_back(server: TlsServer, client: MemoryTlsClient) -> None:
    client.say_goodbye()
    assert client.received() == b""
    assert client.ended == "clean"
    assert client.transport.closed
    assert not client.transport.aborted


def test_goodbye_behind_a_request_is_the_client_gone(server: TlsServer, client: MemoryTlsClient) -> None:
    data = client.records(GET)
    with pytest.raises(ssl.SSLWantReadError):
        client.tls.unwrap()
    client.transport.send(data + client._outgoing.read())
    server.clock.advance(0)
    assert server.request.reason == "CLIENT_GONE"
    assert client.transport.closed


def test_goodbye_while_the_answer_waits_for_the_client_is_the_end(server: TlsServer, client: MemoryTlsClient) -> None:
    client.send(GET)
    client.transport.takes = False
    server.request.answer(200, [], b"x" * 100_000)
    client.say_goodbye()
    assert client.transport.aborted
    assert not server.factory.connections


def test_broken_record_ends_the_connection(server: TlsServer, client: MemoryTlsClient) -> None:
    client.send(GET)
    with logged_failures() as failures:
        client.transport.send(b"\x17\x03\x03\x00\x20" + b"x" * 32)
        server.clock.advance(0)
    assert server.request.reason == "CLIENT_GONE"
    assert client.transport.closed
    assert not server.factory.connections
    assert not failures
    assert server.failed == 0  # the handshake was all right


def test_reset_is_the_client_gone(server: TlsServer, client: MemoryTlsClient) -> None:
    client.send(GET)
    with logged_failures() as failures:
        client.transport.reset()
    assert server.request.reason == "CLIENT_GONE"
    assert not failures


def test_early_answer_is_read_before_the_upload_is_dropped(server: TlsServer, client: MemoryTlsClient) -> None:
    client.send(POST + b"x" * 1000)
    server.request.answer(413, [], b"too large")
    assert statuses(client.received()) == [413]
    assert client.ended == "clean"
    assert client.transport.half_closed
    assert not client.transport.closed
    server.wait(LINGER_S + 1.5)
    assert client.transport.closed
    assert not server.wheel._fine


def test_upload_behind_an_early_answer_is_read_and_dropped(server: TlsServer, client: MemoryTlsClient) -> None:
    client.send(POST + b"x" * 1000)
    server.request.answer(413, [], b"")
    for _ in range(99):
        client.transport.send(client.records(b"x" * 1000))
    assert client.transport.is_reading
    assert client.connection._discarded == 99_000
    client.transport.end()
    assert client.transport.closed
    assert not server.factory.connections


def test_fault_in_the_gateway_cuts_the_connection(contexts: ServerContexts, authority: trustme.CA) -> None:
    def fault(request: Any) -> None:
        raise ZeroDivisionError

    server = TlsServer(contexts, dispatch=fault)
    client = MemoryTlsClient(server, client_context(authority))
    with logged_failures() as failures:
        client.send(GET)
    assert len(failures) == 1
    client.received()
    assert client.ended == ""
    assert client.transport.aborted


def test_idle_client_that_does_not_take_its_goodbye_is_cut(server: TlsServer, client: MemoryTlsClient) -> None:
    client.transport.takes = False
    server.wait(76)
    assert not client.transport.closed
    server.wait(160)  # it moved once, when the goodbye was written
    assert client.transport.aborted


# --- renegotiation --------------------------------------------------------------------------------------------------------


def test_second_handshake_is_refused(contexts: ServerContexts) -> None:
    server = TlsServer(contexts, dispatch=answer)
    protocol, transport = server.open()
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_max_proto_version(SSL.TLS1_2_VERSION)
    client = SSL.Connection(context)
    client.set_connect_state()

    def shake_hands() -> None:
        for _ in range(4):
            try:
                client.do_handshake()
            except SSL.WantReadError:
                travel(client, transport)
            else:
                travel(client, transport)
                return

    shake_hands()
    client.send(GET)
    travel(client, transport)
    assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
    assert client.renegotiate()
    with pytest.raises(SSL.Error) as caught:
        shake_hands()
    assert caught.value.args[0][-1][2] == "no renegotiation"
    assert protocol._tlsConnection.total_renegotiations() == 0


def travel(client: Any, transport: MemoryTransport) -> None:
    with suppress(SSL.WantReadError):
        transport.send(client.bio_read(65536))
    if data := transport.received():
        client.bio_write(data)


# --- updates of keys ------------------------------------------------------------------------------------------------------


def key_updates(secret: bytes, count: int) -> bytes:
    """Records that ask for new keys, each under the keys of the one before (RFC 8446 sections 4.6.3, 5.2 and 7.2)."""

    def derived(label: bytes, size: int) -> bytes:
        info = size.to_bytes(2, "big") + bytes([6 + len(label)]) + b"tls13 " + label + b"\0"
        return hmac.digest(secret, info + b"\1", "sha384")[:size]

    records = []
    for _ in range(count):
        head, update = b"\x17\x03\x03" + (5 + 1 + 16).to_bytes(2, "big"), b"\x18\x00\x00\x01\x01" + b"\x16"
        records.append(head + AESGCM(derived(b"key", 32)).encrypt(derived(b"iv", 12), update, head))
        secret = derived(b"traffic upd", 48)
    return b"".join(records)


@pytest.mark.parametrize("listens", [True, False])
def test_client_that_asks_for_ever_new_keys_and_does_not_listen_is_cut(
    contexts: ServerContexts, authority: trustme.CA, tmp_path: Path, listens: bool
) -> None:
    context = client_context(authority)
    context.keylog_filename = str(tmp_path / "keys")
    client = MemoryTlsClient(TlsServer(contexts), context)
    cipher = client.tls.cipher()
    assert cipher is not None
    assert cipher[0] == "TLS_AES_256_GCM_SHA384"
    (secret,) = re.findall(r"CLIENT_TRAFFIC_SECRET_0 \w+ (\w+)", (tmp_path / "keys").read_text(encoding="ascii"))
    client.received()
    client.transport.takes = listens
    answer_bytes = len(key_updates(bytes(48), 1))
    updates = key_updates(bytes.fromhex(secret), 2 * UNREAD_BYTES // answer_bytes)
    for start in range(0, len(updates), 100 * answer_bytes):
        client.transport.send(updates[start : start + 100 * answer_bytes])
        if client.transport.aborted:
            break
        assert len(client.transport.unsent) <= UNREAD_BYTES
    assert client.transport.aborted is not listens
    if listens:
        assert len(client.transport.received()) > UNREAD_BYTES


# --- what is swapped while it is in use --------------------------------------------------------------------------------------


def test_old_connections_keep_what_new_ones_no_longer_get(authority: trustme.CA) -> None:
    pairs = [key_pair(name, authority.issue_cert(name)) for name in ("default.example", "a.example")]
    server = TlsServer(ServerContexts(pairs, TlsPolicy()), dispatch=answer)
    old = weakref.ref(server.contexts)
    context = client_context(authority)
    first, amid = MemoryTlsClient(server, context), MemoryTlsClient(server, context, shakes_hands=False)
    new = [key_pair("new", authority.issue_cert("a.example", "new.example"))]
    server.contexts = ServerContexts(new, TlsPolicy())
    gc.collect()
    amid.shake_hands()
    later = MemoryTlsClient(server, context, "new.example")
    for client, names in ((first, 1), (amid, 1), (later, 2)):
        client.send(GET)
        assert statuses(client.received()) == [200]
        certificate = client.tls.getpeercert()
        assert certificate is not None
        assert len(certificate["subjectAltName"]) == names
    # Their callbacks must outlive every connection that may call them, and nothing else.
    gc.collect()
    assert old() is not None
    for client in (first, amid):
        client.say_goodbye()
    del first, amid, client
    gc.collect()
    assert old() is None
