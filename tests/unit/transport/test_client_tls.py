from __future__ import annotations

import gc
import os
import ssl
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from tests.helpers.tls import chain_of, write_pair
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure

from txgateway.transport.client_tls import TlsContext, TlsSettings


class Target:
    """A target in memory, whose handshake with the gateway is over.

    Args:
        creator: of the gateway's side.
        context: of the target's.
        collects: what is nobody's is freed before the handshake.

    Attributes:
        names: that it was asked for.
        is_accepted: the gateway has finished its side.
        problem: why it has not.
        tls: the target's side.
    """

    def __init__(self, creator: Any, context: ssl.SSLContext, *, collects: bool = False) -> None:
        self.names: list[str | None] = []
        self.problem = ""
        context.sni_callback = lambda _, name, __: self.names.append(name)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(incoming, outgoing, server_side=True)
        transport = StringTransport()
        factory = TLSMemoryBIOFactory(creator, True, Factory.forProtocol(_Told), Clock())
        gateway: Any = factory.buildProtocol(None)
        gateway.wrappedProtocol.target = self
        gateway.makeConnection(transport)
        if collects:
            gc.collect()
        is_done = False
        for _ in range(8):
            incoming.write(transport.value())
            transport.clear()
            try:
                if not is_done:
                    self.tls.do_handshake()
                    is_done = True
                self.tls.read(1)
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError as exc:
                self.problem = self.problem or str(exc.reason)
            if data := outgoing.read():
                gateway.dataReceived(data)
        self.is_accepted = is_done and gateway._handshakeDone and not transport.disconnecting and not self.problem


class _Told(Protocol):
    target: Target

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self.target.problem = reason.getErrorMessage()


