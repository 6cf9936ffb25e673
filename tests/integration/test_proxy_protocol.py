"""Balancers that say by the PROXY protocol whose a connection is, in front of a gateway that expects it."""

from __future__ import annotations

import os
import signal
import socket
import ssl
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
import trustme
from tests.helpers.proxy_protocol import LOCAL, SIGNATURE, tlv, v1, v2, v2_of, v2_with_checksum
from tests.integration.backend import ScriptedBackend
from tests.integration.client import Client, Response
from tests.integration.harness import Gateway, run, wait_until
from tests.integration.secure import TlsClient, certificate_variables, client_context
from tests.integration.wire import TIMEOUT_S

REFUSED = "gateway_proxy_headers_refused_total"
PLAIN = "haproxy:tcp:0:interface=127.0.0.1;plain"
LISTEN = (
    rf"haproxy:tcp:0:interface=127.0.0.1 {PLAIN} haproxy:tcp6:0:interface=\:\:1;plain tcp:0:interface=127.0.0.1;plain"
)
TRUSTED = "127.0.0.1, ::1, 203.0.113.0/24"
GET = b"GET / HTTP/1.1\r\nHost: gateway.test\r\n"
CLAIMS = b"X-Forwarded-For: 192.0.2.66\r\nX-Forwarded-Proto: https\r\nX-Real-IP: 192.0.2.66\r\n"

#: A header, the client's address, and the port that it has connected to; none where the connection's own are kept.
HEADERS = [
    pytest.param(v1("192.0.2.1"), "192.0.2.1", 443, id="v1-ipv4"),
    pytest.param(v1("2001:db8::1", "2001:db8::9", (1, 8443)), "2001:db8::1", 8443, id="v1-ipv6"),
    pytest.param(v2("192.0.2.1", ports=(1, 8443)), "192.0.2.1", 8443, id="v2-ipv4"),
    pytest.param(v2("2001:db8::1"), "2001:db8::1", 443, id="v2-ipv6"),
    pytest.param(v2("::ffff:192.0.2.1"), "192.0.2.1", 443, id="v2-mapped"),
    pytest.param(v2_with_checksum("192.0.2.1", tlv(0xEA, b"\x01vpce-1")), "192.0.2.1", 443, id="v2-of-a-cloud"),
    pytest.param(v2("192.0.2.1", tlvs=tlv(4, bytes(4000))), "192.0.2.1", 443, id="v2-long"),
    pytest.param(b"PROXY UNKNOWN\r\n", None, None, id="v1-unknown"),
    pytest.param(LOCAL, None, None, id="v2-local"),
]
NO_HEADERS = [
    pytest.param(GET + b"\r\n", id="request"),
    pytest.param(b"\x16\x03\x01\x02\x00" + bytes(600), id="tls"),
    pytest.param(v1("192.0.2.1").replace(b"TCP4", b"TCP6"), id="malformed-v1"),
    pytest.param(b"PROXY " + b"x" * 200, id="long-v1"),
    pytest.param(v2_of(0x21, 0x12, bytes(12)), id="datagrams"),
    pytest.param(v2_with_checksum("192.0.2.1")[:-1] + b"?", id="wrong-checksum"),
]


def ports_of(gateway: Gateway) -> list[int]:
    """Of the traffic listeners, in their order."""
    return [line["port"] for line in gateway.lines if line.get("listener") == "traffic"]


@pytest.fixture(scope="module")
def context(authority: trustme.CA) -> ssl.SSLContext:
    return client_context(authority)


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory, module_backend: ScriptedBackend, authority: trustme.CA
) -> Iterator[Gateway]:
    directory = tmp_path_factory.mktemp("gateway")
    environment = {
        "GATEWAY_BACKEND_TARGET": module_backend.url, "GATEWAY_LISTEN": LISTEN, "GATEWAY_TRUSTED_PROXIES": TRUSTED,
        **certificate_variables(directory, authority),
    }  # fmt: skip
    with Gateway(directory, environment) as running:
        yield running


