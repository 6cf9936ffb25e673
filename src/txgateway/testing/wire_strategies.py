"""Generated HTTP/1.1 as bytes: valid messages first, then mutations of them, then splits at any place."""

from __future__ import annotations

import re
from collections.abc import Sequence

from attrs import field, frozen
from hypothesis import strategies as st

Fields = list[tuple[bytes, bytes]]

METHODS = (b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH")
TOKEN_CHARACTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'*+-.^_`|~"  # noqa: S105 -- of a token in HTTP's sense
#: Fields that the transport decides by: :class:`Message` makes them itself.
DECIDING = frozenset((b"host", b"content-length", b"transfer-encoding", b"connection", b"upgrade", b"expect"))
#: What breaks parsers.
NASTY = (
    b"\r\n", b"\n", b"\r", b"\x00", b" ", b"\t", b":", b"\r\n\r\n", b"\r\n ", b"\x7f", b"\xff", b"+", b"0x", b",", b";",
    b"Content-Length: 3\r\n", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: identity\r\n", b"Host: b\r\n", b"Connection: close\r\n", b"Connection: upgrade\r\n",
    b"Upgrade: websocket\r\n", b"Expect: 100-continue\r\n", b" HTTP/1.1", b" HTTP/1.0", b"HTTP/2.0",
    b"0\r\n\r\n", b"5\r\nhello\r\n", b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
)  # fmt: skip

names = (
    st.text(TOKEN_CHARACTERS, min_size=1, max_size=12).map(str.encode).filter(lambda name: name.lower() not in DECIDING)
)
values = st.one_of(
    st.sampled_from([b"", b"1", b"a, b", b'"q, r"', b"text/plain; charset=utf-8", b"a  b", b"\xc3\xa9"]),
    st.binary(max_size=20).map(lambda raw: re.sub(rb"[^\t\x20-\x7e\x80-\xff]", b"", raw).strip(b" \t")),
)
fields: st.SearchStrategy[Fields] = st.lists(st.tuples(names, values), max_size=6)
targets = st.one_of(
    st.sampled_from([b"/", b"/a/b?c=d", b"/%2F;x", b"http://h/p", b"*"]),
    st.text("abc/.?=&%20-_~", max_size=30).map(lambda text: b"/" + text.encode()),
)
bodies = st.one_of(st.binary(max_size=40), st.sampled_from([b"0\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"\r\n" * 4]))


@frozen
class Message:
    """A valid request.

    Attributes:
        chunks: pieces of the body if it is chunked, else None.
        body: the whole of it.
    """

    method: bytes
    target: bytes
    version: bytes
    fields: Fields
    body: bytes = b""
    has_length: bool = False
    chunks: Sequence[bytes] | None = None
    extension: bytes = b""
    trailers: Fields = field(factory=list)
    connection: bytes = b""

    @property
    def all_fields(self) -> Fields:
        """The fields with those that the transport decides by, in order."""
        made: Fields = [(b"Host", b"a")]
        if self.has_length:
            made.append((b"Content-Length", b"%d" % len(self.body)))
        if self.chunks is not None:
            made.append((b"transfer-encoding", b"Chunked"))
        if self.connection:
            made.append((b"Connection", self.connection))
        return [*made, *self.fields]

    @property
    def head(self) -> bytes:
        """The bytes before the body."""
        lines = [b"%b %b %b" % (self.method, self.target, self.version)]
        lines += [name + b": " + value for name, value in self.all_fields]
        return b"\r\n".join([*lines, b"", b""])

    @property
    def wire(self) -> bytes:
        """The whole request as bytes."""
        if self.chunks is None:
            return self.head + self.body
        chunks = [b"%x%b\r\n%b\r\n" % (len(chunk), self.extension, chunk) for chunk in self.chunks]
        trailers = [name + b": " + value + b"\r\n" for name, value in self.trailers]
        return b"".join([self.head, *chunks, b"0\r\n", *trailers, b"\r\n"])


@st.composite
def messages(draw: st.DrawFn) -> Message:
    """A valid request, of any framing and version."""
    kind = draw(st.sampled_from(["none", "none", "length", "chunked"]))
    version = b"HTTP/1.1" if kind == "chunked" else draw(st.sampled_from([b"HTTP/1.1"] * 4 + [b"HTTP/1.0"]))
    connection = b"keep-alive" if version == b"HTTP/1.0" else draw(st.sampled_from([b"", b"", b"keep-alive, X-A"]))
    method, target, extra = draw(st.sampled_from(METHODS)), draw(targets), draw(fields)
    if kind == "none":
        return Message(method, target, version, extra, connection=connection)
    if kind == "length":
        return Message(method, target, version, extra, draw(bodies), has_length=True, connection=connection)
    chunks = draw(st.lists(st.binary(min_size=1, max_size=20), max_size=4))
    trailers = draw(st.lists(st.tuples(names.map(lambda name: b"X-T-" + name), values), max_size=2))
    extension = draw(st.sampled_from([b"", b"", b";a=b", b' ; q="x y"']))
    return Message(
        method, target, version, extra, b"".join(chunks), chunks=chunks, extension=extension, trailers=trailers,
        connection=connection,
    )  # fmt: skip


def splits(data: bytes) -> st.SearchStrategy[list[bytes]]:
    """``data`` cut anywhere."""
    return st.one_of(
        st.just([data[at : at + 1] for at in range(len(data))]),
        st.lists(st.integers(0, len(data)), max_size=12).map(lambda cuts: _cut(data, sorted(cuts))),
    )


def _cut(data: bytes, cuts: list[int]) -> list[bytes]:
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


@st.composite
def mutated(draw: st.DrawFn, data: bytes) -> bytes:
    """``data`` after one to three changes."""
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 8)))
        change = draw(st.sampled_from(["insert", "replace", "delete", "double", "byte"]))
        if change == "insert":
            data = data[:start] + draw(st.sampled_from(NASTY)) + data[start:]
        elif change == "replace":
            data = data[:start] + draw(st.sampled_from(NASTY)) + data[end:]
        elif change == "delete":
            data = data[:start] + data[end:]
        elif change == "double":
            data = data[:end] + data[start:]
        else:
            data = data[:start] + bytes((draw(st.integers(0, 255)),)) + data[start + 1 :]
    return data
