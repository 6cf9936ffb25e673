"""Certificates of a test's own authority, and a client that speaks TLS over a transport in memory."""

from __future__ import annotations

import ssl
from contextlib import suppress
from pathlib import Path
from typing import Any

import trustme
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import load_pem_x509_certificate
from tests.unit.support import MemoryTransport, Server
from twisted.internet.task import Clock

from txgateway.transport.server_contexts import KeyPair, ServerContexts
from txgateway.transport.server_tls import HandshakeFailures, TlsServerFactory, TlsServerTransport


def chain_of(certificate: trustme.LeafCert) -> bytes:
    """The certificate and what leads to its authority, in PEM form."""
    return b"".join(blob.bytes() for blob in certificate.cert_chain_pems)


def write_pair(directory: Path, name: str, certificate: trustme.LeafCert) -> tuple[str, str]:
    """Write ``NAME.crt`` and ``NAME.key``; returns their paths."""
    crt, key = directory / f"{name}.crt", directory / f"{name}.key"
    crt.write_bytes(chain_of(certificate))
    key.write_bytes(certificate.private_key_pem.bytes())
    return str(crt), str(key)


def key_pair(name: str, certificate: trustme.LeafCert) -> KeyPair:
    """As the gateway reads it."""
    chain = tuple(load_pem_x509_certificate(blob.bytes()) for blob in certificate.cert_chain_pems)
    return KeyPair(name, chain, load_pem_private_key(certificate.private_key_pem.bytes(), None))


def client_context(authority: trustme.CA, certificate: trustme.LeafCert | None = None) -> ssl.SSLContext:
    """What trusts the authority, and shows a certificate if there is one."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    if certificate is not None:
        certificate.configure_cert(context)
    return context


class TlsServer(Server):
    """A server transport over TLS: what it dispatches is kept, and answered by the test.

    Attributes:
        contexts: for the next connection.
        failed: how many handshakes failed.
    """

    def __init__(self, contexts: ServerContexts, **options: Any) -> None:
        super().__init__(**options)
        self.contexts = contexts
        self.failed = 0
        failures = HandshakeFailures(self._count, self.clock.seconds)
        self.tls_factory = TlsServerFactory(self.factory, lambda: self.contexts, failures, self.clock)

    def _count(self) -> None:
        self.failed += 1

    def open(self) -> tuple[TlsServerTransport, MemoryTransport]:
        """A TCP connection on which nothing was said yet."""
        transport = MemoryTransport(self.clock)
        protocol: Any = self.tls_factory.buildProtocol(None)
        transport.protocol = protocol
        protocol.makeConnection(transport)
        return protocol, transport


class MemoryTlsClient:
    """A client at the far end of a transport in memory.

    Attributes:
        tls: Python's side of it.
        ended: how the server's bytes ended: ``clean`` with the closing alert; empty as long as they go on.
    """

    def __init__(
        self, server: TlsServer, context: ssl.SSLContext, host: str | None = "a.example", *, shakes_hands: bool = True
    ) -> None:
        self.clock: Clock = server.clock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        if host is None:
            context.check_hostname = False
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self.protocol, self.transport = server.open()
        self.connection: Any = self.protocol.wrappedProtocol
        self.ended = ""
        if shakes_hands:
            self.shake_hands()

    def shake_hands(self) -> None:
        """To the end, on the server's side as well."""
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self.exchange()
            else:
                break
        self.exchange()

    def exchange(self) -> None:
        """Bytes travel both ways."""
        self.transport.send(self._outgoing.read())
        self.clock.advance(0)
        self._incoming.write(self.transport.received())

    def records(self, data: bytes, size: int = 0) -> bytes:
        """``data`` as records, not yet sent, of ``size`` bytes each if that is given."""
        for start in range(0, len(data), size or len(data) or 1):
            self.tls.write(data[start : start + (size or len(data))])
        return self._outgoing.read()

    def send(self, data: bytes) -> None:
        """Send ``data`` as one read."""
        self.transport.send(self.records(data))
        self.clock.advance(0)

    def received(self) -> bytes:
        """What came since the last call, decrypted."""
        self._incoming.write(self.transport.received())
        pieces = []
        try:
            while data := self.tls.read(65536):
                pieces.append(data)
            self.ended = "clean"
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.ended = "clean"
        return b"".join(pieces)

    def say_goodbye(self) -> None:
        """Send the closing alert, and nothing else."""
        with suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        self.transport.send(self._outgoing.read())
        self.clock.advance(0)
