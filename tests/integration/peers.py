"""Clients that come from a place of the test's choice: another loopback address, or a Unix socket."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from tests.integration.client import Client, Response
from tests.integration.harness import Gateway
from tests.integration.wire import TIMEOUT_S, Wire


class Peer(Client):
    """A client over a socket that is connected already."""

    def __init__(self, sock: socket.socket) -> None:
        Wire.__init__(self, sock)


def from_address(gateway: Gateway, source: str) -> Peer:
    """A client at this address of the loopback network."""
    return Peer(socket.create_connection(("127.0.0.1", gateway.port), TIMEOUT_S, (source, 0)))


def over_unix(path: Path) -> Peer:
    """A client at the other end of a Unix socket."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(TIMEOUT_S)
    sock.connect(os.fspath(path))
    return Peer(sock)


def get_through(client: Client, target: str, *fields: str, method: str = "GET") -> Response:
    """A request without a body on a connection that is closed after it."""
    head = "\r\n".join((f"{method} {target} HTTP/1.1", "Host: gateway.test", *fields, "", ""))
    with client:
        client.send(head.encode("latin-1"))
        return client.read_response(method)


def get_from(gateway: Gateway, source: str, target: str, *fields: str, method: str = "GET") -> Response:
    """A request without a body from an address of the loopback network."""
    return get_through(from_address(gateway, source), target, *fields, method=method)
