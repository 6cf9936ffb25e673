"""The request that is asked about, made of a method, a URL and header lines as a client would make it, and sent nowhere."""

from __future__ import annotations

import re
from typing import Any, Final

from attrs import field, frozen

from txgateway.config import Settings
from txgateway.config.effective import is_secret_header
from txgateway.config.problems import MASK
from txgateway.errors import BadRequest
from txgateway.request import GatewayRequest
from txgateway.transport.heads import RequestHeadReader
from txgateway.transport.interfaces import HeaderList, ServerLimits

_ABSOLUTE: Final = re.compile(r"(https?)://([^/?#]*)(.*)", re.IGNORECASE | re.DOTALL)
#: What a URL says of who asks, perhaps with a password.
_USER: Final = re.compile(r"(?i)\A(https?://)[^/?#]*@")
#: Would make another request of it.
_LINE_BREAK: Final = re.compile(rb"[\r\n]")
_DEFAULT_HOST: Final = "localhost"


@frozen
class Asked:
    """What is asked about.

    Attributes:
        method: as it is sent; case matters.
        url: absolute, or a path with its query.
        header_lines: ``Name: value``; a ``Host`` among them replaces the URL's.
        client_ip: of the connection; with a trusted proxy's, the fields that forward are believed.
    """

    method: str
    url: str
    header_lines: tuple[str, ...] = ()
    client_ip: str = "127.0.0.1"
    scheme: str = field(init=False)
    host: str = field(init=False)
    target: str = field(init=False)

    def __attrs_post_init__(self) -> None:
        found = _ABSOLUTE.fullmatch(self.url)
        scheme, host, target = found.groups() if found else ("http", _DEFAULT_HOST, self.url)
        if found and not target.startswith("/"):
            target = "/" + target
        object.__setattr__(self, "scheme", scheme.lower())
        object.__setattr__(self, "host", host)
        object.__setattr__(self, "target", target)

    def shown(self) -> dict[str, Any]:
        """The request as it may be printed."""
        fields = [_split(line) for line in self.header_lines]
        return {
            "method": self.method,
            "url": _USER.sub(rf"\1{MASK}@", self.url),
            "scheme": self.scheme,
            "client_ip": self.client_ip,
            "headers": [[name, MASK if is_secret_header(name) else value] for name, value in fields],
        }


class StillChannel:
    """The connection of a request that nobody sent: it keeps what it is told to send.

    Attributes:
        sent: status and fields of the answer, None as long as there is none.
    """

    client_certificate = b""
    local_port = 0
    write_blocked = False

    def __init__(self, peer_ip: str, scheme: str) -> None:
        self.peer_ip = peer_ip
        self.scheme = scheme.encode("ascii")
        self.forwarded: dict[bytes, Any] = {}
        self.memo: Any = None
        self.sent: tuple[int, HeaderList] | None = None

    def seconds(self) -> float:
        """No time passes."""
        return 0.0

    def send_head(self, status: int, reason: bytes, headers: HeaderList, length: int) -> None:
        """Keep it."""
        self.sent = (status, list(headers))

    def send_body(self, data: bytes) -> None: ...
    def flush(self) -> None: ...
    def close_when_idle(self) -> None: ...
    def reset(self) -> None: ...
    def send_end(self, trailers: HeaderList) -> bool:
        """Nothing is cut."""
        return True


def make_request(asked: Asked, settings: Settings) -> GatewayRequest:
    """The request, read by the same reader and under the same limits as one of a client's.

    Raises:
        GatewayError: such a request is refused before it is one.
    """
    lines = [_bytes(line) for line in asked.header_lines]
    if not any(line[:5].lower() == b"host:" for line in lines):
        lines.insert(0, b"Host: " + _bytes(asked.host))
    lines.insert(0, b"%b %b HTTP/1.1" % (_bytes(asked.method), _bytes(asked.target)))
    if any(not line or _LINE_BREAK.search(line) for line in lines):
        raise BadRequest("an empty line, or a line break")
    reader = RequestHeadReader(
        ServerLimits(
            max_header_bytes=settings.max_header_bytes,
            max_header_count=settings.max_header_count,
            max_uri_bytes=settings.max_uri_bytes,
        )
    )
    head, _ = reader.feed(b"\r\n".join((*lines, b"", b"")))
    reader.close()
    if head is None:
        raise BadRequest("malformed")
    return GatewayRequest(StillChannel(asked.client_ip, asked.scheme), head)


def _split(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.strip(), value.strip()


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
