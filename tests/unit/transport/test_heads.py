from __future__ import annotations

import pytest

from txgateway.errors import (
    BadHost,
    BadRequest,
    GatewayError,
    HeadersTooLarge,
    MethodNotImplemented,
    UriTooLong,
    VersionNotSupported,
)
from txgateway.transport.heads import (
    RequestHeadReader,
    write_fields,
)
from txgateway.transport.interfaces import NO_BODY, UNKNOWN_LENGTH, RequestHead, ServerLimits

GET = b"GET /x?y HTTP/1.1\r\nHost: a\r\n\r\n"


def reader(limits: ServerLimits | None = None) -> RequestHeadReader:
    return RequestHeadReader(limits or ServerLimits())


def read(data: bytes) -> RequestHead:
    """The one head that ``data`` is, whole and byte by byte."""
    head, rest = reader().feed(data)
    assert head is not None
    assert rest == b""
    split = reader()
    for at in range(len(data)):
        again, rest = split.feed(data[at : at + 1])
        assert (again is not None) == (at == len(data) - 1)
    assert again is not None
    assert {name: getattr(again, name) for name in RequestHead.__slots__} == {
        name: getattr(head, name) for name in RequestHead.__slots__
    }
    return head


def request(*fields: bytes, version: bytes = b"HTTP/1.1", method: bytes = b"GET") -> RequestHead:
    return read(b"\r\n".join((method + b" / " + version, b"Host: a", *fields, b"", b"")))


def refusal(data: bytes, limits: ServerLimits | None = None) -> GatewayError:
    with pytest.raises(GatewayError) as raised:
        reader(limits).feed(data)
    return raised.value


def test_head_is_told_as_received() -> None:
    head = read(b"POST /x?y=%20 HTTP/1.1\r\nHost: a\r\nX-One: 1\r\nx-ONE:2\r\nContent-Length: 5\r\n\r\n")
    assert (head.method, head.target, head.version, head.length) == (b"POST", b"/x?y=%20", b"HTTP/1.1", 5)
    assert list(head.headers) == [
        (b"host", b"Host", b"a"),
        (b"x-one", b"X-One", b"1"),
        (b"x-one", b"x-ONE", b"2"),
        (b"content-length", b"Content-Length", b"5"),
    ]
    assert head.fields == {b"host": b"a", b"x-one": b"2", b"content-length": b"5"}
    assert (head.keep_alive, head.upgrade) == (True, b"")


def test_what_follows_a_head_is_given_back() -> None:
    feeding = reader()
    head, rest = feeding.feed(GET + GET + b"GET /par")
    assert head is not None
    head, rest = feeding.feed(rest)
    assert head is not None
    assert rest == b"GET /par"
    assert feeding.feed(rest) == (None, b"")
    assert feeding.partial == b"GET /par"
    head, rest = feeding.feed(b"t HTTP/1.1\r\nHost: a\r\n\r\nbody")
    assert head is not None
    assert (head.target, rest, feeding.partial) == (b"/part", b"body", b"")


def test_blanks_around_a_value_are_not_part_of_it() -> None:
    head = request(b"X-A: \t b  c \t", b"X-B:d\t", b"X-C:", b"X-D:  ")
    assert [value for _, _, value in head.headers] == [b"a", b"b  c", b"d", b"", b""]
    assert head.fields[b"x-a"] == b"b  c"


@pytest.mark.parametrize(
    ("fields", "length"),
    [
        ((), NO_BODY),
        ((b"Content-Length: 0",), 0),
        ((b"Content-Length: 0005 ",), 5),
        ((b"Content-Length: 999999999999999999",), 999_999_999_999_999_999),
        ((b"Transfer-Encoding: chunked",), UNKNOWN_LENGTH),
        ((b"Transfer-Encoding: CHUNKED",), UNKNOWN_LENGTH),
    ],
)
def test_length_of_the_body(fields: tuple[bytes, ...], length: int) -> None:
    assert request(*fields, method=b"POST").length == length


