from __future__ import annotations

import pytest

from txgateway.testing.reading import MalformedResponse, ResponseReader, read_responses

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-T: 1\r\n\r\n"
SIZED = b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno"


@pytest.mark.parametrize("data", [CHUNKED, SIZED, b"HTTP/1.1 100 Continue\r\n\r\n" + SIZED + CHUNKED])
def test_pieces_of_any_size_make_the_same_responses(data: bytes) -> None:
    for size in range(1, len(data)):
        reader = ResponseReader()
        for start in range(0, len(data), size):
            reader.feed(data[start : start + size])
        assert reader.responses == read_responses(data)
        assert reader.unread == b""


def test_part_of_a_response_is_shown_as_one() -> None:
    reader = ResponseReader()
    reader.feed(SIZED[:-1])
    assert reader.final is None
    assert reader.partial is not None
    assert (reader.partial.status, reader.partial.body, reader.partial.is_whole) == (404, b"n", False)
    with pytest.raises(MalformedResponse):
        read_responses(SIZED[:-1])


def test_end_of_the_connection_ends_a_body_without_length() -> None:
    reader = ResponseReader()
    reader.feed(b"HTTP/1.1 200 OK\r\n\r\nabc")
    assert not reader.responses
    reader.feed(b"d", is_closed=True)
    assert [response.body for response in reader.responses] == [b"abcd"]


def test_head_request_has_no_body() -> None:
    first, second = read_responses(SIZED[:-2] + SIZED, [b"HEAD", b"GET"])
    assert (first.body, second.body) == (b"", b"no")


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nbad name: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
    ],
)
def test_what_is_no_response_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedResponse):
        ResponseReader().feed(data)
