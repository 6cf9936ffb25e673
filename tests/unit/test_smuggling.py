"""Messages that two parties could read differently: each is refused once, well formed, and the connection ends."""

from __future__ import annotations

import pytest
from tests.unit.support import MemoryClient, MemoryGateway, Response, logged_failures, read_responses

POST = b"POST /x HTTP/1.1\r\nHost: a\r\n"
GET = b"GET /x HTTP/1.1\r\nHost: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
NEXT = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"

HEADS = {
    # two lengths
    "length-and-chunked": (POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "chunked-and-length": (POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400),
    "chunked-and-length-0": (POST + b"Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n0\r\n\r\n", 400),
    "two-lengths": (POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", 400),
    "two-equal-lengths": (POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", 400),
    "list-of-lengths": (POST + b"Content-Length: 5, 5\r\n\r\nhello", 400),
    # lengths that are none
    "length-plus": (POST + b"Content-Length: +3\r\n\r\nabc", 400),
    "length-minus": (POST + b"Content-Length: -1\r\n\r\n", 400),
    "length-hex": (POST + b"Content-Length: 0x3\r\n\r\nabc", 400),
    "length-underscore": (POST + b"Content-Length: 1_0\r\n\r\n0123456789", 400),
    "length-blank-inside": (POST + b"Content-Length: 1 0\r\n\r\n0123456789", 400),
    "length-empty": (POST + b"Content-Length:\r\n\r\n", 400),
    "length-fraction": (POST + b"Content-Length: 3.0\r\n\r\nabc", 400),
    "length-huge": (POST + b"Content-Length: 99999999999999999999\r\n\r\n", 400),
    "length-19-digits": (POST + b"Content-Length: 1000000000000000000\r\n\r\n", 400),
    "length-wraps-to-5": (POST + b"Content-Length: 18446744073709551621\r\n\r\nhello", 400),
    "length-arabic-digits": (POST + b"Content-Length: \xd9\xa3\r\n\r\nabc", 400),
    # codings
    "identity": (POST + b"Transfer-Encoding: identity\r\n\r\n", 400),
    "gzip-chunked": (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400),
    "chunked-gzip": (POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", 400),
    "chunked-chunked": (POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 400),
    "chunked-twice": (POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "chunked-then-identity": (POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", 400),
    "xchunked": (POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
    "chunked-quoted": (POST + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n', 400),
    "chunked-parameter": (POST + b"Transfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n", 400),
    "chunked-vertical-tab": (POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400),
    "coding-empty": (POST + b"Transfer-Encoding:\r\n\r\n", 400),
    "coding-comma": (POST + b"Transfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n", 400),
    "chunked-1.0": (b"POST /x HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    # names and values
    "folded": (GET + b"X-A: b\r\n c\r\n\r\n", 400),
    "folded-coding": (POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", 400),
    "folded-first": (b"GET /x HTTP/1.1\r\n X-A: b\r\nHost: a\r\n\r\n", 400),
    "blank-before-colon": (GET + b"X-A : b\r\n\r\n", 400),
    "tab-before-colon": (POST + b"Content-Length\t: 5\r\n\r\nhello", 400),
    "blank-in-name": (GET + b"X A: b\r\n\r\n", 400),
    "blank-before-name": (GET + b"X-A: b\r\n Content-Length: 5\r\n\r\nhello", 400),
    "no-name": (GET + b": b\r\n\r\n", 400),
    "no-colon": (GET + b"nonsense\r\n\r\n", 400),
    "nul-in-name": (GET + b"X\x00A: b\r\n\r\n", 400),
    "nul-in-value": (GET + b"X-A: b\x00c\r\n\r\n", 400),
    "control-in-value": (GET + b"X-A: b\x01c\r\n\r\n", 400),
    "delete-in-value": (GET + b"X-A: b\x7fc\r\n\r\n", 400),
    "high-byte-in-name": (GET + b"X-\xe9: b\r\n\r\n", 400),
    "bracket-in-name": (GET + b"X[A]: b\r\n\r\n", 400),
    # line endings
    "bare-lf": (b"GET /x HTTP/1.1\nHost: a\n\n", 400),
    "bare-lf-after-line": (b"GET /x HTTP/1.1\nHost: a\r\n\r\n", 400),
    "bare-lf-in-fields": (GET + b"X-A: b\nX-B: c\r\n\r\n", 400),
    "bare-lf-at-end": (GET + b"\nX-B: c\r\n\r\n", 400),
    "bare-cr-in-value": (GET + b"X-A: b\rc\r\n\r\n", 400),
    "bare-cr-at-end": (GET + b"X-A: b\r\rX-B: c\r\n\r\n", 400),
    "cr-cr-lf": (GET + b"X-A: b\r\r\n\r\n", 400),
    # Host
    "no-host": (b"GET /x HTTP/1.1\r\nX-A: b\r\n\r\n", 400),
    "no-fields": (b"GET /x HTTP/1.1\r\n\r\n", 400),
    "two-hosts": (b"GET /x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    "two-equal-hosts": (b"GET /x HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
    "host-empty": (b"GET /x HTTP/1.1\r\nHost:\r\n\r\n", 400),
    "host-list": (b"GET /x HTTP/1.1\r\nHost: a, b\r\n\r\n", 400),
    "host-with-path": (b"GET /x HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
    "host-with-user": (b"GET /x HTTP/1.1\r\nHost: u@a\r\n\r\n", 400),
    "host-with-blank": (b"GET /x HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
    "host-with-bad-port": (b"GET /x HTTP/1.1\r\nHost: a:b\r\n\r\n", 400),
    "host-on-1.0-twice": (b"GET /x HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    "absolute-and-two-hosts": (b"GET http://a/x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    "absolute-and-no-host": (b"GET http://a/x HTTP/1.1\r\nX-A: b\r\n\r\n", 400),
    "absolute-with-user": (b"GET http://u@a/x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "absolute-other-scheme": (b"GET ftp://a/x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "absolute-no-authority": (b"GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    # request line
    "garbage-before": (b"\x00\x01GET /x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "lf-before": (b"\nGET /x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "cr-before": (b"\rGET /x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "blank-before": (b" GET /x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "two-blanks": (b"GET  /x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "two-blanks-before-version": (b"GET /x  HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "tab-for-blank": (b"GET\t/x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "blank-in-target": (b"GET /x y HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "blank-after-version": (b"GET /x HTTP/1.1 \r\nHost: a\r\n\r\n", 400),
    "high-byte-in-target": (b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "nul-in-target": (b"GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "relative-target": (b"GET x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "lower-case-version": (b"GET /x http/1.1\r\nHost: a\r\n\r\n", 400),
    "rtsp": (b"GET /x RTSP/1.0\r\nHost: a\r\n\r\n", 400),
    "ice": (b"SOURCE /x ICE/1.0\r\nHost: a\r\n\r\n", 400),
    "long-version": (b"GET /x HTTP/1.10\r\nHost: a\r\n\r\n", 400),
    "http-0.9": (b"GET /x\r\n\r\n", 505),
    "http-0.9-said": (b"GET /x HTTP/0.9\r\nHost: a\r\n\r\n", 505),
    "http-2.0": (b"GET /x HTTP/2.0\r\nHost: a\r\n\r\n", 505),
    "http-3.0": (b"GET /x HTTP/3.0\r\nHost: a\r\n\r\n", 505),
    "http-2-method": (b"PRI * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "tls-hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\r\n\r\n", 400),
}  # fmt: skip

BODIES = {
    "size-plus": b"+5\r\nhello\r\n0\r\n\r\n",
    "size-minus": b"-5\r\nhello\r\n0\r\n\r\n",
    "size-0x": b"0x5\r\nhello\r\n0\r\n\r\n",
    "size-underscore": b"0_5\r\nhello\r\n0\r\n\r\n",
    "size-empty": b"\r\nhello\r\n0\r\n\r\n",
    "size-blank-before": b" 5\r\nhello\r\n0\r\n\r\n",
    "size-blank-after": b"5 \r\nhello\r\n0\r\n\r\n",
    "size-overflow": b"10000000000000005\r\nhello\r\n0\r\n\r\n",
    "size-bare-lf": b"5\nhello\r\n0\r\n\r\n",
    "size-bare-cr": b"5\rhello\r\n0\r\n\r\n",
    "extension-bare-lf": b"5;a\nb\r\nhello\r\n0\r\n\r\n",
    "extension-control": b"5;a=\x00\r\nhello\r\n0\r\n\r\n",
    "extension-too-long": b"5;" + b"a" * 5000 + b"\r\nhello\r\n0\r\n\r\n",
    "data-too-long": b"5\r\nhello!\r\n0\r\n\r\n",
    "data-too-short": b"6\r\nhello\r\n0\r\n\r\n",
    "data-bare-lf": b"5\r\nhello\n0\r\n\r\n",
    "trailer-folded": b"0\r\nX-A: b\r\n c\r\n\r\n",
    "trailer-bare-lf": b"0\r\nX-A: b\nX-B: c\r\n\r\n",
    "trailer-no-colon": b"0\r\nnonsense\r\n\r\n",
    "trailer-too-large": b"0\r\nX-A: " + b"a" * 20_000 + b"\r\n\r\n",
}


def refused(gateway: MemoryGateway, client: MemoryClient) -> Response:
    """The one refusal that the client got; the connection is over."""
    (response,) = read_responses(client.received())
    assert response.get(b"connection") == b"close"
    assert response.get(b"content-length") == b"%d" % len(response.body)
    assert response.problem["status"] == response.status
    assert client.transport.half_closed
    client.end()
    assert client.transport.closed
    assert len(gateway.log) == 1
    assert gateway.log[0].status == response.status
    assert not gateway.factory.connections
    gateway.assert_clean()
    return response


@pytest.mark.parametrize("split", ["whole", "bytes"])
@pytest.mark.parametrize(("sent", "status"), HEADS.values(), ids=HEADS)
def test_ambiguous_head_is_refused_and_reaches_no_target(sent: bytes, status: int, split: str) -> None:
    gateway = MemoryGateway()
    client = gateway.connect()
    with logged_failures() as failures:
        client.send(*([sent + NEXT] if split == "whole" else [bytes((byte,)) for byte in sent + NEXT]))
        assert refused(gateway, client).status == status
    assert not gateway.dialer.targets
    assert not failures


@pytest.mark.parametrize(("sent", "status"), HEADS.values(), ids=HEADS)
def test_ambiguous_head_behind_a_good_request_is_refused_alike(sent: bytes, status: int) -> None:
    gateway = MemoryGateway()
    client = gateway.connect()
    client.send(GET + b"\r\n")
    gateway.target.answer()
    assert client.response().status == 200
    client.send(sent)
    (response,) = read_responses(client.received())
    assert (response.status, response.get(b"connection")) == (status, b"close")
    assert client.transport.half_closed
    assert [request.status for request in gateway.log] == [200, status]
    assert gateway.target.received().count(b"GET ") == 1


@pytest.mark.parametrize("sent", BODIES.values(), ids=BODIES)
def test_ambiguous_body_that_came_with_its_head_is_refused_and_reaches_no_target(sent: bytes) -> None:
    gateway = MemoryGateway()
    client = gateway.connect()
    with logged_failures() as failures:
        client.send(CHUNKED + sent + NEXT)
        assert refused(gateway, client).status == 400
    assert not gateway.dialer.targets
    assert not failures


@pytest.mark.parametrize("sent", BODIES.values(), ids=BODIES)
def test_ambiguous_body_that_came_later_is_refused_and_its_target_sees_no_end(sent: bytes) -> None:
    gateway = MemoryGateway()
    client = gateway.connect()
    with logged_failures() as failures:
        client.send(CHUNKED, *(bytes((byte,)) for byte in sent + NEXT))
        assert refused(gateway, client).status == 400
    target = gateway.target
    assert target.closed
    received = target.received()
    assert b"smuggled" not in received
    assert not received.endswith(b"0\r\n\r\n")
    assert not failures


@pytest.mark.parametrize("split", ["whole", "bytes"])
@pytest.mark.parametrize(("method", "status"), [(b"FOO", 501), (b"get", 501), (b"GE", 501), (b"G@T", 400), (b"", 400)])
def test_unknown_method_is_refused(method: bytes, status: int, split: str) -> None:
    gateway = MemoryGateway()
    client = gateway.connect()
    sent = method + b" /x HTTP/1.1\r\nHost: a\r\n\r\n"
    client.send(*([sent] if split == "whole" else [bytes((byte,)) for byte in sent]))
    # A byte at a time, the method is refused before the line shows that it is a request at all.
    assert refused(gateway, client).status in ({status} if split == "whole" else {status, 400})
    assert not gateway.dialer.targets


def test_absolute_form_overrides_host() -> None:
    gateway = MemoryGateway({"GATEWAY_TIMEOUT_TOTAL": "5s"})
    gateway.connect().send(b"GET http://other:81/x?y HTTP/1.1\r\nHost: a\r\n\r\n")
    received = gateway.target.received()
    assert received.startswith(b"GET /x?y HTTP/1.1\r\n")
    assert b"X-Forwarded-Host: other:81\r\n" in received
    assert b"Host: a\r\n" not in received


@pytest.mark.parametrize("sent", [b"\r\n", b"\r\n\r\n", b"\r\n" * 100])
def test_empty_lines_before_a_request_are_ignored(sent: bytes) -> None:
    gateway = MemoryGateway()
    client = gateway.connect()
    client.send(sent + GET + b"\r\n")
    assert len(gateway.dialer.targets) == 1
    gateway.target.answer()
    client.send(*(bytes((byte,)) for byte in sent + GET + b"\r\n"))
    gateway.target.answer()
    assert [response.status for response in read_responses(client.received())] == [200, 200]
