"""Certificates of a running gateway: which is shown, whose are asked for, and what happens when the files change."""

from __future__ import annotations

import hashlib
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from tests.integration.backend import ScriptedBackend
from tests.integration.client import Client
from tests.integration.harness import Gateway, run
from tests.integration.secure import (
    HOST,
    TlsClient,
    certificate_variables,
    client_context,
    get_over_tls,
    names_of,
    write_pair,
)

GET = b"GET / HTTP/1.1\r\nHost: gateway.test\r\n\r\n"


@pytest.fixture
def context(authority: trustme.CA) -> ssl.SSLContext:
    return client_context(authority)


def works(client: TlsClient) -> bool:
    client.send(GET)
    return client.read_response().status == 200


# --- by name ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def named(
    tmp_path_factory: pytest.TempPathFactory, module_backend: ScriptedBackend, authority: trustme.CA
) -> Iterator[Gateway]:
    directory = tmp_path_factory.mktemp("named")
    certificates = directory / "certificates"
    certificates.mkdir()
    for name, hosts in {"a": ("api.example.com",), "b": ("*.example.com",), "c": ("other.test",)}.items():
        write_pair(certificates, name, authority.issue_cert(*hosts))
    environment = {
        "GATEWAY_BACKEND_TARGET": module_backend.url, **certificate_variables(directory, authority),
        "GATEWAY_TLS_CERT_DIR": str(certificates),
    }  # fmt: skip
    with Gateway(directory, environment) as running:
        yield running


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("api.example.com", "api.example.com"),
        ("API.Example.com", "api.example.com"),
        ("www.example.com", "*.example.com"),
        ("other.test", "other.test"),
        ("gateway.test", "gateway.test"),
        ("a.b.example.com", "gateway.test"),
        ("unknown.test", "gateway.test"),
        (None, "gateway.test"),
    ],
)
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_certificate_is_chosen_by_name(
    named: Gateway,
    backend: ScriptedBackend,
    context: ssl.SSLContext,
    host: str | None,
    shown: str,
    version: ssl.TLSVersion,
) -> None:
    context.minimum_version = context.maximum_version = version
    context.check_hostname = False
    with TlsClient(named.port, context, host) as client:
        assert names_of(client) == [shown]
        assert works(client)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl command")
def test_certificate_is_chosen_by_name_in_a_second_hello(named: Gateway, authority: trustme.CA, tmp_path: Path) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    asked = subprocess.run(
        [
            "openssl", "s_client", "-connect", f"127.0.0.1:{named.port}", "-servername", "www.example.com",
            "-tls1_3", "-groups", "P-521:X25519", "-msg",
            "-CAfile", str(tmp_path / "ca.pem"), "-verify_hostname", "www.example.com", "-verify_return_error",
        ],
        input=b"",
        capture_output=True,
        timeout=10,
        check=False,
    )  # fmt: skip
    assert asked.stdout.count(b", ClientHello") == 2  # of its first choice there was no share
    assert b"Verify return code: 0 (ok)" in asked.stdout


def test_each_certificate_is_told_with_its_end(named: Gateway) -> None:
    loaded = [line for line in named.lines if line["event"] == "certificate loaded"]
    assert [(line["certificate"], line["hosts"]) for line in loaded] == [
        ("default", "gateway.test"), ("a", "api.example.com"), ("b", "*.example.com"), ("c", "other.test"),
    ]  # fmt: skip
    for line in loaded:
        end = datetime.fromisoformat(line["not_after"]).timestamp()
        assert named.metric("gateway_tls_certificate_expiry_seconds", name=line["certificate"]) == end


# --- of clients --------------------------------------------------------------------------------------------------------------

AUTHS = ("none", "optional", "required")


@pytest.fixture(scope="module")
def clients() -> trustme.CA:
    """Who issues the certificates of clients."""
    return trustme.CA()


