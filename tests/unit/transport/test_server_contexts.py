from __future__ import annotations

import ssl
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa, x25519
from cryptography.x509.oid import NameOID
from OpenSSL import SSL
from tests.helpers.tls import MemoryTlsClient, TlsServer, client_context, key_pair

from txgateway.transport.server_contexts import (
    KeyPair,
    ServerContexts,
    TlsPolicy,
    UnusablePair,
    reason_of,
)


@pytest.fixture(scope="module")
def contexts(authority: trustme.CA) -> ServerContexts:
    hosts = {
        "default": ("default.example",),
        "exact": ("api.example.com", "Other.Example.COM"),
        "same": ("api.example.com", "*.example.com"),
        "wild": ("*.example.com", "*.deep.example.com"),
    }
    return ServerContexts([key_pair(name, authority.issue_cert(*hosts[name])) for name in hosts], TlsPolicy())


def shown(contexts: ServerContexts, authority: trustme.CA, host: str | None) -> list[str]:
    """The names in the certificate that a client gets."""
    client = MemoryTlsClient(TlsServer(contexts), unchecked(authority), host)
    certificate: Any = client.tls.getpeercert()
    return [value for _, value in certificate["subjectAltName"]]


def unchecked(authority: trustme.CA) -> ssl.SSLContext:
    context = client_context(authority)
    context.check_hostname = False
    return context


@pytest.mark.parametrize(
    ("host", "first"),
    [
        ("default.example", "default.example"),
        ("api.example.com", "api.example.com"),
        ("API.EXAMPLE.com", "api.example.com"),
        ("other.example.com", "api.example.com"),  # exact goes before wildcard
        ("www.deep.example.com", "*.example.com"),  # of the last pair
        ("deep.example.com", "api.example.com"),
        ("a.b.example.com", "default.example"),  # a star is one label
        ("example.com", "default.example"),
        ("nobody.example", "default.example"),
        ("a", "default.example"),
        (None, "default.example"),
    ],
)
def test_names_in_certificates_decide_which_is_shown(
    contexts: ServerContexts, authority: trustme.CA, host: str | None, first: str
) -> None:
    assert shown(contexts, authority, host)[0] == first


def test_of_two_certificates_with_one_name_the_first_has_it(contexts: ServerContexts, authority: trustme.CA) -> None:
    assert shown(contexts, authority, "www.example.com") == ["api.example.com", "*.example.com"]
    assert shown(contexts, authority, "api.example.com") == ["api.example.com", "other.example.com"]


@pytest.mark.parametrize("name", [b"", b".", b"..", b".example.com", b"*.example.com.", b"\xff\xfe.example", b"*"])
def test_odd_server_name_is_answered_with_some_certificate(contexts: ServerContexts, name: bytes) -> None:
    assert isinstance(contexts.context_for(name), SSL.Context)


def test_name_with_a_final_dot_is_the_same(contexts: ServerContexts) -> None:
    assert contexts.context_for(b"api.example.com.") is contexts.context_for(b"api.example.com")
    assert contexts.context_for(b"api.example.com") is not contexts.default


def test_empty_label_is_no_label(contexts: ServerContexts) -> None:
    assert contexts.context_for(b".example.com") is contexts.default


def test_names_in_certificates_may_be_written_otherwise(authority: trustme.CA) -> None:
    pair = self_signed(2048, "API.Example", "final.example.", "*.Wild.Example")
    assert pair.host_names() == ["api.example", "final.example", "*.wild.example"]
    both = ServerContexts([key_pair("a", authority.issue_cert("a.example")), pair], TlsPolicy())
    for name in (b"api.example", b"final.example", b"final.example.", b"A.wild.EXAMPLE"):
        assert both.context_for(name) is not both.default


def test_certificate_without_names_is_shown_to_those_who_ask_for_none(authority: trustme.CA) -> None:
    pair = self_signed(2048)
    assert pair.host_names() == []
    both = ServerContexts([key_pair("a", authority.issue_cert("a.example")), pair], TlsPolicy())
    assert both.context_for(b"common.example") is both.default


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_old_versions_are_refused(contexts: ServerContexts, authority: trustme.CA, version: ssl.TLSVersion) -> None:
    context = unchecked(authority)
    context.minimum_version = context.maximum_version = version
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError, match=r"(?i)protocol"):
        MemoryTlsClient(TlsServer(contexts), context)