@pytest.mark.parametrize(
    ("version", "fields", "keeps"),
    [
        (b"HTTP/1.1", (), True),
        (b"HTTP/1.2", (), True),
        (b"HTTP/1.1", (b"Connection: close",), False),
        (b"HTTP/1.1", (b"Connection: Close",), False),
        (b"HTTP/1.1", (b"Connection: x, close",), False),
        (b"HTTP/1.1", (b"Connection: close", b"Connection: keep-alive"), False),
        (b"HTTP/1.1", (b"Connection: closed",), True),
        (b"HTTP/1.1", (b"Connection: x",), True),
        (b"HTTP/1.0", (), False),
        (b"HTTP/1.0", (b"Connection: keep-alive",), True),
        (b"HTTP/1.0", (b"Connection: x", b"Connection: Keep-Alive"), True),
        (b"HTTP/1.0", (b"Connection: keep-alive, close",), False),
    ],
)
def test_whether_the_connection_lives_on(version: bytes, fields: tuple[bytes, ...], keeps: bool) -> None:
    head = request(*fields, version=version)
    assert head.keep_alive is keeps
    assert head.version == (b"HTTP/1.0" if version == b"HTTP/1.0" else b"HTTP/1.1")


@pytest.mark.parametrize(
    ("version", "fields", "upgrade"),
    [
        (b"HTTP/1.1", (b"Connection: Upgrade", b"Upgrade: websocket"), b"websocket"),
        (b"HTTP/1.1", (b"Connection: keep-alive", b"Connection: upgrade", b"Upgrade: h2c"), b"h2c"),
        (b"HTTP/1.1", (b"Upgrade: websocket",), b""),
        (b"HTTP/1.1", (b"Connection: upgrade",), b""),
        (b"HTTP/1.0", (b"Connection: upgrade, keep-alive", b"Upgrade: websocket"), b""),
        (b"HTTP/1.1", (b"Connection: Upgrade", b"Upgrade: websocket", b"Content-Length: 3"), b""),
        (b"HTTP/1.1", (b"Connection: Upgrade", b"Upgrade:"), b""),
    ],
)
def test_upgrade_that_is_asked_for(version: bytes, fields: tuple[bytes, ...], upgrade: bytes) -> None:
    assert request(*fields, version=version).upgrade == upgrade


@pytest.mark.parametrize(
    "first",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
        b"GET / HTTP/1.0\r\nConnection: upgrade, keep-alive\r\nUpgrade: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    ],
)
def test_next_head_can_be_read_after_any(first: bytes) -> None:
    feeding = reader()
    for data in (first, GET, first, GET):
        head, rest = feeding.feed(data)
        assert head is not None
        assert rest == b""


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", BadHost),
        (b"GET / HTTP/1.1\r\n\r\n", BadHost),
        (b"GET http://a/ HTTP/1.1\r\nX-Host: a\r\n\r\n", BadHost),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n", BadRequest),
        (b"FOO / HTTP/1.1\r\nHost: a\r\n\r\n", MethodNotImplemented),
        (b"FOO / HTTP/2.0\r\nHost: a\r\n\r\n", VersionNotSupported),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", VersionNotSupported),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", VersionNotSupported),
        (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", BadRequest),
        (b"GET / RTSP/1.0\r\nHost: a\r\n\r\n", BadRequest),
        (b"POST / HTTP/1.1\r\nContent-Length: 1000000000000000000\r\n\r\n", BadRequest),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", BadRequest),
    ],
)
def test_refusals(data: bytes, error: type[GatewayError]) -> None:
    assert type(refusal(data)) is error


def test_host_is_asked_for_in_each_request_but_those_of_http_10() -> None:
    assert read(b"GET / HTTP/1.0\r\n\r\n").headers == ()
    feeding = reader()
    assert feeding.feed(GET)[0] is not None
    with pytest.raises(BadHost):
        feeding.feed(b"GET /x?y HTTP/1.1\r\nHos: ab\r\n\r\n")


@pytest.mark.parametrize("is_split", [False, True])
def test_what_is_known_of_a_refused_head_is_told(is_split: bool) -> None:
    data = b"POST /x?y HTTP/1.1\r\nHost: a\r\nUser-Agent: u\r\nContent-Length: x\r\n\r\n"
    feeding = reader()
    with pytest.raises(BadRequest):
        for piece in [data[at : at + 1] for at in range(len(data))] if is_split else [data]:
            feeding.feed(piece)
    head = feeding.refused()
    assert (head.method, head.target) == (b"POST", b"/x?y")
    assert (head.fields[b"host"], head.fields[b"user-agent"]) == (b"a", b"u")
    assert (head.length, head.keep_alive) == (NO_BODY, False)


