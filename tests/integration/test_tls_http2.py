"""What TLS and the PROXY protocol tell of a client, where it speaks HTTP/2."""

from __future__ import annotations

import hashlib
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from tests.integration.backend import ScriptedBackend
from tests.integration.h2_client import H2Client
from tests.integration.h2_frames import h2_context
from tests.integration.harness import Gateway
from tests.integration.secure import certificate_variables
from tests.integration.wire import TIMEOUT_S

CLAIMS = (
    ("x-forwarded-client-cert", "Hash=ff"),
    ("x_forwarded_client_cert", "Hash=ff"),
    ("x-forwarded.client-cert", "Hash=ff"),
    ("x-forwarded-tls-client-cert", "Hash=ff"),
)


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory, module_backend: ScriptedBackend, authority: trustme.CA
) -> Iterator[Gateway]:
    directory = tmp_path_factory.mktemp("gateway")
    authority.cert_pem.write_to_path(str(directory / "clients.pem"))
    environment = {
        "GATEWAY_BACKEND_TARGET": module_backend.url, **certificate_variables(directory, authority),
        "GATEWAY_TLS_CLIENT_CA_FILE": str(directory / "clients.pem"), "GATEWAY_TLS_CLIENT_AUTH": "optional",
        "GATEWAY_SANITIZE_UNDERSCORE_HEADERS": "keep",
    }  # fmt: skip
    with Gateway(directory, environment) as running:
        yield running


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("shows", [True, False])
def test_certificate_is_told_of_each_stream(
    gateway: Gateway, backend: ScriptedBackend, authority: trustme.CA, version: ssl.TLSVersion, shows: bool
) -> None:
    certificate = authority.issue_cert("me@example.com", common_name="me") if shows else None
    context = h2_context(authority, certificate=certificate)
    context.minimum_version = context.maximum_version = version
    with H2Client(gateway.port, context) as client:
        for _ in range(2):
            assert client.get("/", *CLAIMS).status == 200
            fields = backend.received().fields
            told = [value for name, value in fields if "client" in name.lower() and "cert" in name.lower()]
            if certificate is None:
                assert told == []
            else:
                der = ssl.PEM_cert_to_DER_cert(certificate.cert_chain_pems[0].bytes().decode())
                (value,) = told
                assert value.startswith(f'Hash={hashlib.sha256(der).hexdigest()};Subject="CN=me,')


def test_address_of_a_proxy_header_is_that_of_each_stream(
    tmp_path: Path, backend: ScriptedBackend, authority: trustme.CA
) -> None:
    environment = {
        "GATEWAY_BACKEND_TARGET": backend.url, **certificate_variables(tmp_path, authority),
        "GATEWAY_LISTEN": "haproxy:tcp:0:interface=127.0.0.1", "GATEWAY_TRUSTED_PROXIES": "127.0.0.1",
    }  # fmt: skip
    with Gateway(tmp_path, environment) as gateway:
        sock = socket.create_connection(("127.0.0.1", gateway.port), TIMEOUT_S)
        sock.sendall(b"PROXY TCP4 192.0.2.7 198.51.100.1 50000 8443\r\n")
        with H2Client(sock, h2_context(authority)) as client:
            for _ in range(2):
                response = client.get("/", ("x-forwarded-for", "203.0.113.1"))
                assert response.status == 200
                assert gateway.access_line(response)["client_ip"] == "192.0.2.7"
                request = backend.received()
                told = [request.header(name) for name in ("X-Forwarded-For", "X-Forwarded-Port", "X-Forwarded-Proto")]
                assert told == ["192.0.2.7", "8443", "https"]
