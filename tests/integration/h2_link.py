"""One end of an HTTP/2 connection in the state machine of the ``h2`` library, fed frame by frame.

``h2`` takes a GOAWAY for the end of everything, and drops what came in the same read as a fault. So each frame goes in
on its own, and GOAWAY goes around it: the streams that are under way can be finished.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from attrs import frozen
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import Event, PingReceived
from h2.settings import SettingCodes, Settings
from tests.integration.h2_frames import GOAWAY, HEAD_BYTES, PREFACE, Frame
from tests.integration.wire import ConnectionEnded, Fields

_FIRST_WINDOW = 65_535


@frozen
class Goaway:
    """What the other side's last GOAWAY said."""

    last_stream: int
    code: int
    debug: bytes


class StreamReset(ConnectionEnded):
    """The other side has reset the stream.

    Attributes:
        code: why.
    """

    def __init__(self, code: int) -> None:
        super().__init__(f"reset with code {code}")
        self.code = code


class Link:
    """The state of one end.

    Args:
        is_client: which end.
        settings: announced first, over the library's.
        connection_window: how much the other side may send before more is granted.

    Attributes:
        connection: the library's; what it has to send is for the owner to :meth:`take`.
        frames: how many of each type came.
        pings: how many of these wanted an answer.
        goaways: that came.
    """

    def __init__(self, *, is_client: bool, settings: Mapping[int, int], connection_window: int = _FIRST_WINDOW) -> None:
        # Strict about what comes; about what is sent the test decides.
        config = H2Configuration(
            client_side=is_client,
            header_encoding=None,
            validate_inbound_headers=True,
            normalize_inbound_headers=False,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
        self.connection = H2Connection(config)
        local = Settings(client=is_client, initial_values={SettingCodes(key): settings[key] for key in settings})
        self.connection.local_settings = local
        self.connection.max_inbound_frame_size = local.max_frame_size
        self.connection.decoder.max_allowed_table_size = local.header_table_size
        if local.max_header_list_size is not None:
            self.connection.decoder.max_header_list_size = local.max_header_list_size
        self.connection.initiate_connection()
        if connection_window > _FIRST_WINDOW:
            self.connection.increment_flow_control_window(connection_window - _FIRST_WINDOW)
        self.frames: Counter[int] = Counter()
        self.pings = 0
        self.goaways: list[Goaway] = []
        self._buffer = b""
        self._preface_left = 0 if is_client else len(PREFACE)

    def feed(self, data: bytes) -> Iterator[Event]:
        """Take in what was read; events come frame by frame.

        Raises:
            h2.exceptions.ProtocolError: the other side broke the rules; the GOAWAY that says so is ready to be taken.
        """
        if self._preface_left:
            preface, data = data[: self._preface_left], data[self._preface_left :]
            self._preface_left -= len(preface)
            self.connection.receive_data(preface)
        self._buffer += data
        for octets in self._whole_frames():
            kind, flags = octets[3], octets[4]
            self.frames[kind] += 1
            if kind == GOAWAY:
                one = Frame(kind, flags, 0, octets[HEAD_BYTES:])
                self.goaways.append(Goaway(one.last_stream, one.error_code, one.debug))
                continue
            for event in self.connection.receive_data(octets):
                self.pings += isinstance(event, PingReceived)
                yield event

    def _whole_frames(self) -> Iterator[bytes]:
        at, data = 0, self._buffer
        try:
            while len(data) - at >= HEAD_BYTES:
                length = int.from_bytes(data[at : at + 3], "big")
                if length > self.connection.max_inbound_frame_size:  # the library will say that it is too long
                    length = len(data)
                elif len(data) - at < HEAD_BYTES + length:
                    break
                start, at = at, at + HEAD_BYTES + length
                yield data[start:at]
        finally:
            self._buffer = data[at:]

    def take(self) -> bytes:
        """What is to be sent."""
        return self.connection.data_to_send()

    def sendable(self, stream: int) -> int:
        """How many bytes the next DATA of a stream may have; 0 while a window is closed."""
        window = self.connection.local_flow_control_window(stream)
        return max(0, min(window, self.connection.max_outbound_frame_size))

    def send_headers(self, stream: int, fields: Iterable[tuple[str, str]], *, ends: bool = False) -> None:
        """HEADERS of a stream: a head, or trailers."""
        encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields]
        self.connection.send_headers(stream, encoded, end_stream=ends)


def fields_of(headers: Iterable[tuple[bytes | str, bytes | str]]) -> Fields:
    """An event's header list as text."""
    return [(_text(name), _text(value)) for name, value in headers]


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else bytes(value).decode("latin-1")
