"""What the backend is told of the client, and whom the gateway believes."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from tests.integration.backend import ScriptedBackend
from tests.integration.harness import Gateway

CLAIMS = (
    "X-Forwarded-For: 203.0.113.9, 198.51.100.7",
    "X-Forwarded-Proto: https",
    "X-Forwarded-Host: claimed.test",
    "X-Forwarded-Port: 444",
    "X-Real-IP: 203.0.113.9",
    "X-Request-ID: from-outside.1_2",
)
NEW_ID = re.compile(r"[0-9a-f]{32}")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, module_backend: ScriptedBackend) -> Iterator[Gateway]:
    environment = {"GATEWAY_BACKEND_TARGET": module_backend.url, "GATEWAY_TRUSTED_PROXIES": "10.0.0.0/8"}
    with Gateway(tmp_path_factory.mktemp("gateway"), environment) as running:
        yield running


@pytest.fixture(scope="module")
def trusting(tmp_path_factory: pytest.TempPathFactory, module_backend: ScriptedBackend) -> Iterator[Gateway]:
    environment = {
        "GATEWAY_BACKEND_TARGET": module_backend.url,
        "GATEWAY_TRUSTED_PROXIES": "127.0.0.1, 198.51.100.0/24",
    }
    with Gateway(tmp_path_factory.mktemp("trusting"), environment) as running:
        yield running


def test_untrusted_peers_claims_are_replaced(gateway: Gateway, backend: ScriptedBackend) -> None:
    response = gateway.get("/", *CLAIMS, "Forwarded: for=203.0.113.9;proto=https", host="api.test:8000")
    received = backend.received()
    assert received.headers("X-Forwarded-For") == ["127.0.0.1"]
    assert received.headers("X-Forwarded-Proto") == ["http"]
    assert received.headers("X-Forwarded-Host") == ["api.test:8000"]
    assert received.headers("X-Forwarded-Port") == [str(gateway.port)]
    assert received.headers("X-Real-IP") == ["127.0.0.1"]
    assert received.headers("Forwarded") == ['for=127.0.0.1;host="api.test:8000";proto=http']
    assert received.headers("Via") == ["1.1 txgateway"]
    request_id = received.header("X-Request-ID") or ""
    assert NEW_ID.fullmatch(request_id)
    assert response.header("X-Request-ID") == request_id
    assert gateway.access_line(response)["client_ip"] == "127.0.0.1"


def test_trusted_peers_claims_are_believed_and_appended_to(trusting: Gateway, backend: ScriptedBackend) -> None:
    response = trusting.get("/", *CLAIMS, "Via: 1.1 outer", host="api.test")
    received = backend.received()
    assert received.headers("X-Forwarded-For") == ["203.0.113.9, 198.51.100.7, 127.0.0.1"]
    assert received.headers("X-Forwarded-Proto") == ["https"]
    assert received.headers("X-Forwarded-Host") == ["claimed.test"]
    assert received.headers("X-Forwarded-Port") == ["444"]
    assert received.headers("X-Real-IP") == ["203.0.113.9"]
    assert received.headers("X-Request-ID") == ["from-outside.1_2"]
    assert ", ".join(received.headers("Via")) == "1.1 outer, 1.1 txgateway"
    assert response.headers("X-Request-ID") == ["from-outside.1_2"]
    line = trusting.access_line(response)
    assert (line["client_ip"], line["host"]) == ("203.0.113.9", "api.test")


def test_chain_is_read_from_the_right_to_the_first_untrusted_address(
    trusting: Gateway, backend: ScriptedBackend
) -> None:
    response = trusting.get("/", "X-Forwarded-For: 6.6.6.6, 203.0.113.9", "X-Forwarded-For: 198.51.100.7")
    assert trusting.access_line(response)["client_ip"] == "203.0.113.9"
    assert backend.received().headers("X-Forwarded-For") == ["6.6.6.6, 203.0.113.9, 198.51.100.7, 127.0.0.1"]


def test_forwarded_is_read_where_there_is_no_chain(trusting: Gateway, backend: ScriptedBackend) -> None:
    response = trusting.get("/", 'Forwarded: for="[2001:db8::1]:99";proto=https;host=outer.test')
    received = backend.received()
    assert trusting.access_line(response)["client_ip"] == "2001:db8::1"
    assert received.header("X-Forwarded-For") == "2001:db8::1, 127.0.0.1"
    assert (received.header("X-Forwarded-Proto"), received.header("X-Forwarded-Host")) == ("https", "outer.test")
    assert received.header("Forwarded") == (
        'for="[2001:db8::1]:99";proto=https;host=outer.test, for=127.0.0.1;host=gateway.test;proto=http'
    )


@pytest.mark.parametrize("offered", ["", "a b", "a/b", "é", "a" * 129])
def test_trusted_peers_malformed_id_is_replaced(trusting: Gateway, backend: ScriptedBackend, offered: str) -> None:
    response = trusting.get("/", f"X-Request-ID: {offered}")
    assert NEW_ID.fullmatch(response.header("X-Request-ID") or "")
    assert backend.received().headers("X-Request-ID") == response.headers("X-Request-ID")


def test_ids_differ_from_request_to_request(gateway: Gateway, backend: ScriptedBackend) -> None:
    assert len({gateway.get("/").header("X-Request-ID") for _ in range(5)}) == 5


def test_one_connection_tells_each_host_apart(gateway: Gateway, backend: ScriptedBackend) -> None:
    with gateway.client() as client:
        for host in (b"a.test", b"b.test", b"a.test"):
            client.send(b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % host)
            client.read_response()
            assert backend.received().header("X-Forwarded-Host") == host.decode()


def test_trace_context_passes(gateway: Gateway, backend: ScriptedBackend) -> None:
    fields = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "a=1",
              "baggage": "b=2"}  # fmt: skip
    gateway.get("/", *(f"{name}: {value}" for name, value in fields.items()))
    received = backend.received()
    assert {name: received.header(name) for name in fields} == fields
