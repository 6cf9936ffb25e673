"""RFC 9113 section 8 as tables: what is malformed, what is refused, and what a request looks like to the middle."""

from __future__ import annotations

import hpack
import pytest

from txgateway.errors import BadRequest, GatewayError, HeadersTooLarge, MethodNotImplemented, UriTooLong
from txgateway.transport.http2.codes import PROTOCOL_ERROR, StreamFault
from txgateway.transport.http2.fields import (
    ResponseHead,
    read_request,
    read_trailers,
    repeated,
    status_field,
)
from txgateway.transport.http2.header_decoder import CONNECTION_SPECIFIC, HeaderDecoder
from txgateway.transport.interfaces import NO_BODY, UNKNOWN_LENGTH, HeaderList, RequestHead, ServerLimits

Fields = list[tuple[bytes, bytes]]

METHOD, SCHEME, AUTHORITY, PATH = (b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"a"), (b":path", b"/")
GET: Fields = [METHOD, SCHEME, AUTHORITY, PATH]
CONNECT = (b":method", b"CONNECT")
WEBSOCKET = (b":protocol", b"websocket")


def decoded(fields: Fields) -> HeaderList:
    block = bytes(hpack.Encoder().encode([hpack.NeverIndexedHeaderTuple(*field) for field in fields], huffman=False))
    return HeaderDecoder(2**20).decode(block)


def read(
    fields: Fields, limits: ServerLimits | None = None, *, ends: bool = True
) -> tuple[RequestHead, GatewayError | None]:
    return read_request(decoded(fields), limits or ServerLimits(), has_ended=ends)


def changed(at: int, name: bytes, value: bytes) -> Fields:
    return [*GET[:at], (name, value), *GET[at + 1 :]]


# --- malformed ---------------------------------------------------------------------------------------------------------------------

_PSEUDO: dict[str, Fields] = {
    "nothing": [],
    "8.3.1 no method": GET[1:],
    "8.3.1 no scheme": [METHOD, AUTHORITY, PATH],
    "8.3.1 no path": GET[:3],
    "8.3.1 empty path": changed(3, b":path", b""),
    "8.3.1 path without a slash": changed(3, b":path", b"x"),
    "8.3.1 absolute path": changed(3, b":path", b"http://a/"),
    "8.3.1 asterisk that is no option": changed(3, b":path", b"*"),
    "8.3.1 empty method": changed(0, b":method", b""),
    "8.3.1 method that is no token": changed(0, b":method", b"G T"),
    "8.3.1 method of two lines": changed(0, b":method", b"GET\r\nx:"),
    "8.3.1 empty scheme": changed(1, b":scheme", b""),
    "8.3.1 another scheme": changed(1, b":scheme", b"ftp"),
    "8.3 unknown": [*GET, (b":x", b"1")],
    "8.3 of a response": [*GET, (b":status", b"200")],
    "8.3 only a colon": [*GET, (b":", b"1")],
    "8.3 method twice": [METHOD, *GET],
    "8.3 scheme twice": [*GET, SCHEME],
    "8.3 path twice": [*GET, PATH],
    "8.3 authority twice": [*GET, AUTHORITY],
    "8.3 behind a field": [METHOD, SCHEME, AUTHORITY, (b"x", b"1"), PATH],
    "8.3 one more behind a field": [*GET, (b"x", b"1"), (b":x", b"1")],
    "8.3 repeated behind a field": [*GET, (b"x", b"1"), PATH],
    "8.3 in upper case": [*GET[:3], (b":Path", b"/")],
    "8.3.1 control in the authority": changed(2, b":authority", b"a\r\nx: y"),
    "8.3.1 NUL in the authority": changed(2, b":authority", b"a\0"),
    "8.5 CONNECT with a scheme": [CONNECT, SCHEME, AUTHORITY],
    "8.5 CONNECT with a path": [CONNECT, AUTHORITY, PATH],
    "8.5 CONNECT without an authority": [CONNECT],
    "8.5 CONNECT with an empty authority": [CONNECT, (b":authority", b"")],
    "8441 protocol without CONNECT": [*GET, WEBSOCKET],
    "8441 protocol without a path": [CONNECT, WEBSOCKET, SCHEME, AUTHORITY],
    "8441 protocol without a scheme": [CONNECT, WEBSOCKET, AUTHORITY, PATH],
    "8441 protocol twice": [CONNECT, WEBSOCKET, WEBSOCKET, SCHEME, AUTHORITY, PATH],
}

