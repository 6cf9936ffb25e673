"""Messages over a channel: whole ones, too long ones, and such as are none."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from tests.helpers.logs import logged

from txgateway.workers import channel as module
from txgateway.workers.channel import MAX_WAITING_BYTES, Channel, ChannelError, Frames, Message, framed


class Transport:
    """The bytes that were written; its buffer is full when a test says so."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.closed = ""
        self.producer: Any = None
        self.fills_at = 1 << 62

    def write(self, data: bytes) -> None:
        self.written += data
        if len(self.written) >= self.fills_at and self.producer is not None:
            self.producer.pauseProducing()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        assert streaming
        self.producer = producer

    def unregisterProducer(self) -> None:
        self.producer = None

    def loseConnection(self) -> None:
        self.closed = "in order"

    def abortConnection(self) -> None:
        self.closed = "aborted"


class Case:
    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.lost = 0
        self.transport = Transport()
        self.channel = Channel(self.messages.append, self._lost)

    def connect(self) -> Case:
        self.channel.makeConnection(self.transport)
        return self

    def _lost(self) -> None:
        self.lost += 1


def test_messages_come_whole_however_the_bytes_come() -> None:
    sent: list[Message] = [{"is": "a"}, {"is": "b", "text": "\u00fc" * 5}, {"is": "c", "list": list(range(50))}]
    data = b"".join(map(framed, sent))
    for size in (1, 3, 4, 5, 64, len(data)):
        frames, found = Frames(), []
        for at in range(0, len(data), size):
            found += frames.feed(data[at : at + size])
        assert found == sent


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"1", b"{}", b'{"is":1}', b"\xff\xfe", b'"is"'])
def test_what_is_no_message_is_refused(body: bytes) -> None:
    with pytest.raises(ChannelError):
        Frames().feed(struct.pack("!I", len(body)) + body)


def test_length_beyond_the_bound_is_refused_before_anything_is_kept() -> None:
    assert Frames(9).feed(framed({"is": ""})) == [{"is": ""}]
    with pytest.raises(ChannelError, match="of 10 bytes"):
        Frames(9).feed(struct.pack("!I", 10))
    with pytest.raises(ChannelError):
        Frames().feed(b"GET / HTTP/1.1\r\n")


def test_garbage_closes_the_channel() -> None:
    case = Case().connect()
    with logged() as lines:
        case.channel.dataReceived(framed({"is": "x"}))
        case.channel.dataReceived(b"\xff" * 100)
    assert case.transport.closed == "aborted"
    assert case.messages == [{"is": "x"}]
    assert [level for level, _ in lines] == ["error"]
    case.channel.send({"is": "y"})
    assert not case.transport.written
    case.channel.connectionLost()
    assert case.lost == 1


def test_message_that_is_not_understood_takes_no_other_with_it() -> None:
    case = Case().connect()
    values: list[int] = []
    case.channel._on_message = lambda message: values.append(message["value"])
    with logged() as lines:
        case.channel.dataReceived(framed({"is": "x"}) + framed({"is": "y", "value": 1}))
    assert values == [1]
    assert [text for _, text in lines] == ["message not understood"]
    assert not case.transport.closed


def test_what_cannot_be_sent_is_left_out() -> None:
    case = Case().connect()
    with logged() as lines:
        case.channel.send({"is": "x", "value": object()})
        case.channel.send({"is": "y"})
    assert bytes(case.transport.written) == framed({"is": "y"})
    assert len(lines) == 1


def test_message_of_too_many_bytes_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_MESSAGE_BYTES", 100)
    with pytest.raises(ChannelError):
        framed({"is": "x" * 100})
    case = Case().connect()
    with logged() as lines:
        case.channel.send({"is": "x" * 100})
    assert (len(lines), bytes(case.transport.written), case.transport.closed) == (1, b"", "")


def test_other_end_that_does_not_read_gets_what_matters_later() -> None:
    case = Case().connect()
    case.transport.fills_at = 1
    case.channel.send({"is": "a"})
    case.channel.send({"is": "b"})
    case.channel.send({"is": "c"}, may_be_left_out=True)
    case.channel.send({"is": "d"})
    assert bytes(case.transport.written) == framed({"is": "a"})
    case.channel.resumeProducing()
    assert bytes(case.transport.written) == framed({"is": "a"}) + framed({"is": "b"})
    case.channel.close()
    assert not case.transport.closed
    case.transport.fills_at = 1 << 62
    case.channel.resumeProducing()
    assert bytes(case.transport.written).endswith(framed({"is": "d"}))
    assert (case.transport.closed, case.transport.producer) == ("in order", None)


def test_other_end_that_never_reads_is_given_up() -> None:
    case = Case().connect()
    case.transport.fills_at = 1
    case.channel.send({"is": "a"})
    text = "x" * (MAX_WAITING_BYTES // 8)
    with logged() as lines:
        for _ in range(9):
            case.channel.send({"is": "b", "text": text})
    assert case.transport.closed == "aborted"
    assert lines == [("error", "channel closed: the other end does not read")]
    assert not case.channel._waiting


def test_nothing_is_sent_before_and_after() -> None:
    case = Case()
    case.channel.send({"is": "a"})
    case.channel.close()
    case = Case().connect()
    case.channel.close()
    case.channel.send({"is": "a"})
    assert (bytes(case.transport.written), case.transport.closed) == (b"", "in order")
