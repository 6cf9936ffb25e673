"""TLS towards backends: one context for all targets of a backend, and how their certificates are judged."""

from __future__ import annotations

from attrs import frozen
from OpenSSL import SSL
from twisted.internet import ssl
from twisted.internet._sslverify import ClientTLSOptions, IOpenSSLTrustRoot
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer

from txgateway.transport.alpn import HTTP1

_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


@frozen
class TlsSettings:
    """How a backend's certificates are judged, and what we show them.

    Attributes:
        verify: check chain and name.
        ca_file: PEM file of the authorities to trust instead of the system's.
        cert_file: PEM file of our certificate and its chain, if we have one.
        key_file: PEM file of its key.
        server_name: name to ask for and to expect instead of the target's host.
        min_version: ``1.2`` or ``1.3``.
    """

    verify: bool = True
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    server_name: str | None = None
    min_version: str = "1.2"


class TlsContext:
    """The one TLS context of a backend's targets; building it reads the files.

    Raises:
        ValueError: a file cannot be read or does not hold what it should; the text names it.
    """

    def __init__(self, settings: TlsSettings) -> None:
        self._settings = settings
        trust: IOpenSSLTrustRoot | None = None
        if settings.verify:
            trust = _CaFile(settings.ca_file) if settings.ca_file else ssl.platformTrust()
        self._options = ssl.CertificateOptions(
            trustRoot=trust,
            raiseMinimumTo=_VERSIONS[settings.min_version],
        )
        try:
            context = self._options.getContext()
        except (SSL.Error, OSError) as exc:
            raise ValueError(f"cannot load CA certificates from {settings.ca_file}") from exc
        if settings.cert_file:
            key_file = settings.key_file or settings.cert_file
            try:
                context.use_certificate_chain_file(settings.cert_file)
                context.use_privatekey_file(key_file)
                context.check_privatekey()
            except (SSL.Error, OSError) as exc:
                raise ValueError(
                    f"cannot load a certificate with its key from {settings.cert_file}, {key_file}"
                ) from exc

    def for_host(self, host: str, protocols: tuple[bytes, ...] = (HTTP1,)) -> IOpenSSLClientConnectionCreator:
        """What makes connections to ``host``: the name sent, and the one the certificate must have.

        Args:
            protocols: that are offered by ALPN (RFC 7301), what we like best first.
        """
        name = self._settings.server_name or host

        def connection(tls_protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
            made: SSL.Connection = self._options._makeTLSConnection(tls_protocol)
            made.set_alpn_protos(list(protocols))
            return made

        creator = ClientTLSOptions(connection, name)
        return creator if self._settings.verify else _Unverified(creator)


@implementer(IOpenSSLTrustRoot)
class _CaFile:
    def __init__(self, path: str) -> None:
        self._path = path

    def _addCACertsToContext(self, context: SSL.Context) -> None:
        context.load_verify_locations(self._path)


@implementer(IOpenSSLClientConnectionCreator)
class _Unverified:
    """Takes the checks off the connections of another creator."""

    def __init__(self, creator: ClientTLSOptions) -> None:
        self._creator = creator

    def clientConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        connection = self._creator.clientConnectionForTLS(tlsProtocol)
        # Chains are looked at all the same. Without a callback of ours OpenSSL would keep calling the creator's, which
        # pyOpenSSL would have freed.
        connection.set_verify(SSL.VERIFY_NONE, _takes_any)
        return connection


def _takes_any(*_: object) -> bool:
    return True