_FIELDS: dict[str, Fields] = {
    "8.2.1 empty name": [(b"", b"1")],
    "8.2.1 upper case": [(b"X-A", b"1")],
    "8.2.1 one letter in upper case": [(b"content-lengtH", b"1")],
    "8.2.1 blank in a name": [(b"x a", b"1")],
    "8.2.1 colon in a name": [(b"x:a", b"1")],
    "8.2.1 control in a name": [(b"x\0a", b"1")],
    "8.2.1 line end in a name": [(b"x\r\ny", b"1")],
    "8.2.1 DEL in a name": [(b"x\x7f", b"1")],
    "8.2.1 beyond ASCII in a name": [(b"x\xe4", b"1")],
    "8.2.1 blank before a value": [(b"x", b" 1")],
    "8.2.1 blank behind a value": [(b"x", b"1 ")],
    "8.2.1 tab before a value": [(b"x", b"\t1")],
    "8.2.1 tab behind a value": [(b"x", b"1\t")],
    "8.2.1 only a blank": [(b"x", b" ")],
    "8.2.1 NUL": [(b"x", b"a\0b")],
    "8.2.1 CR": [(b"x", b"a\rb")],
    "8.2.1 LF": [(b"x", b"a\nb")],
    "8.2.1 LF, of a line that is not the last": [(b"x", b"a\nb"), (b"x", b"fine")],
    "9110 control": [(b"x", b"a\x01b")],
    "9110 DEL": [(b"x", b"a\x7fb")],
    **{f"8.2.2 {name.decode()}": [(name, b"x")] for name in sorted(CONNECTION_SPECIFIC)},
}

_HEAD_FIELDS: dict[str, Fields] = {
    "8.2.2 TE": [(b"te", b"gzip")],
    "8.2.2 TE and trailers": [(b"te", b"trailers, deflate")],
    "8.2.2 TE, of a line that is not the last": [(b"te", b"gzip"), (b"te", b"trailers")],
    "8.2.2 TE, of the last line": [(b"te", b"trailers"), (b"te", b"gzip")],
    "8.3.1 another host": [(b"host", b"b")],
    "8.3.1 another host, of two": [(b"host", b"b"), (b"host", b"a")],
    "8.1.1 no length": [(b"content-length", b"")],
    "8.1.1 length that is none": [(b"content-length", b"1x")],
    "8.1.1 length with a sign": [(b"content-length", b"+1")],
    "8.1.1 length with many digits": [(b"content-length", b"1" * 30)],
    "8.1.1 two lengths": [(b"content-length", b"1"), (b"content-length", b"2")],
    "8.1.1 list of lengths": [(b"content-length", b"1, 1")],
}


@pytest.mark.parametrize("fields", _PSEUDO.values(), ids=_PSEUDO)
@pytest.mark.parametrize("ends", [True, False])
def test_malformed_pseudo_header_fields_are_a_fault_of_the_stream(fields: Fields, ends: bool) -> None:
    with pytest.raises(StreamFault) as caught:
        read(fields, ends=ends)
    assert caught.value.code == PROTOCOL_ERROR


@pytest.mark.parametrize("fields", (_FIELDS | _HEAD_FIELDS).values(), ids=_FIELDS | _HEAD_FIELDS)
@pytest.mark.parametrize("around", [[], [(b"x-a", b"1")]])
def test_malformed_fields_are_a_fault_of_the_stream(fields: Fields, around: Fields) -> None:
    with pytest.raises(StreamFault) as caught:
        read([*GET, *around, *fields, *around], ends=False)
    assert caught.value.code == PROTOCOL_ERROR


@pytest.mark.parametrize("fields", _FIELDS.values(), ids=_FIELDS)
def test_malformed_trailers_are_a_fault_of_the_stream(fields: Fields) -> None:
    with pytest.raises(StreamFault) as caught:
        read_trailers(decoded([(b"x-a", b"1"), *fields]))
    assert caught.value.code == PROTOCOL_ERROR


@pytest.mark.parametrize("name", [b":path", b":method", b":status", b":x"])
def test_trailers_have_no_pseudo_header_fields(name: bytes) -> None:
    for fields in ([(name, b"/")], [(b"x", b"1"), (name, b"/")]):
        with pytest.raises(StreamFault):
            read_trailers(decoded(fields))


def test_length_of_a_body_that_does_not_come_is_a_fault_of_the_stream() -> None:
    with pytest.raises(StreamFault):
        read([*GET, (b"content-length", b"1")], ends=True)
    assert read([*GET, (b"content-length", b"0")], ends=True)[0].length == 0


