"""HTTP/1.1 body framing, without I/O: the chunked coding in both directions, trailers, and ``Content-Length``.

The server and the client side share it. Heads are llhttp's business; what delimits a body is decided here, strictly,
because two parties that disagree about where a message ends are what request smuggling is made of.
"""

from __future__ import annotations

import re

import httptools

from txgateway.headers import FORWARDED_NAMES, HOP_BY_HOP
from txgateway.transport.interfaces import HeaderList

#: Longest chunk-size line, its extensions included.
MAX_CHUNK_LINE_BYTES = 4096
#: Most that chunk extensions may exceed the data they came with, over a whole body.
MAX_CHUNK_OVERHEAD_BYTES = 4096
#: Largest trailer section.
MAX_TRAILER_BYTES = 16 * 1024
#: Most fields in a trailer section.
MAX_TRAILER_FIELDS = 100
#: Digits of a Content-Length; 18 of them fit a signed 64-bit number.
MAX_LENGTH_DIGITS = 18

#: Ends a chunked body that has no trailers.
LAST_CHUNK = b"0\r\n\r\n"

# RFC 9112 section 7.1. The size's 16 digits are enough for any body; extensions may hold no control but HTAB.
_SIZE_LINE_SYNTAX = rb"([0-9A-Fa-f]{1,16})([ \t]*+;[\t\x20-\x7e\x80-\xff]*+)?\r\n"
_SIZE_LINE = re.compile(_SIZE_LINE_SYNTAX)
#: The same behind the line end of the chunk before.
_NEXT_SIZE_LINE = re.compile(rb"\r\n" + _SIZE_LINE_SYNTAX)

# Chunks of up to 15 bytes come in large numbers where they come at all, and one by one each costs as much as a large
# one. So a whole run of them, without extensions, is matched at once, each with the line end before it, and its data
# taken out by a second expression, which may rely on what the first has seen.
_SMALL = [(b"[%x%X]" % (size, size), size) for size in range(1, 16)]
_RUN = re.compile(rb"(?s:\r\n0{0,15}+(?:%b))*+" % b"|".join(rb"%b\r\n.{%d}" % small for small in _SMALL))
_RUN_DATA = re.compile(rb"(?s)\r\n0*+[1-9A-Fa-f]\r\n(%b)" % b"|".join(rb"(?<=%b\r\n).{%d}" % small for small in _SMALL))
#: How many chunks are read one by one before a run is looked for again, so that looking costs next to nothing.
_CHUNKS_BETWEEN_RUNS = 32
#: How many chunks one call of ``feed`` reads one by one: about a millisecond's worth.
CHUNKS_A_FEED = 2048

#: Fields that a trailer section must not carry (RFC 9110 section 6.5.1): whoever merges trailers into the header
#: section would let a sender override framing, routing, authentication, caching or the content's format, or what
#: the gateway itself says about the client. Digests (RFC 9530) are what trailers are for, and stay.
FORBIDDEN_TRAILERS = (
    HOP_BY_HOP
    | FORWARDED_NAMES
    | frozenset(
        b"age authentication-info authorization baggage cache-control content-disposition content-encoding "
        b"content-language content-location content-range content-type cookie date expect expires host if-match "
        b"if-modified-since if-none-match if-range if-unmodified-since location max-forwards origin pragma range "
        b"retry-after set-cookie traceparent tracestate trailer vary via warning www-authenticate x-request-id "
        b"access-control-allow-credentials access-control-allow-headers access-control-allow-methods "
        b"access-control-allow-origin access-control-expose-headers access-control-max-age content-security-policy "
        b"permissions-policy ratelimit ratelimit-policy referrer-policy strict-transport-security "
        b"x-content-type-options x-frame-options x-ratelimit-limit x-ratelimit-remaining x-ratelimit-reset".split()
    )
)


class FramingError(Exception):
    """The body's framing breaks a rule or a limit; the text is for the log."""


