"""Response heads: what comes again is understood as it was the first time, and what must not be kept is not."""

from __future__ import annotations

import pytest

from txgateway.errors import UpstreamProtocolError
from txgateway.fields import Fields, has_field
from txgateway.headers import parse_field_line
from txgateway.transport import http1_response
from txgateway.transport.http1_response import ResponseHead, response_head

OK = b"HTTP/1.1 200 OK\r\n"


def test_head_that_comes_again_is_the_same_and_the_callers_own() -> None:
    head = OK + b"Server: x\r\nContent-Length: 0\r\nConnection: keep-alive\r\nX-Again:  yes \r\n\r\n"
    kept = [(b"server", b"Server", b"x"), (b"x-again", b"X-Again", b"yes")]
    for turn in range(4):
        found = response_head(head)
        assert (found.status, found.reason, found.content_length, found.keep_alive) == (200, b"OK", 0, True)
        headers = found.headers()
        assert headers == kept
        assert headers.wire == (b"Server: x\r\nX-Again: yes\r\n" if turn else b"")
        Fields([(b"via", b"Via", b"1.1 a")]).added_to(headers)
        assert not has_field(found.headers(), b"via")
        headers.clear()


@pytest.mark.parametrize("field", [b"Set-Cookie: a=b", b"X-Long: " + b"x" * 2000])
def test_head_with_a_cookie_or_of_great_length_is_not_kept(field: bytes) -> None:
    head = OK + b"Content-Length: 0\r\n" + field + b"\r\n\r\n"
    assert response_head(head).headers() == response_head(head).headers()
    assert head not in http1_response._heads
    assert field not in http1_response._field_lines


def test_what_is_kept_is_bounded() -> None:
    for number in range(5000):
        response_head(b"HTTP/1.1 200 %d\r\nContent-Length: 0\r\nETag: %d\r\n\r\n" % (number, number))
    assert len(http1_response._heads) <= http1_response.MAX_KNOWN_HEADS
    assert len(http1_response._field_lines) <= http1_response.MAX_KNOWN_LINES
    assert len(http1_response._status_lines) <= http1_response.MAX_KNOWN_LINES


def test_date_that_a_backend_names_as_hop_by_hop_does_not_pass_for_one_that_is_there() -> None:
    headers = response_head(OK + b"Connection: date, x\r\nDate: x\r\nX: 1\r\nY: 2\r\n\r\n").headers()
    assert headers == [(b"y", b"Y", b"2")]
    assert not has_field(headers, b"date")


@pytest.mark.parametrize(
    "line",
    [
        b"A : b", b" A: b", b"A", b": b", b"A\x00: b", b"A: \x00", b"A: b\rc", b"A: b\nc", b"\tfolded", b"A: \x7f", b"",
        b"A:\x0bb", "Ä: b".encode(),
    ],
)  # fmt: skip
def test_line_that_is_no_field_is_refused(line: bytes) -> None:
    assert parse_field_line(line) is None
    with pytest.raises(UpstreamProtocolError):
        ResponseHead(OK + line + b"\r\nContent-Length: 0\r\n\r\n")


@pytest.mark.parametrize(
    ("line", "value"),
    [
        (b"A:", b""),
        (b"A:  ", b""),
        (b"A:b", b"b"),
        (b"A:\t b \t c\t ", b"b \t c"),
        (b"A: \xff", b"\xff"),
        (b"A: :", b":"),
    ],
)
def test_value_is_without_blanks_at_its_ends(line: bytes, value: bytes) -> None:
    assert parse_field_line(line) == (b"a", b"A", value)


@pytest.mark.parametrize(
    ("line", "status", "reason"),
    [
        (b"HTTP/1.1 200 OK", 200, b"OK"), (b"HTTP/1.1 200 ", 200, b""), (b"HTTP/1.1 200", 200, b""),
        (b"HTTP/1.0 599 \xe4\tb", 599, b"\xe4\tb"),
    ],
)  # fmt: skip
def test_status_line(line: bytes, status: int, reason: bytes) -> None:
    head = ResponseHead(line + b"\r\n\r\n")
    assert (head.status, head.reason, head.is_http_11) == (status, reason, line.startswith(b"HTTP/1.1"))


@pytest.mark.parametrize(
    "line",
    [
        b"HTTP/1.1 099 x", b"HTTP/1.1 600 x", b"HTTP/1.1 20 x", b"HTTP/1.1  200 x", b"HTTP/1.1\t200 x", b"HTTP/2 200 x",
        b"HTTP/1.2 200 x", b"http/1.1 200 x", b"HTTP/1.1 200 \x00", b"HTTP/1.1 200x", b" HTTP/1.1 200 x", b"", b"ICY 200 OK",
    ],
)  # fmt: skip
def test_line_that_is_no_status_line_is_refused(line: bytes) -> None:
    with pytest.raises(UpstreamProtocolError):
        ResponseHead(line + b"\r\n\r\n")