def test_refused_for_its_fields_a_head_is_still_known() -> None:
    feeding = reader()
    with pytest.raises(BadHost):
        feeding.feed(b"HEAD /x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
    head = feeding.refused()
    assert (head.method, head.target) == (b"HEAD", b"/x")


# --- limits ---------------------------------------------------------------------------------------------------------

SMALL = ServerLimits(max_uri_bytes=200, max_header_bytes=300, max_header_count=5)


def sized(uri: int, headers: int) -> bytes:
    """A head with a target of ``uri`` bytes and a header section, its empty line included, of ``headers``."""
    fields = b"Host: a\r\nX: \r\n\r\n"
    fields = b"Host: a\r\nX: " + b"x" * (headers - len(fields)) + b"\r\n\r\n"
    return b"GET /" + b"u" * (uri - 1) + b" HTTP/1.1\r\n" + fields


@pytest.mark.parametrize("step", [1, 7, 10_000])
@pytest.mark.parametrize(
    ("uri", "headers", "error"),
    [
        (200, 300, None),
        (201, 20, UriTooLong),
        (20, 301, HeadersTooLarge),
        (201, 301, UriTooLong),
        (5000, 20, UriTooLong),
        (20, 5000, HeadersTooLarge),
    ],
)
def test_size_limits_hold_in_any_split(step: int, uri: int, headers: int, error: type[GatewayError] | None) -> None:
    data, feeding = sized(uri, headers), reader(SMALL)
    caught: GatewayError | None = None
    fed = 0
    try:
        for at in range(0, len(data), step):
            feeding.feed(data[at : at + step])
            fed += step
    except GatewayError as exc:
        caught = exc
    assert type(caught) is (error or type(None))
    if error is not None and step == 1:
        assert fed <= 600  # refused when it exceeds, not when it ends


def test_endless_request_line_is_refused_early() -> None:
    feeding = reader(SMALL)
    with pytest.raises(UriTooLong):
        for piece in [b"GET /", *[b"u"] * 300]:
            feeding.feed(piece)
    assert len(feeding.partial) < 300


def test_number_of_fields_is_limited() -> None:
    fields = [b"X-%d: 1" % number for number in range(4)]
    assert reader(SMALL).feed(b"\r\n".join((b"GET / HTTP/1.1", b"Host: a", *fields, b"", b"")))[0] is not None
    error = refusal(b"\r\n".join((b"GET / HTTP/1.1", b"Host: a", *fields, b"Y: 1", b"", b"")), SMALL)
    assert type(error) is HeadersTooLarge


def test_one_read_of_empty_lines_costs_one_pass() -> None:
    feeding = reader()
    assert feeding.feed(b"\r\n" * 32_768 + GET)[0] is not None
    assert feeding.feed(b"\r\n" * 32_768) == (None, b"")
    assert feeding.partial == b""


# --- an answer that the whole request line decides --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b"FOO / HTTP/1.1\r\n", MethodNotImplemented),
        (b"GETX / HTTP/1.0\r\n", MethodNotImplemented),
        (b"DESCRIBE / HTTP/1.1\r\n", MethodNotImplemented),  # of RTSP, which llhttp knows as well
        (b"FOO / HTTP/2.0\r\n", VersionNotSupported),
        (b"GET / HTTP/2.0\r\n", VersionNotSupported),
        (b"FOO  / HTTP/1.1\r\n", BadRequest),
        (b"FOO /\x80 HTTP/1.1\r\n", BadRequest),
        (b"FOO / HTTP/1.1\n", BadRequest),
        (b"FOO / HTTX/1.1\r\n", BadRequest),
        (b"EHLO there\r\n", BadRequest),
    ],
)
def test_bad_request_line_in_any_split_is_refused_alike(line: bytes, error: type[GatewayError]) -> None:
    whole = line + b"Host: a\r\n\r\n"
    for reads in ([whole], [whole[at : at + 1] for at in range(len(whole))], [whole[:2], whole[2:]], [line, b"\r\n"]):
        feeding = reader()
        with pytest.raises(GatewayError) as caught:
            for data in reads:
                feeding.feed(data)
        assert type(caught.value) is error


def test_what_cannot_become_a_request_line_is_refused_at_once() -> None:
    for data in (b"\x16\x03\x01", b"FOO bar\r", b"FOO b\x00", b"F(", b"FOO / X"):
        with pytest.raises(BadRequest):
            reader().feed(data)


def test_target_of_an_unknown_method_is_limited_like_any_other() -> None:
    feeding = reader(ServerLimits(max_uri_bytes=100))
    assert feeding.feed(b"FOO /")[0] is None
    with pytest.raises(UriTooLong):
        for _ in range(100):
            feeding.feed(b"a" * 10)


# --- fields -----------------------------------------------------------------------------------------------------------


def test_fields_are_written_as_spelled() -> None:
    parts: list[bytes] = []
    write_fields(parts, [(b"x-a", b"X-a", b"1"), (b"x-a", b"x-A", b"2")])
    assert b"".join(parts) == b"X-a: 1\r\nx-A: 2\r\n"