def test_without_authority_there_is_one_host() -> None:
    fields = [METHOD, SCHEME, PATH]
    assert read([*fields, (b"host", b"a")])[0].fields[b"host"] == b"a"
    assert b"host" not in read(fields)[0].fields
    with pytest.raises(StreamFault):
        read([*fields, (b"host", b"a"), (b"host", b"a")])


# --- what it looks like -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "ends", "length"),
    [
        ([], True, NO_BODY),
        ([], False, UNKNOWN_LENGTH),
        ([(b"content-length", b"5")], False, 5),
        ([(b"content-length", b"5"), (b"content-length", b"5")], False, 5),
        ([(b"content-length", b"0")], False, 0),
    ],
)
def test_head_says_what_http_1_1_would(fields: Fields, ends: bool, length: int) -> None:
    head, error = read([*GET, *fields, (b"te", b"Trailers")], ends=ends)
    assert error is None
    assert (head.method, head.target, head.version) == (b"GET", b"/", b"HTTP/2")
    assert (head.length, head.keep_alive, head.upgrade) == (length, True, b"")
    assert head.headers == tuple(
        (name, name, value) for name, value in [(b"host", b"a"), *fields, (b"te", b"Trailers")]
    )
    assert head.fields == {b"host": b"a", **dict(fields), b"te": b"Trailers"}


def test_any_octet_that_a_value_may_have_is_kept() -> None:
    value = bytes([0x21, 9, *range(0x20, 0x7F), *range(0x80, 0x100)])
    assert read([*GET, (b"x", value), (b"y", b"")])[0].fields == {b"host": b"a", b"x": value, b"y": b""}


@pytest.mark.parametrize("hosts", [[b"a.test"], [b"A.Test"], [b"a.test", b"a.TEST"]])
def test_host_that_says_the_same_gives_way_to_the_authority(hosts: list[bytes]) -> None:
    fields = [METHOD, SCHEME, (b":authority", b"a.test"), PATH, (b"x", b"1"), *[(b"host", host) for host in hosts]]
    head, _ = read(fields)
    assert head.headers == ((b"host", b"host", b"a.test"), (b"x", b"x", b"1"))
    assert head.fields == {b"host": b"a.test", b"x": b"1"}


def test_pieces_of_a_cookie_are_joined_in_order() -> None:
    head, _ = read([*GET, (b"cookie", b"a=1"), (b"x", b"1"), (b"cookie", b"b=2; c=3"), (b"cookie", b"d")])
    assert head.headers[1:] == ((b"x", b"x", b"1"), (b"cookie", b"cookie", b"a=1; b=2; c=3; d"))
    assert head.fields[b"cookie"] == b"a=1; b=2; c=3; d"
    head, _ = read([*GET, (b"cookie", b"a=1"), (b"x", b"1")])
    assert head.headers[1] == (b"cookie", b"cookie", b"a=1")


def test_schemes_of_http_are_known_in_any_case() -> None:
    for scheme in (b"http", b"https", b"HTTPS"):
        assert read(changed(1, b":scheme", scheme))[1] is None


def test_options_of_the_server_and_plain_connect_have_their_own_targets() -> None:
    assert read([(b":method", b"OPTIONS"), SCHEME, AUTHORITY, (b":path", b"*")])[0].target == b"*"
    head, error = read([CONNECT, (b":authority", b"a:443")], ends=False)
    assert error is None
    assert (head.method, head.target, head.upgrade) == (b"CONNECT", b"a:443", b"")
    assert head.headers == ((b"host", b"host", b"a:443"),)


def test_extended_connect_reads_like_an_upgrade() -> None:
    extended = [CONNECT, (b":protocol", b"WebSocket"), SCHEME, AUTHORITY, (b":path", b"/chat?x")]
    fields = [(b"sec-websocket-version", b"13"), (b"sec-websocket-key", b"theirs")]
    heads = [read([*extended, *fields], ends=False)[0] for _ in range(2)]
    for head in heads:
        assert (head.method, head.target, head.upgrade, head.length) == (b"GET", b"/chat?x", b"websocket", NO_BODY)
        assert [name for name, _, _ in head.headers] == [b"host", b"sec-websocket-version", b"sec-websocket-key"]
        assert {name: value for name, _, value in head.headers} == head.fields
    keys = {head.fields[b"sec-websocket-key"] for head in heads}
    assert len(keys) == 2
    assert {len(key) for key in keys} == {24}