@pytest.fixture(scope="module")
def asking(
    tmp_path_factory: pytest.TempPathFactory,
    module_backend: ScriptedBackend,
    authority: trustme.CA,
    clients: trustme.CA,
) -> Iterator[dict[str, Gateway]]:
    """A gateway for each way to ask, with two certificates of its own."""
    directory = tmp_path_factory.mktemp("asking")
    clients.cert_pem.write_to_path(str(directory / "clients.pem"))
    certificates = directory / "certificates"
    certificates.mkdir()
    write_pair(certificates, "other", authority.issue_cert("other.test"))
    environment = {
        "GATEWAY_BACKEND_TARGET": module_backend.url, **certificate_variables(directory, authority),
        "GATEWAY_TLS_CERT_DIR": str(certificates), "GATEWAY_TLS_CLIENT_CA_FILE": str(directory / "clients.pem"),
        "GATEWAY_SANITIZE_UNDERSCORE_HEADERS": "keep",
    }  # fmt: skip
    gateways = {auth: Gateway(directory, {**environment, "GATEWAY_TLS_CLIENT_AUTH": auth}) for auth in AUTHS}
    with gateways["none"], gateways["optional"], gateways["required"]:
        yield gateways


SPOOFED = (
    b"GET / HTTP/1.1\r\nHost: gateway.test\r\nX-Forwarded-Client-Cert: Hash=ff\r\nx_forwarded_client_cert: Hash=ff\r\n"
    b"X-Forwarded.Client-Cert: Hash=ff\r\nConnection: X-Forwarded-Client-Cert\r\n\r\n"
)


