"""What happens in one exchange: what the client asks, what the inner makes of it, and how the client behaves meanwhile.

Plain values, whose ``repr`` leaves out what is ordinary, so that it can be read, and pasted into an ``@example``.
"""

from __future__ import annotations

from enum import Enum
from itertools import pairwise
from typing import Any, Final

import attrs
from attrs import frozen

Pairs = tuple[tuple[bytes, bytes], ...]
#: How long a stalled client takes nothing.
STALL_S: Final = 20.0


class Brief:
    """Shows only what is not as usual."""

    def __repr__(self) -> str:
        told = []
        for field in attrs.fields(type(self)):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if value != field.default:
                told.append(f"{field.name}={_shown(value)}")
        return f"{type(self).__name__}({', '.join(told)})"


def _shown(value: Any) -> str:
    """As source text; long runs of one byte in short."""
    if isinstance(value, tuple):
        return "(" + ", ".join(map(_shown, value)) + ("," if len(value) == 1 else "") + ")"
    if isinstance(value, bytes) and len(value) > 64 and len(set(value)) == 1:
        return f"{value[:1]!r} * {len(value)}"
    return repr(value)


@frozen(repr=False)
class Ask(Brief):
    """A request.

    Attributes:
        fields: but for ``Host`` and the framing.
        pieces: of the body; None for a request without one.
        is_chunked: the body's length is not told before.
        trailers: of a chunked body.
        cuts: positions in the bytes of the request where one read ends and the next begins.
        gap_s: between two reads.
    """

    method: bytes = b"GET"
    target: bytes = b"/"
    fields: Pairs = ()
    pieces: tuple[bytes, ...] | None = None
    is_chunked: bool = False
    trailers: Pairs = ()
    cuts: tuple[int, ...] = ()
    gap_s: float = 0.0

    @property
    def body(self) -> bytes:
        """The whole of it."""
        return b"".join(self.pieces or ())

    def wire(self, further: Pairs = ()) -> bytes:
        """The request as bytes.

        Args:
            further: fields that every request has.
        """
        fields = [(b"Host", b"tested.example"), *self.fields, *further]
        rest = b""
        if self.pieces is not None and self.is_chunked:
            fields.append((b"Transfer-Encoding", b"chunked"))
            chunks = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in self.pieces if piece]
            trailers = [name + b": " + value + b"\r\n" for name, value in self.trailers]
            rest = b"".join([*chunks, b"0\r\n", *trailers, b"\r\n"])
        elif self.pieces is not None:
            fields.append((b"Content-Length", b"%d" % len(self.body)))
            rest = self.body
        lines = [self.method + b" " + self.target + b" HTTP/1.1", *(name + b": " + value for name, value in fields)]
        return b"\r\n".join([*lines, b"", b""]) + rest

    def reads(self, further: Pairs = ()) -> list[bytes]:
        """The request as it comes, read by read."""
        wire = self.wire(further)
        cuts = sorted({min(cut, len(wire)) for cut in self.cuts} | {0, len(wire)})
        return [wire[start:end] for start, end in pairwise(cuts)]


class End(Enum):
    """How an inner's answer ends."""

    WHOLE = "whole"
    #: It raises a GatewayError at once.
    RAISES = "raises"
    #: It raises something else at once.
    CRASHES = "crashes"
    #: It fails the request where it would have sent its head.
    FAILS = "fails"
    #: It breaks off behind what it has sent.
    BREAKS = "breaks"
    #: It says nothing more behind what it has sent.
    STALLS = "stalls"

    def __repr__(self) -> str:
        return str(self)


@frozen(repr=False)
class Reply(Brief):
    """What the inner does.

    Attributes:
        fields: of the answer.
        pieces: of its body; empty ones too.
        has_length: the head says how long the body is.
        after_s: between the end of the request and the head.
        gap_s: before each piece.
        is_resource: it writes as a twisted.web resource does, with ``write`` and ``finish``.
    """

    status: int = 200
    fields: Pairs = ()
    pieces: tuple[bytes, ...] = ()
    has_length: bool = False
    trailers: Pairs = ()
    after_s: float = 0.0
    gap_s: float = 0.0
    is_resource: bool = False
    end: End = End.WHOLE

    @property
    def lasts_s(self) -> float:
        """From the end of the request on."""
        return self.after_s + self.gap_s * len(self.pieces)

    @property
    def body(self) -> bytes:
        """The whole of it."""
        return b"".join(self.pieces)


@frozen(repr=False)
class Client(Brief):
    """How the client behaves, in seconds since its first read; None: it does not.

    Attributes:
        leaves_at_s: it breaks the connection off.
        stalls_at_s: it takes nothing more for a while.
    """

    leaves_at_s: float | None = None
    stalls_at_s: float | None = None


@frozen(repr=False)
class Story(Brief):
    """One exchange."""

    ask: Ask = Ask()
    reply: Reply = Reply()
    client: Client = Client()
    starts_at_s: float = 0.0

    @property
    def lasts_s(self) -> float:
        """Until everything that is written here has happened."""
        asking_s = self.ask.gap_s * (len(self.ask.cuts) + 2)
        stall_s = 0.0 if self.client.stalls_at_s is None else self.client.stalls_at_s + STALL_S
        return self.starts_at_s + stall_s + max(asking_s + self.reply.lasts_s, self.client.leaves_at_s or 0.0)

    @property
    def is_plain(self) -> bool:
        """The client stays and takes what comes, and the inner answers."""
        return self.client == Client() and self.reply.end is End.WHOLE


def told(stories: Any) -> str:
    """A history, an exchange a line."""
    return "\n".join(f"    {story!r}" for story in stories)
