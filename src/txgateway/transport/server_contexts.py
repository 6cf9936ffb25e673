"""TLS towards clients: what a listener shows and asks for, as OpenSSL contexts; one for each certificate.

Nothing is read from files here, and nothing changes once it is built: new certificates are a new
:class:`ServerContexts`, and connections that were made with the old one keep it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from attrs import frozen
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.x509 import Certificate, DNSName, ExtensionNotFound, SubjectAlternativeName
from OpenSSL import SSL
from OpenSSL.crypto import X509

from txgateway.transport.alpn import HTTP1, HTTP2

#: What clients may choose from by ALPN (RFC 7301), what we like best first. One that offers only others is refused;
#: one that offers nothing gets HTTP/1.1.
ALPN_PROTOCOLS: Final = (HTTP2, HTTP1, b"http/1.0")

#: Of TLS 1.2: ephemeral keys and authenticated encryption only. TLS 1.3 has no others, and needs no list.
_TLS_12_SUITES: Final = (
    b"ECDHE-ECDSA-AES128-GCM-SHA256",
    b"ECDHE-RSA-AES128-GCM-SHA256",
    b"ECDHE-ECDSA-AES256-GCM-SHA384",
    b"ECDHE-RSA-AES256-GCM-SHA384",
    b"ECDHE-ECDSA-CHACHA20-POLY1305",
    b"ECDHE-RSA-CHACHA20-POLY1305",
)
_OPTIONS: Final = SSL.OP_CIPHER_SERVER_PREFERENCE | SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION
_VERSIONS: Final = {"1.2": SSL.TLS1_2_VERSION, "1.3": SSL.TLS1_3_VERSION}
_VERIFY_MODES: Final = {
    "none": SSL.VERIFY_NONE,
    "optional": SSL.VERIFY_PEER,
    "required": SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT,
}
#: Sessions of clients that showed a certificate can be resumed only where they have a name.
_SESSION_ID: Final = b"txgateway"


@frozen
class KeyPair:
    """A certificate with its key.

    Attributes:
        name: a label.
        chain: the certificate, then what leads from it to its authority.
        key: of the first.
    """

    name: str
    chain: tuple[Certificate, ...]
    key: PrivateKeyTypes

    @property
    def certificate(self) -> Certificate:
        """The one that clients look at."""
        return self.chain[0]

    def host_names(self) -> list[str]:
        """The DNS names in its subject alternative names (RFC 5280 section 4.2.1.6), lowered, without final dots.

        Raises:
            ValueError: they cannot be read.
        """
        try:
            names = self.certificate.extensions.get_extension_for_class(SubjectAlternativeName).value
        except ExtensionNotFound:
            return []
        return [name.lower().rstrip(".") for name in names.get_values_for_type(DNSName)]


@frozen
class TlsPolicy:
    """What is asked of clients.

    Attributes:
        min_version: ``1.2`` or ``1.3``.
        client_auth: ``none``, ``optional`` or ``required``: whether they are asked for a certificate. One that is
            shown has to be good.
        client_authorities: who may have issued it.
        http2: is offered.
    """

    min_version: str = "1.2"
    client_auth: str = "none"
    client_authorities: tuple[Certificate, ...] = ()
    http2: bool = True


class UnusablePair(ValueError):
    """OpenSSL does not take a certificate or its key; the text says why.

    Attributes:
        index: of the pair.
    """

    def __init__(self, index: int, problem: str) -> None:
        super().__init__(problem)
        self.index = index


class ServerContexts:
    """The contexts of all certificates of a listener, and the choice between them.

    Session tickets are encrypted with keys that OpenSSL makes with the default certificate's context and that nobody
    else has: they resume sessions in the process that issued them, as long as it shows these certificates.

    Args:
        pairs: at least one; the first is for clients that name no host, or one that no certificate has. Of several
            with one name the first has it.
        policy: for all of them.

    Raises:
        UnusablePair: OpenSSL does not take one.
    """

    def __init__(self, pairs: Sequence[KeyPair], policy: TlsPolicy) -> None:
        self.pairs = tuple(pairs)
        self._exact: dict[bytes, SSL.Context] = {}
        self._wildcards: dict[bytes, SSL.Context] = {}
        contexts = []
        for index, pair in enumerate(pairs):
            try:
                context = make_context(pair, policy)
                self._name(context, pair.host_names())
            except ValueError as exc:
                raise UnusablePair(index, str(exc)) from exc
            contexts.append(context)
        self.default = contexts[0]
        self.default.set_tlsext_servername_callback(self._choose)

    def connection(self) -> SSL.Connection:
        """A connection that is yet to shake hands, with memory on its other side.

        Whoever has it keeps these contexts as long: a connection that has chosen another one lets go of the default,
        whose callback it calls a second time after a HelloRetryRequest (RFC 8446 section 4.1.4).
        """
        connection = SSL.Connection(self.default)
        connection.set_accept_state()
        return connection

    def context_for(self, server_name: bytes | None) -> SSL.Context:
        """The context for a host: of the certificate with its name, else with a wildcard for its first label."""
        if server_name is None:
            return self.default
        name = server_name.lower().rstrip(b".")
        found = self._exact.get(name)
        if found is None:
            label, _, parent = name.partition(b".")
            found = self._wildcards.get(parent) if label else None
        return self.default if found is None else found

    def _name(self, context: SSL.Context, host_names: list[str]) -> None:
        for name in host_names:
            if not name.isascii():  # as it must be
                continue
            if name.startswith("*."):
                self._wildcards.setdefault(name[2:].encode("ascii"), context)
            else:
                self._exact.setdefault(name.encode("ascii"), context)

    def _choose(self, connection: SSL.Connection) -> None:
        connection.set_context(self.context_for(connection.get_servername()))


def make_context(pair: KeyPair, policy: TlsPolicy) -> SSL.Context:
    """A context that shows ``pair``. Each carries the whole policy: the SNI callback changes what is verified against.

    Raises:
        ValueError: OpenSSL does not take it.
    """
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(_VERSIONS[policy.min_version])
    context.set_cipher_list(b":".join(_TLS_12_SUITES))
    context.set_options(_OPTIONS)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    protocols = tuple(protocol for protocol in ALPN_PROTOCOLS if policy.http2 or protocol != HTTP2)
    context.set_alpn_select_callback(lambda _, offered: _select_protocol(protocols, offered))
    # Tickets need no memory of ours; the cache is for clients that have none.
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_session_id(_SESSION_ID)
    context.set_verify(_VERIFY_MODES[policy.client_auth])
    try:
        context.use_certificate(pair.certificate)
        for link in pair.chain[1:]:
            context.add_extra_chain_cert(link)
        context.use_privatekey(pair.key)  # type: ignore[arg-type]  # other kinds are a TypeError
        context.check_privatekey()
        store = context.get_cert_store()
        assert store is not None
        for authority in policy.client_authorities:
            store.add_cert(X509.from_cryptography(authority))
            context.add_client_ca(authority)
    except SSL.Error as exc:
        raise ValueError(f"OpenSSL does not take it ({reason_of(exc)})") from exc
    except TypeError as exc:
        raise ValueError("OpenSSL does not take a key of this kind") from exc
    return context


def reason_of(error: SSL.Error) -> str:
    """What OpenSSL says went wrong; a fixed text of its own, never anything that the other side sent."""
    if isinstance(error, SSL.SysCallError) or not error.args or not error.args[0]:
        return "unexpected end"
    reason: str = error.args[0][-1][2]
    return reason or "unknown"


def _select_protocol(protocols: Sequence[bytes], offered: Sequence[bytes]) -> bytes:
    for protocol in protocols:
        if protocol in offered:
            return protocol
    # RFC 7301 section 3.2: the alert no_application_protocol. An exception is how pyOpenSSL is told to send it.
    raise SSL.Error([("SSL routines", "", "no application protocol")])
