from __future__ import annotations

import hashlib
import ssl
from typing import Any

import trustme
from cryptography import x509
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID
from hypothesis import example, given
from hypothesis import strategies as st
from tests.helpers.tls import MemoryTlsClient, TlsServer, client_context, key_pair

from txgateway.headers import is_field_value
from txgateway.transport.client_certificate import MAX_SUBJECT_BYTES, distinguished_name, forwarded_client_cert
from txgateway.transport.server_contexts import ServerContexts, TlsPolicy


def common_name(value: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, value)])


def told(authority: trustme.CA, certificate: trustme.LeafCert | None) -> tuple[bytes, bytes]:
    """What a backend is told, and the certificate in binary form."""
    ca = x509.load_pem_x509_certificate(authority.cert_pem.bytes())
    contexts = ServerContexts([key_pair("a", authority.issue_cert("a.example"))], TlsPolicy("1.2", "optional", (ca,)))
    client = MemoryTlsClient(TlsServer(contexts), client_context(authority, certificate))
    der = b"" if certificate is None else ssl.PEM_cert_to_DER_cert(certificate.cert_chain_pems[0].bytes().decode())
    return client.connection.client_certificate, der


def test_client_without_certificate_is_told_of_with_nothing(authority: trustme.CA) -> None:
    assert told(authority, None) == (b"", b"")


def test_certificate_is_told_by_hash_and_subject(authority: trustme.CA) -> None:
    certificate = authority.issue_cert("x@example.com", common_name='Bob "B", Jr\\', organization_name="A;B")
    value, der = told(authority, certificate)
    expected = f'Hash={hashlib.sha256(der).hexdigest()};Subject="'.encode()
    assert value.startswith(expected)
    subject = value.removeprefix(expected)
    assert subject.endswith(b',O=A\\\\3BB"')
    assert subject.startswith(b"CN=Bob \\\\22B\\\\22\\\\2C Jr\\\\5C,OU=")


def test_subject_that_is_too_long_is_left_out(authority: trustme.CA) -> None:
    class Certificate:
        def __init__(self, subject: x509.Name | None) -> None:
            self._subject = subject

        def digest(self, name: str) -> bytes:
            assert name == "sha256"
            return b"AB:CD"

        def to_cryptography(self) -> Any:
            if self._subject is None:
                raise ValueError("not for cryptography")
            return type("Parsed", (), {"subject": self._subject})

    class Connection:
        def __init__(self, subject: x509.Name | None) -> None:
            self._certificate = Certificate(subject)

        def get_peer_certificate(self) -> Certificate:
            return self._certificate

    long = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x" * 60) for _ in range(16)])
    longer = x509.Name([*long, x509.NameAttribute(NameOID.COMMON_NAME, "x" * 40)])
    assert len(distinguished_name(long)) <= MAX_SUBJECT_BYTES < len(distinguished_name(longer))
    connection: Any = Connection(long)
    assert forwarded_client_cert(connection).startswith(b'Hash=abcd;Subject="CN=xxx')
    for subject in (longer, None):
        connection = Connection(subject)
        assert forwarded_client_cert(connection) == b"Hash=abcd"


def test_name_is_written_from_its_end_with_several_attributes_in_one_part() -> None:
    name = x509.Name([
        x509.RelativeDistinguishedName([x509.NameAttribute(NameOID.COUNTRY_NAME, "DE")]),
        x509.RelativeDistinguishedName([
            x509.NameAttribute(NameOID.COMMON_NAME, "a"), x509.NameAttribute(NameOID.EMAIL_ADDRESS, "a@b.c"),
        ]),
    ])  # fmt: skip
    first, _, last = distinguished_name(name).rpartition(",")
    assert sorted(first.split("+")) == ["1.2.840.113549.1.9.1=a@b.c", "CN=a"]
    assert last == "C=DE"


def test_bits_are_written_as_digits() -> None:
    attribute = x509.NameAttribute(NameOID.X500_UNIQUE_IDENTIFIER, b"\x00\xff", _ASN1Type.BitString)
    assert distinguished_name(x509.Name([attribute])) == "2.5.4.45=#00ff"


@given(st.text(min_size=1, max_size=60))
@example(" a ")
@example("#a")
@example('a"b\\')
@example("a\r\nEvil: 1")
@example("a,CN=root")
@example("ä\u2028")
def test_any_name_is_one_quoted_string_that_means_it(value: str) -> None:
    try:
        name = common_name(value)
    except ValueError:
        return
    written = distinguished_name(name)
    assert is_field_value(b'Subject="%b"' % written.replace("\\", "\\\\").encode("ascii"))
    assert '"' not in written
    assert "," not in written
    raw = written.removeprefix("CN=").encode()
    decoded = b""
    while raw:
        if raw[:1] == b"\\":
            decoded, raw = decoded + bytes.fromhex(raw[1:3].decode()), raw[3:]
        else:
            decoded, raw = decoded + raw[:1], raw[1:]
    assert decoded.decode("utf-8", "surrogatepass") == value
    assert x509.Name.from_rfc4514_string(written) == name
