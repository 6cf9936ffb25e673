from __future__ import annotations

import pytest

from txgateway.transport import response_writer
from txgateway.transport.response_writer import informational_head, status_line


@pytest.mark.parametrize(
    ("status", "reason", "line"),
    [
        (200, b"", b"HTTP/1.1 200 OK\r\n"),
        (200, b"Fine", b"HTTP/1.1 200 Fine\r\n"),
        (404, b"", b"HTTP/1.1 404 Not Found\r\n"),
        (599, b"", b"HTTP/1.1 599 \r\n"),
    ],
)
def test_status_line(status: int, reason: bytes, line: bytes) -> None:
    assert status_line(status, reason) == line
    assert status_line(status, reason) == line  # from the cache


def test_status_lines_kept_are_bounded() -> None:
    for number in range(2 * response_writer._MAX_STATUS_LINES):
        status_line(200, b"phrase %d" % number)
    assert len(response_writer._status_lines) <= response_writer._MAX_STATUS_LINES
    assert status_line(200, b"another") == b"HTTP/1.1 200 another\r\n"


def test_informational_head_is_whole() -> None:
    head = informational_head(103, [(b"link", b"Link", b"</a>"), (b"x", b"X", b"")])
    assert head == b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nX: \r\n\r\n"