@pytest.mark.parametrize("host", [HOST, "other.test"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("auth", AUTHS)
@pytest.mark.parametrize("shows", ["nothing", "good", "strange"])
def test_certificates_of_clients_are_asked_for_and_told(
    asking: dict[str, Gateway],
    backend: ScriptedBackend,
    authority: trustme.CA,
    clients: trustme.CA,
    host: str,
    version: ssl.TLSVersion,
    auth: str,
    shows: str,
) -> None:
    certificate = {
        "nothing": None,
        "good": clients.issue_cert("me@example.com", common_name='M "e"', organization_name="Us"),
        "strange": trustme.CA().issue_cert("me@example.com", common_name="me"),
    }[shows]
    context = client_context(authority, certificate)
    context.minimum_version = context.maximum_version = version
    gateway = asking[auth]
    if (shows, auth) in {("strange", "optional"), ("strange", "required"), ("nothing", "required")}:
        before = gateway.metric("gateway_tls_handshake_failures_total")
        with pytest.raises(ssl.SSLError, match=r"(?i)alert"), TlsClient(gateway.port, context, host) as client:
            client.socket.recv(1)  # with TLS 1.3 the client learns of it only when it reads
        gateway.wait_for_metric("gateway_tls_handshake_failures_total", before + 1)
        assert not backend.has_received()
        return
    with TlsClient(gateway.port, context, host) as client:
        for _ in range(2):
            client.send(SPOOFED)
            assert client.read_response().status == 200
            fields = backend.received().fields
            told = [value for name, value in fields if "client" in name.lower() and "cert" in name.lower()]
            if certificate is not None and shows == "good" and auth != "none":
                der = ssl.PEM_cert_to_DER_cert(certificate.cert_chain_pems[0].bytes().decode())
                (value,) = told
                assert value.startswith(f'Hash={hashlib.sha256(der).hexdigest()};Subject="CN=M \\\\22e\\\\22,')
                assert value.endswith(',O=Us"')
            else:
                assert told == []


# --- files that change ---------------------------------------------------------------------------------------------------------


def test_new_certificates_are_shown_and_old_connections_live_on(
    tmp_path: Path, backend: ScriptedBackend, authority: trustme.CA, context: ssl.SSLContext
) -> None:
    """Three steps with one gateway, each as long as a look at the files: good, broken, and good again by a link."""
    for name, host in (("first", "first.test"), ("second", "second.test"), ("third", "third.test")):
        (tmp_path / name).mkdir()
        write_pair(tmp_path / name, "tls", authority.issue_cert(HOST, host))
    (tmp_path / "..data").symlink_to("first")
    for name in ("tls.crt", "tls.key"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    environment = {
        "GATEWAY_BACKEND_TARGET": backend.url,
        "GATEWAY_TLS_CERT_FILE": str(tmp_path / "tls.crt"), "GATEWAY_TLS_KEY_FILE": str(tmp_path / "tls.key"),
    }  # fmt: skip

    def shown() -> list[str]:
        with TlsClient(gateway.port, context) as client:
            assert works(client)
            return names_of(client)

    with Gateway(tmp_path, environment) as gateway, TlsClient(gateway.port, context) as old:
        assert works(old)
        assert names_of(old) == [HOST, "first.test"]
        # Written over, in place.
        seen = len(gateway.lines)
        for name in ("tls.crt", "tls.key"):
            (tmp_path / "first" / name).write_bytes((tmp_path / "second" / name).read_bytes())
        gateway.wait_for_line(seen, event="certificate loaded")
        assert shown() == [HOST, "second.test"]
        assert works(old)
        # Broken: nothing changes but for one line.
        (tmp_path / "first" / "tls.key").write_bytes(b"half a ke")
        gateway.wait_for_line(event="certificates cannot be loaded, the old ones stay")
        assert shown() == [HOST, "second.test"]
        # Swapped as Kubernetes does it.
        (tmp_path / "..next").symlink_to("third")
        (tmp_path / "..next").rename(tmp_path / "..data")
        gateway.wait_for_line(event="certificates can be loaded again")
        assert shown() == [HOST, "third.test"]
        assert works(old)
        events = [line["event"] for line in gateway.lines]
        assert events.count("certificate loaded") == 3
        assert events.count("certificates cannot be loaded, the old ones stay") == 1


# --- the start -----------------------------------------------------------------------------------------------------------------


def test_expired_certificate_is_a_warning(
    tmp_path: Path, backend: ScriptedBackend, authority: trustme.CA, context: ssl.SSLContext
) -> None:
    past = datetime.now(UTC) - timedelta(days=1)
    crt, key = write_pair(tmp_path, "old", authority.issue_cert(HOST, not_after=past))
    environment = {
        "GATEWAY_BACKEND_TARGET": backend.url, "GATEWAY_TLS_CERT_FILE": crt, "GATEWAY_TLS_KEY_FILE": key,
    }  # fmt: skip
    with Gateway(tmp_path, environment) as gateway:
        assert gateway.wait_for_line(event="certificate has expired")["level"] == "WARN"
        with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
            get_over_tls(gateway, context)


def test_lowest_version_can_be_1_3(
    tmp_path: Path, backend: ScriptedBackend, authority: trustme.CA, context: ssl.SSLContext
) -> None:
    environment = {
        "GATEWAY_BACKEND_TARGET": backend.url, **certificate_variables(tmp_path, authority),
        "GATEWAY_TLS_MIN_VERSION": "1.3",
    }  # fmt: skip
    with Gateway(tmp_path, environment) as gateway:
        assert get_over_tls(gateway, context).status == 200
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(ssl.SSLError, match=r"(?i)version"):
            get_over_tls(gateway, context)


@pytest.mark.parametrize(
    ("change", "variable"),
    [
        ({"GATEWAY_TLS_KEY_FILE": "other.key"}, "GATEWAY_TLS_KEY_FILE"),
        ({"GATEWAY_TLS_CERT_FILE": "none.crt"}, "GATEWAY_TLS_CERT_FILE"),
        ({"GATEWAY_TLS_CLIENT_AUTH": "required"}, "GATEWAY_TLS_CLIENT_AUTH"),
        ({"GATEWAY_TLS_CERT_DIR": "none"}, "GATEWAY_TLS_CERT_DIR"),
        ({"GATEWAY_LISTEN": "ssl:443"}, "GATEWAY_LISTEN"),
    ],
)
def test_wrong_files_keep_it_from_starting(
    tmp_path: Path, authority: trustme.CA, change: dict[str, str], variable: str
) -> None:
    write_pair(tmp_path, "other", authority.issue_cert(HOST))
    environment = {"GATEWAY_BACKEND_TARGET": "demo", **certificate_variables(tmp_path, authority), **change}
    ended = run("twistd", "-n", "--pidfile=", "gateway", env=environment, cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (78, "")
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"{variable}: ")


def test_plain_client_of_a_port_that_asks_for_certificates_is_closed(asking: dict[str, Gateway]) -> None:
    with Client(asking["required"].port) as client:
        client.send(GET)
        assert client.is_gone()
