"""Messages between a worker and its supervisor: JSON objects over a socket pair, each after its length.

Both ends are bounded: a message has at most :data:`MAX_MESSAGE_BYTES`, and what waits for an end that does not read at
most :data:`MAX_WAITING_BYTES`. Beyond either the channel is closed, which both ends understand.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import orjson
from twisted.internet.interfaces import IPushProducer, ITransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

Message: TypeAlias = Mapping[str, Any]

#: All metrics there can be (50,000 lines) in one snapshot, and the status of as many routes beside it.
MAX_MESSAGE_BYTES = 32 * 1024 * 1024
MAX_WAITING_BYTES = 2 * MAX_MESSAGE_BYTES
_LENGTH = struct.Struct("!I")

_log = Logger(__name__)


class ChannelError(Exception):
    """The other end sent what is no message."""


class Frames:
    """Cuts what arrives into messages.

    Args:
        max_bytes: of a message.
    """

    def __init__(self, max_bytes: int = MAX_MESSAGE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._buffer = bytearray()
        self._needed = _LENGTH.size

    def feed(self, data: bytes) -> list[Message]:
        """The messages that are complete now.

        Raises:
            ChannelError: one is too long, or no JSON object; nothing can be read after that.
        """
        self._buffer += data
        found: list[Message] = []
        at = 0
        while len(self._buffer) - at >= self._needed:
            (length,) = _LENGTH.unpack_from(self._buffer, at)
            if length > self._max_bytes:
                raise ChannelError(f"a message of {length} bytes")
            end = at + _LENGTH.size + length
            if len(self._buffer) < end:
                self._needed = end - at
                break
            found.append(_message(bytes(memoryview(self._buffer)[at + _LENGTH.size : end])))
            at, self._needed = end, _LENGTH.size
        del self._buffer[:at]
        return found


def _message(data: bytes) -> Message:
    try:
        message = orjson.loads(data)
    except ValueError as exc:
        raise ChannelError("a message that is not JSON") from exc
    if not isinstance(message, dict) or not isinstance(message.get("is"), str):
        raise ChannelError("a message of no kind")
    return message


def framed(message: Message) -> bytes:
    """The bytes of a message.

    Raises:
        ChannelError: it is too long.
    """
    data = orjson.dumps(message)
    if len(data) > MAX_MESSAGE_BYTES:
        raise ChannelError(f"a message of {len(data)} bytes")
    return _LENGTH.pack(len(data)) + data


@implementer(IPushProducer)
class Channel(Protocol):
    """One end.

    Args:
        on_message: told each message, a JSON object that says under ``"is"`` what it is.
        on_lost: told once that no more will come, and nothing can be sent.
    """

    transport: ITransport

    def __init__(self, on_message: Callable[[Message], None], on_lost: Callable[[], None]) -> None:
        self._on_message = on_message
        self._on_lost = on_lost
        self._frames = Frames()
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._is_paused = False
        self._is_open = False
        self._is_closing = False

    # --- sending --------------------------------------------------------------------------------------------------

    def send(self, message: Message, *, may_be_left_out: bool = False) -> None:
        """Send a message, now or when the other end has read what it was sent before.

        Args:
            may_be_left_out: not at all, rather than late.
        """
        if not self._is_open or self._is_closing or (may_be_left_out and self._is_paused):
            return
        try:
            data = framed(message)
        except (ChannelError, TypeError) as exc:
            _log.error("message left out: {problem}", problem=str(exc), kind=message.get("is"))
            return
        if not self._is_paused:
            self.transport.write(data)
        elif self._waiting_bytes + len(data) > MAX_WAITING_BYTES:
            self._give_up("the other end does not read")
        else:
            self._waiting.append(data)
            self._waiting_bytes += len(data)

    def close(self) -> None:
        """Send what was given to :meth:`send`, and end."""
        self._is_closing = True
        if self._is_open and not self._is_paused:
            self._end()

    def _end(self) -> None:
        self.transport.unregisterProducer()  # type: ignore[attr-defined]
        self.transport.loseConnection()

    def pauseProducing(self) -> None:
        self._is_paused = True

    def resumeProducing(self) -> None:
        self._is_paused = False
        while self._waiting and not self._is_paused:
            data = self._waiting.popleft()
            self._waiting_bytes -= len(data)
            self.transport.write(data)
        if self._is_closing and not self._is_paused:
            self._end()

    def stopProducing(self) -> None:
        """The connection is lost, which is told elsewhere."""

    # --- receiving ------------------------------------------------------------------------------------------------

    def connectionMade(self) -> None:
        self._is_open = True
        self.transport.registerProducer(self, True)  # type: ignore[attr-defined]

    def dataReceived(self, data: bytes) -> None:
        try:
            messages = self._frames.feed(data)
        except ChannelError as exc:
            self._give_up(str(exc))
            return
        for message in messages:
            try:
                self._on_message(message)
            except Exception:  # noqa: BLE001 -- one that is not understood is no reason to lose the others
                _log.failure("message not understood", kind=message["is"])

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._is_open = False
        self._waiting.clear()
        self._on_lost()

    def _give_up(self, problem: str) -> None:
        _log.error("channel closed: {problem}", problem=problem)
        self._is_closing = True
        self._waiting.clear()
        self.transport.abortConnection()  # type: ignore[attr-defined]
