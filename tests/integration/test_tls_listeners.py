"""Which listeners speak TLS, and the one that only redirects to them."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

import pytest
import trustme
from tests.integration.backend import ScriptedBackend
from tests.integration.client import Client
from tests.integration.harness import Gateway
from tests.integration.secure import TlsClient, certificate_variables, client_context, get_over_tls

GET = b"GET / HTTP/1.1\r\nHost: gateway.test\r\n\r\n"


@pytest.fixture
def context(authority: trustme.CA) -> ssl.SSLContext:
    return client_context(authority)


def test_endpoints_speak_tls_unless_they_are_plain(
    tmp_path: Path, backend: ScriptedBackend, authority: trustme.CA, context: ssl.SSLContext
) -> None:
    environment = {
        "GATEWAY_BACKEND_TARGET": backend.url, **certificate_variables(tmp_path, authority),
        "GATEWAY_LISTEN": f"tcp:0:interface=127.0.0.1 tcp:0:interface=127.0.0.1;plain unix:{tmp_path}/socket",
    }  # fmt: skip
    with Gateway(tmp_path, environment) as gateway:
        listening = [line for line in gateway.lines if line.get("listener") == "traffic"]
        assert [line["tls"] for line in listening] == [True, False, True]
        assert get_over_tls(gateway, context).status == 200
        assert backend.received().header("X-Forwarded-Proto") == "https"
        with Client(listening[1]["port"]) as plain:
            plain.send(GET.replace(b"\r\n\r\n", b"\r\nX-Forwarded-Client-Cert: Hash=1\r\n\r\n"))
            response = plain.read_response()
        assert (response.status, response.header("Strict-Transport-Security")) == (200, None)
        request = backend.received()
        assert request.header("X-Forwarded-Proto") == "http"
        assert request.header("X-Forwarded-Client-Cert") is None
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(tmp_path / "socket"))
        with TlsClient(sock, context) as over_unix:
            over_unix.send(GET)
            assert over_unix.read_response().status == 200
        request = backend.received()
        assert (request.header("X-Forwarded-Proto"), request.header("X-Forwarded-Port")) == ("https", "443")


def test_limit_of_connections_holds_over_tls(
    tmp_path: Path, backend: ScriptedBackend, authority: trustme.CA, context: ssl.SSLContext
) -> None:
    environment = {
        "GATEWAY_BACKEND_TARGET": backend.url, **certificate_variables(tmp_path, authority),
        "GATEWAY_MAX_CONNECTIONS": "2", "GATEWAY_REDIRECT_PORT": "0",
    }  # fmt: skip
    with Gateway(tmp_path, environment) as gateway:
        redirect_port = next(line["port"] for line in gateway.lines if line.get("listener") == "redirect")
        with TlsClient(gateway.port, context) as first, Client(redirect_port) as second:
            first.send(GET)
            assert first.read_response().status == 200
            second.send(GET)
            assert second.read_response().status == 308
            with pytest.raises((ssl.SSLError, ConnectionError)):
                TlsClient(gateway.port, context)
        gateway.wait_for_metric("gateway_connections_refused_total", 1)
        gateway.wait_for_metric("gateway_connections", 0, protocol="h1")
        assert get_over_tls(gateway, context).status == 200


def test_redirect_leads_to_the_listener_over_tls(
    tmp_path: Path, backend: ScriptedBackend, authority: trustme.CA, context: ssl.SSLContext
) -> None:
    environment = {
        "GATEWAY_BACKEND_TARGET": backend.url, **certificate_variables(tmp_path, authority),
        "GATEWAY_REDIRECT_PORT": "0",
    }  # fmt: skip
    with Gateway(tmp_path, environment) as gateway:
        port = next(line["port"] for line in gateway.lines if line.get("listener") == "redirect")
        with Client(port) as client:
            for _ in range(2):
                client.send(b"GET /a%20b?c=d HTTP/1.1\r\nHost: gateway.test:80\r\n\r\n")
                response = client.read_response()
                assert response.status == 308
                assert response.header("Location") == f"https://gateway.test:{gateway.port}/a%20b?c=d"
                line = gateway.access_line(response)
                assert (line["status"], line["path"], line["route"]) == (308, "/a%20b", None)
            client.send(b"POST / HTTP/1.1\r\nHost: gateway.test\r\nContent-Length: 100\r\n\r\n")
            response = client.read_response("POST")
            assert (response.status, response.header("Connection")) == (308, "close")
            assert client.is_at_end()
        with Client(port) as client:
            client.send(b"GET / HTTP/1.1\r\n\r\n")
            assert client.read_response().status == 400
        assert gateway.metric("gateway_requests_total", route="none", method="GET", status="308") == 2
        assert not backend.has_received()
        assert get_over_tls(gateway, context, "/a%20b?c=d").status == 200
