"""TLS for gateways and for their clients: certificates of the test's own authority, and a strict client over TLS."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

import trustme
from tests.helpers.tls import client_context, write_pair
from tests.integration.client import Client, Response
from tests.integration.harness import Gateway
from tests.integration.wire import TIMEOUT_S, Wire

__all__ = ["TlsClient", "certificate_variables", "client_context", "get_over_tls", "names_of", "write_pair"]

#: Of every certificate that no test has given another name.
HOST = "gateway.test"


def certificate_variables(directory: Path, authority: trustme.CA, *hosts: str) -> dict[str, str]:
    """The variables of a pair that is written to ``directory``."""
    crt, key = write_pair(directory, "gateway", authority.issue_cert(*(hosts or (HOST,))))
    return {"GATEWAY_TLS_CERT_FILE": crt, "GATEWAY_TLS_KEY_FILE": key}


class TlsClient(Client):
    """A client over TLS, whose handshake is done.

    An end without the closing alert is an error of the ``ssl`` module here, never an end.

    Args:
        port: of the gateway, or a socket that is connected to it.
        context: the client's.
        host: to ask for and to expect; None asks for none.
    """

    def __init__(
        self,
        port: int | socket.socket,
        context: ssl.SSLContext,
        host: str | None = HOST,
        *,
        receive_bytes: int = 0,
        session: ssl.SSLSession | None = None,
    ) -> None:
        sock = port if isinstance(port, socket.socket) else socket.socket()
        sock.settimeout(TIMEOUT_S)
        if isinstance(port, int):
            if receive_bytes:  # takes effect only before the connection is made
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
            sock.connect(("127.0.0.1", port))
        try:
            self.tls = context.wrap_socket(sock, server_hostname=host, suppress_ragged_eofs=False, session=session)
        except BaseException:
            sock.close()
            raise
        Wire.__init__(self, self.tls)

    def is_cut(self) -> bool:
        """Whether the gateway's bytes end without its closing alert; what comes before is dropped."""
        try:
            while self.socket.recv(65536):
                pass
        except (ConnectionResetError, ssl.SSLEOFError):
            return True
        return False

    def is_gone(self) -> bool:
        """Whether the gateway goes away, in whatever way, within the bound; what comes before it is dropped."""
        try:
            return super().is_gone()
        except ssl.SSLError:
            return True


def get_over_tls(gateway: Gateway, context: ssl.SSLContext, target: str = "/", *fields: str) -> Response:
    """A request without a body on a connection of its own."""
    head = "\r\n".join((f"GET {target} HTTP/1.1", f"Host: {HOST}", *fields, "", ""))
    with TlsClient(gateway.port, context) as client:
        client.send(head.encode("latin-1"))
        return client.read_response()


def names_of(client: TlsClient) -> list[str]:
    """The names in the certificate that the gateway has shown."""
    certificate = client.tls.getpeercert()
    assert certificate is not None
    names: list[tuple[str, str]] = certificate["subjectAltName"]  # type: ignore[assignment]
    return [value for _, value in names]