def test_repeated_head_is_equal_and_its_own() -> None:
    head, _ = read([*GET, (b"x", b"1")])
    again = repeated(head)
    assert again.fields is not head.fields
    assert all(getattr(again, name) == getattr(head, name) for name in RequestHead.__slots__)


def test_trailers_are_without_what_belongs_in_a_head() -> None:
    fields = [(b"x-sum", b"1"), (b"te", b"trailers"), (b"content-length", b"1"), (b"host", b"b"), (b"x-b", b"")]
    assert read_trailers(decoded(fields)) == [(b"x-sum", b"x-sum", b"1"), (b"x-b", b"x-b", b"")]


# --- refused, as over HTTP/1.1 ---------------------------------------------------------------------------------------------------------

LIMITS = ServerLimits(max_header_bytes=100, max_header_count=5, max_uri_bytes=20)
_LONG = (b":path", b"/" + b"x" * 20)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ([*GET[:3], _LONG], UriTooLong),
        ([*GET[:3], (b":path", b"/" + b"x" * 19)], None),
        ([*GET, *[(b"x", b"1")] * 4], None),
        ([*GET, *[(b"x", b"1")] * 5], HeadersTooLarge),
        ([*GET[:2], PATH, *[(b"x", b"1")] * 5], None),
        ([*GET, (b"x", b"y" * 86)], None),
        ([*GET, (b"x", b"y" * 87)], HeadersTooLarge),
        ([*GET[:2], (b":authority", b"a" * 93), PATH], HeadersTooLarge),
        ([*GET, *[(b"cookie", b"c")] * 20], None),
        ([*GET, *[(b"cookie", b"c")] * 40], HeadersTooLarge),
        ([*GET[:3], (b":path", b"/a b")], BadRequest),
        ([*GET[:3], (b":path", b"/\0")], BadRequest),
        ([*GET[:3], (b":path", b"/\xe4")], BadRequest),
        (changed(0, b":method", b"BREW"), MethodNotImplemented),
        (changed(0, b":method", b"get"), MethodNotImplemented),
        (changed(0, b":method", b"PROPFIND"), None),
        ([CONNECT, (b":protocol", b"connect-udp"), SCHEME, AUTHORITY, PATH], MethodNotImplemented),
        ([CONNECT, (b":protocol", b""), SCHEME, AUTHORITY, PATH], MethodNotImplemented),
        ([(b":method", b"BREW"), SCHEME, AUTHORITY, _LONG], UriTooLong),
    ],
)
def test_what_is_refused(fields: Fields, error: type[GatewayError] | None) -> None:
    head, got = read(fields, LIMITS)
    assert (None if got is None else type(got)) == error
    assert head.version == b"HTTP/2"
    if error is not None and fields[0] == CONNECT:
        assert (head.method, head.upgrade) == (b"CONNECT", b"")


# --- answers ----------------------------------------------------------------------------------------------------------------------------


def test_status_is_a_field() -> None:
    assert status_field(200) == (b":status", b"", b"200")
    assert status_field(799) == (b":status", b"", b"799")


def test_head_of_a_response_gives_each_its_own_list() -> None:
    fields = [
        (b":status", b"404"),
        (b"date", b"now"),
        (b"content-length", b"3"),
        (b"te", b"x"),
        (b"set-cookie", b"a"),
        (b"set-cookie", b"b"),
    ]
    head = ResponseHead(decoded(fields))
    assert (head.status, head.length) == (404, 3)
    kept = [(name, name, value) for name, value in fields if name in {b"date", b"set-cookie"}]
    first, second = head.headers(), head.headers()
    assert first == second == kept
    assert (first.wire, first.shared) == (b"", 0)
    first.grow([(b"via", b"Via", b"2 x")], {b"via": b""}, b"")
    first.pop(0)
    assert head.headers() == kept
    assert b"via" not in (head.headers().names or {b"via": b""})
    head.serialise()
    again = head.headers()
    assert (again, again.shared) == (kept, 3)
    assert again.wire == b"date: now\r\nset-cookie: a\r\nset-cookie: b\r\n"


def test_response_without_a_length_has_none() -> None:
    assert ResponseHead(decoded([(b":status", b"204")])).length is None


@pytest.mark.parametrize("status", [b"", b"20", b"2000", b"099", b"600", b"abc", b"+20", b"2 0"])
def test_status_that_is_none(status: bytes) -> None:
    with pytest.raises(StreamFault):
        ResponseHead(decoded([(b":status", status)]))
