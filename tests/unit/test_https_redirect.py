"""The listener that sends every client to where TLS is spoken."""

from __future__ import annotations

import pytest
from tests.unit.support import MemoryClient, MemoryGateway, Response, message, read_responses


class Redirecting(MemoryGateway):
    """A gateway whose clients come in by that listener."""

    def __init__(self, port: int = 8443) -> None:
        super().__init__()
        self.https_port = port
        self.plain = self.factory
        self.factory = self.plain.with_dispatch(self.pipeline.redirect)

    def ask(self, request: bytes, method: bytes = b"GET") -> Response:
        return self.connect().send(request).response(method)


def location(response: Response) -> str | None:
    assert response.status == 308, response
    (value,) = [value for name, value in response.fields if name.lower() == b"location"]
    return value.decode()


@pytest.mark.parametrize(
    ("target", "host", "port", "expected"),
    [
        (b"/a/b?c=d&e", b"gw.example", 8443, "https://gw.example:8443/a/b?c=d&e"),
        (b"/", b"gw.example", 443, "https://gw.example/"),
        (b"/", b"gw.example", 0, "https://gw.example/"),
        (b"/%61//..a", b"GW.example.:80", 8443, "https://gw.example:8443/%61//..a"),
        (b"/x", b"[2001:DB8::1]:8080", 8443, "https://[2001:db8::1]:8443/x"),
        (b"http://other.example:80/y?z", b"gw.example", 8443, "https://other.example:8443/y?z"),
        (b"http://other.example", b"gw.example", 443, "https://other.example/"),
        (b"//evil.example/x", b"gw.example", 443, "https://gw.example//evil.example/x"),
    ],
)
def test_same_target_of_the_same_host(target: bytes, host: bytes, port: int, expected: str) -> None:
    request = b"GET %b HTTP/1.1\r\nHost: %b\r\n\r\n" % (target, host)
    assert location(Redirecting(port).ask(request)) == expected


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: user@a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: .\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /../x HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
)
def test_request_that_would_be_refused_is_refused_here_too(request_bytes: bytes) -> None:
    gateway = Redirecting()
    response = gateway.ask(request_bytes)
    assert response.status == 400
    assert not [name for name, _ in response.fields if name.lower() == b"location"]
    assert len(gateway.log) == 1


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"POST", b"DELETE", b"OPTIONS", b"PURGE"])
def test_every_method_is_redirected_and_the_connection_lives_on(method: bytes) -> None:
    gateway = Redirecting()
    client = gateway.connect()
    for _ in range(2):
        client.send(message(b"/", method=method))
        assert location(client.response(method)) == "https://a:8443/"
    assert not client.transport.closed
    assert [(entry.status, entry.route_name) for entry in gateway.log] == [(308, None), (308, None)]


def test_body_is_not_read() -> None:
    gateway = Redirecting()
    client = gateway.connect()
    client.send(message(b"/upload", b"Content-Length: 1000000", b"Expect: 100-continue", method=b"POST"))
    (response,) = read_responses(client.received(), [b"POST"])
    assert location(response) == "https://a:8443/upload"
    assert (b"Connection", b"close") in response.fields
    assert client.transport.half_closed


def test_answer_has_the_usual_fields_but_no_hsts() -> None:
    names = {name for name, _ in Redirecting().ask(message(b"/")).fields}
    assert names >= {b"X-Request-ID", b"X-Content-Type-Options", b"Date"}
    assert b"Strict-Transport-Security" not in names


def test_it_is_counted_like_any_answer() -> None:
    gateway = Redirecting()
    gateway.ask(message(b"/"))
    (cells,) = [cells for name, cells in gateway.metrics.route("none").methods() if name == "GET"]
    assert cells.statuses == {308: 1}


def test_both_listeners_have_one_limit_of_connections() -> None:
    gateway = Redirecting()
    gateway.plain.max_connections = gateway.factory.max_connections = 1
    client: MemoryClient = gateway.connect()
    assert gateway.plain.buildProtocol(None) is None
    client.leave()
    assert gateway.plain.buildProtocol(None) is not None
    assert gateway.factory.buildProtocol(None) is None
