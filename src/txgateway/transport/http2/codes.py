"""The error codes of RFC 9113 section 7, and the two ways in which a peer's fault ends something."""

from __future__ import annotations

from typing import Final

NO_ERROR: Final = 0x0
PROTOCOL_ERROR: Final = 0x1
INTERNAL_ERROR: Final = 0x2
FLOW_CONTROL_ERROR: Final = 0x3
SETTINGS_TIMEOUT: Final = 0x4
STREAM_CLOSED: Final = 0x5
FRAME_SIZE_ERROR: Final = 0x6
REFUSED_STREAM: Final = 0x7
CANCEL: Final = 0x8
COMPRESSION_ERROR: Final = 0x9
CONNECT_ERROR: Final = 0xA
ENHANCE_YOUR_CALM: Final = 0xB
INADEQUATE_SECURITY: Final = 0xC
HTTP_1_1_REQUIRED: Final = 0xD


class Http2Fault(Exception):
    """What the peer sent breaks a rule or a limit.

    Attributes:
        code: of RFC 9113 section 7.
        problem: a fixed text, for the log and for GOAWAY's debug data.
    """

    def __init__(self, code: int, problem: str) -> None:
        super().__init__(problem)
        self.code = code
        self.problem = problem


class ConnectionFault(Http2Fault):
    """The connection cannot go on: it ends with GOAWAY (RFC 9113 section 5.4.1)."""


class StreamFault(Http2Fault):
    """One stream cannot go on: it ends with RST_STREAM (RFC 9113 section 5.4.2)."""