def offering(suites: str) -> ssl.SSLContext:
    """A client of TLS 1.2 that trusts everybody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(f"{suites}:@SECLEVEL=0")
    return context


def suites_of_tls_1_2() -> list[str]:
    """All that a client could offer."""
    context = offering("ALL:COMPLEMENTOFALL")
    return [suite["name"] for suite in context.get_ciphers() if suite["protocol"] != "TLSv1.3"]


@pytest.mark.parametrize("kind", ["ECDSA", "RSA"])
def test_suites_without_ephemeral_keys_or_authenticated_encryption_are_refused(kind: str) -> None:
    """None of those that RFC 9113 appendix A keeps from HTTP/2 either."""
    certificate = trustme.CA().issue_cert("a.example", key_type=trustme.KeyType[kind])
    contexts = ServerContexts([key_pair("a", certificate)], TlsPolicy())
    accepted = set()
    suites = suites_of_tls_1_2()
    assert len(suites) > 30
    for suite in suites:
        with suppress(ssl.SSLError):
            MemoryTlsClient(TlsServer(contexts), offering(suite))
            accepted.add(suite)
    encryption = ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305")
    assert accepted == {f"ECDHE-{kind}-{cipher}" for cipher in encryption}


def test_lowest_version_can_be_1_3(authority: trustme.CA) -> None:
    contexts = ServerContexts([key_pair("a", authority.issue_cert("a.example"))], TlsPolicy(min_version="1.3"))
    context = client_context(authority)
    assert MemoryTlsClient(TlsServer(contexts), context).tls.version() == "TLSv1.3"
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError, match=r"(?i)protocol"):
        MemoryTlsClient(TlsServer(contexts), context)


def test_server_prefers_its_own_order_of_suites(contexts: ServerContexts, authority: trustme.CA) -> None:
    context = unchecked(authority)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-ECDSA-AES128-GCM-SHA256")
    client = MemoryTlsClient(TlsServer(contexts), context)
    assert client.tls.cipher() == ("ECDHE-ECDSA-AES128-GCM-SHA256", "TLSv1.2", 128)
    assert client.tls.compression() is None


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        (["http/1.1", "h2"], "h2"),
        (["h2"], "h2"),
        (["http/1.0", "http/1.1"], "http/1.1"),
        (["http/1.0"], "http/1.0"),
        ([], None),
    ],
)
def test_protocol_is_negotiated(
    contexts: ServerContexts, authority: trustme.CA, offered: list[str], chosen: str | None
) -> None:
    context = unchecked(authority)
    if offered:
        context.set_alpn_protocols(offered)
    for host in ("api.example.com", "default.example"):
        assert MemoryTlsClient(TlsServer(contexts), context, host).tls.selected_alpn_protocol() == chosen


def test_client_that_speaks_only_other_protocols_is_refused(contexts: ServerContexts, authority: trustme.CA) -> None:
    context = unchecked(authority)
    context.set_alpn_protocols(["h3", "ftp"])
    server = TlsServer(contexts)
    with pytest.raises(ssl.SSLError, match=r"(?i)no.application.protocol"):
        MemoryTlsClient(server, context)


@pytest.mark.parametrize("host", ["default.example", "api.example.com"])
def test_chain_is_shown_with_the_certificate(host: str) -> None:
    root = trustme.CA()
    issuer = root.create_child_ca().create_child_ca()
    pairs = [key_pair(name, issuer.issue_cert(name)) for name in ("default.example", "api.example.com")]
    client = MemoryTlsClient(TlsServer(ServerContexts(pairs, TlsPolicy())), client_context(root), host)
    assert client.tls.getpeercert()


# --- client certificates ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["default.example", "api.example.com"])  # with and without a switch of the context
@pytest.mark.parametrize(
    ("auth", "shows", "is_accepted"),
    [
        ("none", "nothing", True),
        ("none", "other", True),
        ("optional", "nothing", True),
        ("optional", "good", True),
        ("optional", "other", False),
        ("required", "nothing", False),
        ("required", "good", True),
        ("required", "other", False),
    ],
)
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_client_certificates_are_verified_under_each_name(
    authority: trustme.CA, host: str, auth: str, shows: str, is_accepted: bool, version: ssl.TLSVersion
) -> None:
    clients = trustme.CA()
    authorities = (x509.load_pem_x509_certificate(clients.cert_pem.bytes()),) if auth != "none" else ()
    names = ("default.example", "api.example.com")
    pairs = [key_pair(name, authority.issue_cert(name)) for name in names]
    server = TlsServer(ServerContexts(pairs, TlsPolicy("1.2", auth, authorities)))
    certificate = {
        "nothing": None,
        "good": clients.issue_cert("me@example.com", common_name="me"),
        "other": trustme.CA().issue_cert("me@example.com", common_name="me"),
    }[shows]
    context = client_context(authority, certificate)
    context.minimum_version = context.maximum_version = version
    client = MemoryTlsClient(server, context, host, shakes_hands=False)
    try:
        client.shake_hands()
        client.received()
        refused = False
    except ssl.SSLError:
        refused = True
    assert refused is not is_accepted
    assert client.protocol._handshakeDone is is_accepted
    if is_accepted:
        assert client.connection.client_certificate.startswith(b"Hash=") is (shows == "good" and auth != "none")


def test_authorities_of_the_system_do_not_vouch_for_clients(
    authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "system.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "system.pem"))
    clients = (x509.load_pem_x509_certificate(trustme.CA().cert_pem.bytes()),)
    pairs = [key_pair("a", authority.issue_cert("a.example"))]
    server = TlsServer(ServerContexts(pairs, TlsPolicy("1.2", "optional", clients)))
    with pytest.raises(ssl.SSLError, match=r"(?i)unknown.ca"):
        MemoryTlsClient(server, client_context(authority, authority.issue_cert("me@example.com"))).received()


@pytest.mark.parametrize("host", [b"default.example", b"api.example.com"])
@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
def test_clients_are_told_whose_certificates_will_do(authority: trustme.CA, host: bytes, version: int) -> None:
    authorities = [x509.load_pem_x509_certificate(trustme.CA().cert_pem.bytes()) for _ in range(2)]
    pairs = [key_pair(name, authority.issue_cert(name)) for name in ("default.example", "api.example.com")]
    _, transport = TlsServer(ServerContexts(pairs, TlsPolicy("1.2", "optional", tuple(authorities)))).open()
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(version)
    context.set_max_proto_version(version)
    client = SSL.Connection(context)
    client.set_tlsext_host_name(host)
    client.set_connect_state()
    for _ in range(4):
        with suppress(SSL.WantReadError):
            client.do_handshake()
        with suppress(SSL.WantReadError):
            transport.send(client.bio_read(65536))
        if data := transport.received():
            client.bio_write(data)
    told = {name.der() for name in client.get_client_ca_list()}
    assert told == {found.subject.public_bytes() for found in authorities}


# --- sessions ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("auth", ["none", "required"])
@pytest.mark.parametrize("host", ["default.example", "api.example.com"])
def test_session_is_resumed_by_its_ticket(authority: trustme.CA, version: ssl.TLSVersion, auth: str, host: str) -> None:
    ca = x509.load_pem_x509_certificate(authority.cert_pem.bytes())
    pairs = [key_pair(name, authority.issue_cert(name)) for name in ("default.example", "api.example.com")]
    policy = TlsPolicy("1.2", auth, (ca,) if auth != "none" else ())
    server = TlsServer(ServerContexts(pairs, policy))
    context = client_context(authority, authority.issue_cert("me@example.com"))
    context.minimum_version = context.maximum_version = version
    first = MemoryTlsClient(server, context, host)
    first.received()
    assert resumed(server, context, first, host).connection.client_certificate == first.connection.client_certificate
    # Under another name, of which the same is asked, the client is who it was.
    other = {"default.example": "api.example.com", "api.example.com": "default.example"}[host]
    context.check_hostname = False
    elsewhere = MemoryTlsClient(server, context, other, shakes_hands=False)
    elsewhere.tls.session = first.tls.session
    elsewhere.shake_hands()
    assert elsewhere.connection.client_certificate == first.connection.client_certificate
    assert bool(elsewhere.connection.client_certificate) is (auth != "none")
    # New contexts have new keys: the handshake is a full one, and nothing else.
    server.contexts = ServerContexts(pairs, policy)
    again = MemoryTlsClient(server, context, host, shakes_hands=False)
    again.tls.session = first.tls.session
    again.shake_hands()
    assert again.tls.session_reused is False


def resumed(server: TlsServer, context: ssl.SSLContext, first: MemoryTlsClient, host: str) -> MemoryTlsClient:
    second = MemoryTlsClient(server, context, host, shakes_hands=False)
    second.tls.session = first.tls.session
    second.shake_hands()
    assert second.tls.session_reused is True
    return second


def test_nothing_is_kept_of_clients_without_tickets(contexts: ServerContexts, authority: trustme.CA) -> None:
    context = client_context(authority)
    context.options |= ssl.OP_NO_TICKET
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    session = MemoryTlsClient(TlsServer(contexts), context, "default.example").tls.session
    assert session is not None
    assert (session.id, session.has_ticket) == (b"", False)


# --- what OpenSSL does not take --------------------------------------------------------------------------------------------------


def self_signed(bits: int, *hosts: str) -> KeyPair:
    key = rsa.generate_private_key(65537, bits)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "common.example")])
    now = datetime.now(UTC)
    unsigned = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
    )
    if hosts:
        unsigned = unsigned.add_extension(x509.SubjectAlternativeName(map(x509.DNSName, hosts)), critical=False)
    return KeyPair("self", (unsigned.sign(key, hashes.SHA256()),), key)


def test_pair_that_openssl_does_not_take_is_named(authority: trustme.CA) -> None:
    good = key_pair("a", authority.issue_cert("a.example"))
    other = key_pair("b", authority.issue_cert("b.example"))
    mixed = KeyPair("mixed", good.chain, other.key)
    odd = KeyPair("odd", good.chain, x25519.X25519PrivateKey.generate())
    for bad, why in ((self_signed(1024), "key too small"), (mixed, "mismatch"), (odd, "key of this kind")):
        with pytest.raises(UnusablePair, match=why) as caught:
            ServerContexts([good, bad], TlsPolicy())
        assert caught.value.index == 1


def test_reason_is_openssls_own_text() -> None:
    assert reason_of(SSL.Error([("SSL routines", "", "no shared cipher")])) == "no shared cipher"
    assert reason_of(SSL.Error([("SSL routines", "", "")])) == "unknown"
    assert reason_of(SSL.Error([])) == reason_of(SSL.SysCallError(-1, "Unexpected EOF")) == "unexpected end"