def connected(port: int, host: str = "127.0.0.1") -> socket.socket:
    sock = socket.create_connection((host, port), TIMEOUT_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def ask(port: int, header: bytes, fields: bytes = b"") -> Response:
    """One request behind a header, all of it sent at once."""
    with Client(port) as client:
        client.send(header + GET + fields + b"\r\n")
        return client.read_response()


def ask_over_tls(port: int, context: ssl.SSLContext, header: bytes, fields: bytes = b"") -> Response:
    """One request over TLS, with a header beneath it."""
    sock = connected(port)
    sock.sendall(header)
    with TlsClient(sock, context) as client:
        client.send(GET + fields + b"\r\n")
        return client.read_response()


# --- whose the connection is -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("header", "client_ip", "port"), HEADERS)
@pytest.mark.parametrize("is_tls", [False, True], ids=["tcp", "tls"])
def test_header_says_who_the_client_is(
    gateway: Gateway, backend: ScriptedBackend, context: ssl.SSLContext,
    header: bytes, client_ip: str | None, port: int | None, is_tls: bool,
) -> None:  # fmt: skip
    tls_port, plain_port, *_ = ports_of(gateway)
    response = ask_over_tls(tls_port, context, header) if is_tls else ask(plain_port, header)
    assert response.status == 200
    expected_ip = client_ip or "127.0.0.1"
    assert gateway.access_line(response)["client_ip"] == expected_ip
    request = backend.received()
    assert request.headers("X-Forwarded-For") == [expected_ip]
    assert request.headers("X-Real-IP") == [expected_ip]
    assert request.headers("X-Forwarded-Proto") == ["https" if is_tls else "http"]
    assert request.headers("X-Forwarded-Port") == [str(port or (tls_port if is_tls else plain_port))]
    node = f'"[{expected_ip}]"' if ":" in expected_ip else expected_ip
    assert (request.header("Forwarded") or "").startswith(f"for={node};")


def test_header_may_come_byte_by_byte(gateway: Gateway, backend: ScriptedBackend) -> None:
    for header in (v1("192.0.2.1"), v2("192.0.2.1")):
        with Client(ports_of(gateway)[1]) as client:
            for byte in header:
                client.send(bytes((byte,)))
            for _ in range(3):
                client.send(GET + b"\r\n")
                response = client.read_response()
                assert gateway.access_line(response)["client_ip"] == "192.0.2.1"
                assert backend.received().header("X-Forwarded-For") == "192.0.2.1"


def test_balancer_may_come_over_ipv6(gateway: Gateway, backend: ScriptedBackend) -> None:
    port = ports_of(gateway)[2]
    for header, client_ip in ((v2("192.0.2.1"), "192.0.2.1"), (LOCAL, "::1")):
        sock = connected(port, "::1")
        with closing(sock):
            sock.sendall(header + GET + b"Connection: close\r\n\r\n")
            assert sock.recv(65536).startswith(b"HTTP/1.1 200 ")
        assert backend.received().header("X-Real-IP") == client_ip


def test_what_the_client_claims_is_judged_by_the_clients_address(gateway: Gateway, backend: ScriptedBackend) -> None:
    port = ports_of(gateway)[1]
    response = ask(port, v2("192.0.2.1"), CLAIMS)
    assert gateway.access_line(response)["client_ip"] == "192.0.2.1"
    request = backend.received()
    assert request.headers("X-Forwarded-For") == ["192.0.2.1"]
    assert request.headers("X-Real-IP") == ["192.0.2.1"]
    assert request.headers("X-Forwarded-Proto") == ["http"]
    # One of our own proxies in front of the balancer is believed, and so is the balancer where it speaks for itself.
    for header, peer_ip in ((v2("203.0.113.5"), "203.0.113.5"), (LOCAL, "127.0.0.1")):
        response = ask(port, header, CLAIMS)
        assert gateway.access_line(response)["client_ip"] == "192.0.2.66"
        request = backend.received()
        assert request.headers("X-Forwarded-For") == [f"192.0.2.66, {peer_ip}"]
        assert request.headers("X-Forwarded-Proto") == ["https"]


def test_claims_over_tls_are_judged_alike(gateway: Gateway, backend: ScriptedBackend, context: ssl.SSLContext) -> None:
    ask_over_tls(ports_of(gateway)[0], context, v1("192.0.2.1"), CLAIMS)
    assert backend.received().headers("X-Forwarded-For") == ["192.0.2.1"]


def test_listener_beside_it_takes_no_header(gateway: Gateway, backend: ScriptedBackend) -> None:
    port = ports_of(gateway)[3]
    assert ask(port, b"").status == 200
    assert backend.received().header("X-Real-IP") == "127.0.0.1"
    for header in (v1("192.0.2.1"), v2("192.0.2.1")):
        assert ask(port, header).status in {400, 505}
    assert not backend.has_received()


def test_addresses_are_limited_each_for_itself(tmp_path: Path, backend: ScriptedBackend) -> None:
    environment = {
        "GATEWAY_BACKEND_TARGET": backend.url, "GATEWAY_LISTEN": PLAIN, "GATEWAY_TRUSTED_PROXIES": TRUSTED,
        "GATEWAY_RATE_LIMIT": "1/h", "GATEWAY_RATE_LIMIT_BURST": "1",
    }  # fmt: skip
    with Gateway(tmp_path, environment) as gateway:
        clients = ("192.0.2.1", "192.0.2.2", "192.0.2.1", "2001:db8::1")
        assert [ask(gateway.port, v2(client)).status for client in clients] == [200, 200, 429, 200]


# --- what is not accepted ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", NO_HEADERS)
@pytest.mark.parametrize("number", [0, 1], ids=["tls", "tcp"])
def test_what_is_no_header_is_cut_and_counted(
    gateway: Gateway, backend: ScriptedBackend, data: bytes, number: int
) -> None:
    before = gateway.metric(REFUSED)
    failures = gateway.metric("gateway_tls_handshake_failures_total")
    with Client(ports_of(gateway)[number]) as client:
        client.send(data)
        assert client.is_cut()
    gateway.wait_for_metric(REFUSED, before + 1)
    assert gateway.metric("gateway_tls_handshake_failures_total") == failures
    gateway.wait_for_metric("gateway_connections", 0, protocol="h1")
    assert not backend.has_received()


def test_header_within_tls_is_none(gateway: Gateway, backend: ScriptedBackend, context: ssl.SSLContext) -> None:
    before = gateway.metric(REFUSED)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        TlsClient(ports_of(gateway)[0], context)
    gateway.wait_for_metric(REFUSED, before + 1)
    assert not backend.has_received()


def test_connection_that_only_looks_is_not_counted(gateway: Gateway, backend: ScriptedBackend) -> None:
    before = gateway.metric(REFUSED)
    for port in ports_of(gateway)[:2]:
        Client(port).close()
    with Client(ports_of(gateway)[1]) as client:
        client.send(SIGNATURE)
    gateway.wait_for_metric(REFUSED, before + 1)
    gateway.wait_for_metric("gateway_connections", 0, protocol="h1")
    assert gateway.metric(REFUSED) == before + 1


@pytest.mark.parametrize("listen", [PLAIN, PLAIN.replace("tcp:0:interface=127.0.0.1", r"tcp6:0:interface=\:\:")])
def test_untrusted_balancer_is_cut_and_told(tmp_path: Path, backend: ScriptedBackend, listen: str) -> None:
    environment = {
        "GATEWAY_BACKEND_TARGET": backend.url, "GATEWAY_LISTEN": listen, "GATEWAY_TRUSTED_PROXIES": "10.0.0.0/8",
    }  # fmt: skip
    with Gateway(tmp_path, environment) as gateway:
        for _ in range(3):
            with Client(gateway.port) as client:
                assert client.is_gone()  # nobody waits for what it has to say
        line = gateway.wait_for_line(event="PROXY header refused")
        assert (line["problem"], line["client_ip"]) == ("from an untrusted address", "127.0.0.1")
        gateway.wait_for_metric(REFUSED, 3)
        assert len([line for line in gateway.lines if line["event"] == "PROXY header refused"]) == 1
        assert gateway.metric("gateway_connections", protocol="h1") == 0
    assert not backend.has_received()


def test_networks_of_a_new_configuration_are_trusted(tmp_path: Path, backend: ScriptedBackend) -> None:
    networks = tmp_path / "networks"
    networks.write_text("10.0.0.0/8", encoding="ascii")
    environment = {
        "GATEWAY_BACKEND_TARGET": backend.url, "GATEWAY_LISTEN": PLAIN, "GATEWAY_TRUSTED_PROXIES_FILE": str(networks),
    }  # fmt: skip
    with Gateway(tmp_path, environment) as gateway:
        with Client(gateway.port) as client:
            assert client.is_gone()
        networks.write_text("127.0.0.0/8", encoding="ascii")
        os.kill(gateway.pid, signal.SIGHUP)

        def is_taken() -> bool:
            with Client(gateway.port) as client, suppress(ConnectionError):
                client.send(v2("192.0.2.1") + GET + b"\r\n")
                return bool(client.read_some())
            return False

        wait_until(is_taken, "taken from 127.0.0.1")


def test_slow_header_is_cut_and_what_comes_behind_has_its_own_time(
    tmp_path: Path, backend: ScriptedBackend, authority: trustme.CA, context: ssl.SSLContext
) -> None:
    environment = {
        "GATEWAY_BACKEND_TARGET": backend.url, "GATEWAY_LISTEN": LISTEN, "GATEWAY_TRUSTED_PROXIES": TRUSTED,
        "GATEWAY_HEADER_TIMEOUT": "0.5s", **certificate_variables(tmp_path, authority),
    }  # fmt: skip
    with Gateway(tmp_path, environment) as gateway:
        tls_port, plain_port, *_ = ports_of(gateway)
        with Client(tls_port) as silent, Client(plain_port) as started, Client(plain_port) as known:
            started.send(v1("192.0.2.1")[:-2])
            known.send(v1("192.0.2.1"))
            assert silent.is_cut()
            assert started.is_cut()
            gateway.wait_for_metric(REFUSED, 2)
            known.send(GET + b"\r\n")
            assert known.read_response().status == 200
        line = gateway.wait_for_line(event="PROXY header refused")
        assert (line["problem"], line["client_ip"]) == ("not complete in time", "127.0.0.1")
        assert gateway.metric("gateway_tls_handshake_failures_total") == 0
        assert ask_over_tls(tls_port, context, LOCAL).status == 200


def test_limit_of_connections_counts_those_that_wait_for_their_header(tmp_path: Path, backend: ScriptedBackend) -> None:
    environment = {
        "GATEWAY_BACKEND_TARGET": backend.url, "GATEWAY_LISTEN": PLAIN, "GATEWAY_TRUSTED_PROXIES": TRUSTED,
        "GATEWAY_MAX_CONNECTIONS": "1",
    }  # fmt: skip
    with Gateway(tmp_path, environment) as gateway:
        with Client(gateway.port) as first, Client(gateway.port) as second:
            assert second.is_gone()
            first.send(v2("192.0.2.1") + GET + b"\r\n")
            assert first.read_response().status == 200
        gateway.wait_for_metric("gateway_connections_refused_total", 1)
        gateway.wait_for_metric("gateway_connections", 0, protocol="h1")
        waiting = Client(gateway.port)
        gateway.wait_for_metric("gateway_connections", 1, protocol="h1")
    with waiting:  # it did not hold up the end
        assert waiting.is_gone()


def test_listener_that_nobody_may_use_keeps_it_from_starting(tmp_path: Path) -> None:
    environment = {"GATEWAY_BACKEND_TARGET": "demo", "GATEWAY_LISTEN": "haproxy:tcp:8443"}
    checked = run("txgateway", "check", env=environment, cwd=tmp_path)
    assert checked.returncode == 78
    assert "GATEWAY_LISTEN" in checked.stderr
    assert "needs GATEWAY_TRUSTED_PROXIES" in checked.stderr