def serving(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> str:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return str(tmp_path / "ca.pem")


@pytest.mark.parametrize(
    ("of", "host", "server_name", "asked", "fits"),
    [
        ("a.example", "a.example", None, "a.example", True),
        ("a.example", "A.Example", None, "A.Example", True),
        ("b.example", "a.example", None, "a.example", False),
        ("*.example.com", "a.example.com", None, "a.example.com", True),
        ("*.example.com", "b.a.example.com", None, "b.a.example.com", False),
        ("127.0.0.1", "127.0.0.1", None, None, True),
        ("::1", "::1", None, None, True),
        ("127.0.0.2", "127.0.0.1", None, None, False),
        ("localhost", "127.0.0.1", None, None, False),
        ("b.example", "a.example", "b.example", "b.example", True),
        ("a.example", "a.example", "b.example", "b.example", False),
        ("b.example", "127.0.0.1", "b.example", "b.example", True),
        ("127.0.0.2", "a.example", "127.0.0.2", None, True),
    ],
)
def test_certificate_has_to_be_that_of_the_name(
    authority: trustme.CA, ca_file: str, of: str, host: str, server_name: str | None, asked: str | None, fits: bool
) -> None:
    creator = TlsContext(TlsSettings(ca_file=ca_file, server_name=server_name)).for_host(host)
    target = Target(creator, serving(authority.issue_cert(of)))
    assert target.names == [asked]
    assert target.is_accepted is fits


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("what", ["good", "name", "authority", "expired"])
def test_certificate_that_does_not_do_is_taken_only_where_nothing_is_verified(
    authority: trustme.CA, ca_file: str, version: ssl.TLSVersion, verify: bool, what: str
) -> None:
    past = datetime.now(UTC) - timedelta(hours=1)
    certificate = {
        "good": lambda: authority.issue_cert("a.example"),
        "name": lambda: authority.issue_cert("b.example"),
        "authority": lambda: trustme.CA().issue_cert("a.example"),
        "expired": lambda: authority.issue_cert("a.example", not_after=past),
    }[what]()
    context = serving(certificate)
    context.minimum_version = context.maximum_version = version
    creator = TlsContext(TlsSettings(verify, ca_file if verify else None)).for_host("a.example")
    target = Target(creator, context)
    assert target.is_accepted is (what == "good" or not verify)
    assert target.names == ["a.example"]  # it is asked for by name all the same


def test_authorities_of_the_system_are_trusted_without_a_file(authority: trustme.CA) -> None:
    target = Target(TlsContext(TlsSettings()).for_host("a.example"), serving(authority.issue_cert("a.example")))
    assert not target.is_accepted


#: What OpenSSL calls after it was freed is a crash.
_UNVERIFIED = """
import trustme
from tests.unit.transport.test_client_tls import Target, TlsContext, TlsSettings, serving
context = TlsContext(TlsSettings(verify=False))
certificate = trustme.CA().issue_cert("a.example")
for _ in range(20):
    assert Target(context.for_host("a.example"), serving(certificate), collects=True).is_accepted
"""


def test_nothing_that_is_freed_is_called_where_nothing_is_verified() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run([sys.executable, "-c", _UNVERIFIED], env=environment, timeout=60, check=False)
    assert ended.returncode == 0


@pytest.mark.parametrize(
    ("lowest", "spoken", "is_accepted"),
    [("1.2", ssl.TLSVersion.TLSv1_1, False), ("1.2", ssl.TLSVersion.TLSv1_2, True),
     ("1.3", ssl.TLSVersion.TLSv1_2, False), ("1.3", ssl.TLSVersion.TLSv1_3, True)],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_lowest_version(
    authority: trustme.CA, ca_file: str, lowest: str, spoken: ssl.TLSVersion, is_accepted: bool
) -> None:
    context = serving(authority.issue_cert("a.example"))
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, spoken
    creator = TlsContext(TlsSettings(ca_file=ca_file, min_version=lowest)).for_host("a.example")
    assert Target(creator, context).is_accepted is is_accepted


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("protocols", [(b"http/1.1",), (b"h2", b"http/1.1")])
def test_protocols_are_offered(authority: trustme.CA, ca_file: str, verify: bool, protocols: tuple[bytes, ...]) -> None:
    context = serving(authority.issue_cert("a.example"))
    context.set_alpn_protocols(["h2", "http/1.1"])
    tls = TlsContext(TlsSettings(verify, ca_file if verify else None))
    target = Target(tls.for_host("a.example", protocols), context)
    assert target.tls.selected_alpn_protocol() == protocols[0].decode()


@pytest.mark.parametrize("is_one_file", [True, False])
@pytest.mark.parametrize("verify", [True, False])
def test_certificate_is_shown_with_its_chain_to_those_who_ask(
    authority: trustme.CA, ca_file: str, tmp_path: Path, verify: bool, is_one_file: bool
) -> None:
    issuer = authority.create_child_ca()
    crt, key = write_pair(tmp_path, "client", shown := issuer.issue_cert("gateway.example"))
    if is_one_file:
        Path(crt).write_bytes(chain_of(shown) + Path(key).read_bytes())
    context = serving(authority.issue_cert("a.example"))
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)
    settings = TlsSettings(verify, ca_file if verify else None, crt, None if is_one_file else key)
    target = Target(TlsContext(settings).for_host("a.example"), context)
    assert target.is_accepted
    certificate: Any = target.tls.getpeercert()
    assert certificate["subjectAltName"] == (("DNS", "gateway.example"),)
    without = TlsSettings(verify, ca_file if verify else None)
    assert not Target(TlsContext(without).for_host("a.example"), context).is_accepted


def test_files_that_do_not_do_are_named(authority: trustme.CA, ca_file: str, tmp_path: Path) -> None:
    crt, key = write_pair(tmp_path, "a", authority.issue_cert("a.example"))
    _, other = write_pair(tmp_path, "b", authority.issue_cert("b.example"))
    for settings, why in (
        (TlsSettings(ca_file=str(tmp_path / "none.pem")), "none.pem"),
        (TlsSettings(ca_file=key), "a.key"),
        (TlsSettings(ca_file=ca_file, cert_file=crt, key_file=other), "b.key"),
        (TlsSettings(ca_file=ca_file, cert_file=crt), "a.crt"),
    ):
        with pytest.raises(ValueError, match=why):
            TlsContext(settings)