class ChunkedDecoder:
    """Takes the chunked coding off a body that arrives in any split (RFC 9112 section 7.1).

    Attributes:
        done: the last chunk and the trailer section were read; nothing more may be fed.
        leftover: what was fed and not read: what lies behind the end of the body or, as long as that is not ``done``,
            behind the number of chunks that one call reads; then it is what must be fed next.
        trailers: the trailer fields, without those that trailers must not carry.
    """

    __slots__ = ("_held", "_in_chunk", "_in_trailers", "_left", "_overhead_bytes", "done", "leftover", "trailers")

    def __init__(self) -> None:
        self.done = False
        self.leftover = b""
        self.trailers: HeaderList = []
        self._held = b""  # an incomplete line or trailer section
        self._left = 0  # bytes of the current chunk still to come
        self._in_chunk = False  # the CRLF behind the current chunk's data is still to come
        self._in_trailers = False
        self._overhead_bytes = 0

    def feed(self, data: bytes) -> bytes:
        """Return the body bytes in ``data``, joined over chunk borders; often empty.

        What one call costs is bounded: see :data:`CHUNKS_A_FEED` and :attr:`leftover`.

        Raises:
            FramingError: the coding is malformed or exceeds a limit.
        """
        if self._held:
            data = self._held + data
            self._held = b""
        pieces: list[bytes] = []
        position = 0
        if not self._in_chunk:
            position = self._read_size_line(data, position)
        if self._in_chunk and not self._in_trailers:
            position = self._read_chunks(data, position, pieces)
        if self._in_trailers:
            self._read_trailers(data, position)
        else:
            self.leftover = data[position:] if position >= 0 else b""
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _read_chunks(self, data: bytes, position: int, pieces: list[bytes]) -> int:
        """Read on within a chunk, and all chunks after it.

        This is the fast way for what is whole and in order; anything else is left to :meth:`_read_size_line`.

        Returns:
            where the trailer section or, in the middle of the body, the rest begins; -1 if there is no rest.
        """
        size = len(data)
        left = self._left
        next_size_line = _NEXT_SIZE_LINE.match
        for number in range(CHUNKS_A_FEED):
            end = position + left
            if end > size:
                if position < size:
                    pieces.append(data[position:])
                self._left = end - size
                return -1
            if left:
                pieces.append(data[position:end])
            position = end
            if not number % _CHUNKS_BETWEEN_RUNS:
                position = self._read_run(data, position, pieces)
            match = next_size_line(data, position)
            if match is None:
                break
            left = int(match[1], 16)
            if match.lastindex == 2 or self._overhead_bytes:
                extension = match[2] or b""
                if match.end() - position - 2 > MAX_CHUNK_LINE_BYTES:
                    break
                if self._overhead_bytes or len(extension) > 2 * left:
                    self._count_overhead(len(extension), left)
            position = match.end()
            if not left:
                self._left = 0
                self._in_trailers = True
                return position
        else:
            self._left = left
            return position
        self._left = 0
        return self._read_size_line(data, position)

    def _read_run(self, data: bytes, position: int, pieces: list[bytes]) -> int:
        """Take the whole run of small chunks that begins with the line end at ``position``; returns where it ends."""
        end = _RUN.match(data, position).end()  # type: ignore[union-attr]  # it matches nothing, too
        if end > position:
            body = b"".join(_RUN_DATA.findall(data, position, end))
            pieces.append(body)
            self._overhead_bytes = max(0, self._overhead_bytes - 2 * len(body))
        return end

    def _count_overhead(self, extension_bytes: int, size: int) -> None:
        # Tiny chunks with long extensions would make us read far more than the body limit counts.
        extra = self._overhead_bytes + extension_bytes - 2 * size
        self._overhead_bytes = max(0, extra)
        if extra > MAX_CHUNK_OVERHEAD_BYTES:
            raise FramingError("too many chunk extensions")

    def _read_size_line(self, data: bytes, position: int) -> int:
        """Read one chunk-size line; -1 when it is not complete yet, and then it is held."""
        start = position
        if self._in_chunk:
            ending = data[position : position + 2]
            if ending != b"\r\n":
                if ending not in (b"", b"\r"):
                    raise FramingError("chunk data is not followed by CRLF")
                self._held = ending
                return -1
            start += 2
        # Looking for LF, not CRLF: a line that ends in a bare LF is refused at once instead of waited for.
        end = data.find(b"\n", start) + 1
        if (end or len(data)) - start > MAX_CHUNK_LINE_BYTES:
            raise FramingError("chunk-size line is too long")
        if not end:
            self._held = data[position:]
            return -1
        match = _SIZE_LINE.fullmatch(data, start, end)
        if match is None:
            raise FramingError("malformed chunk-size line")
        size = int(match[1], 16)
        self._count_overhead(len(match[2] or b""), size)
        self._left = size
        self._in_chunk = True
        self._in_trailers = size == 0
        return end

    def _read_trailers(self, data: bytes, position: int) -> None:
        """Read the trailer section, or hold it when it is not complete yet."""
        if data.startswith(b"\r\n", position):
            self.leftover = data[position + 2 :]
            self.done = True
            return
        end = data.find(b"\r\n\r\n", position) + 4
        is_complete = end > 3
        if (end if is_complete else len(data)) - position > MAX_TRAILER_BYTES:
            raise FramingError("trailer section is too large")
        if not is_complete:
            self._held = data[position:]
            return
        self.trailers = parse_trailers(data[position:end])
        self.leftover = data[end:]
        self.done = True


class _FieldCollector:
    """What llhttp reports a trailer section's fields to."""

    __slots__ = ("fields",)

    def __init__(self) -> None:
        self.fields: HeaderList = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.lower(), name, value.rstrip(b" \t")))


def parse_trailers(section: bytes) -> HeaderList:
    """Parse a trailer section with its closing empty line, and drop the fields that trailers must not carry.

    llhttp parses it as a request's header section, so that one grammar judges all field lines.

    Raises:
        FramingError: malformed, or too many fields.
    """
    collector = _FieldCollector()
    try:
        httptools.HttpRequestParser(collector).feed_data(b"GET / HTTP/1.1\r\n" + section)
    except httptools.HttpParserUpgrade:
        pass  # an Upgrade field; it is dropped below like the other connection-level ones
    except httptools.HttpParserError as exc:
        raise FramingError(f"malformed trailer section: {exc}") from exc
    if len(collector.fields) > MAX_TRAILER_FIELDS:
        raise FramingError("too many trailer fields")
    return [field for field in collector.fields if field[0] not in FORBIDDEN_TRAILERS]


def parse_content_length(value: bytes) -> int:
    """The count in a ``Content-Length`` field value (RFC 9110 section 8.6), blanks around it allowed.

    Raises:
        FramingError: not digits only, or too many of them.
    """
    value = value.strip(b" \t")
    # bytes.isdigit is ASCII only and refuses signs, blanks, underscores and lists.
    if not value.isdigit() or len(value) > MAX_LENGTH_DIGITS:
        raise FramingError("malformed Content-Length")
    return int(value)


def encode_chunk(data: bytes) -> bytes:
    """Frame ``data`` as one chunk; it must not be empty, since an empty chunk ends the body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def encode_last_chunk(trailers: HeaderList) -> bytes:
    """End a chunked body, with ``trailers`` spelled as received."""
    if not trailers:
        return LAST_CHUNK
    return b"0\r\n%b\r\n" % b"".join([b"%b: %b\r\n" % (name, value) for _, name, value in trailers])
