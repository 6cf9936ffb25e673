"""Hypothesis strategies: requests, responses, bodies in pieces, clients and backends that misbehave, and HTTP/1.1 bytes.

Valid messages first; what breaks them comes on top. Needs the extra ``testing``.
"""

from __future__ import annotations

from hypothesis import strategies as st

from txgateway.testing.backends import Reaction, Refuse, Reset, Response, Stall
from txgateway.testing.stories import Ask, Client, End, Pairs, Reply, Story
from txgateway.testing.wire_strategies import (
    DECIDING,
    METHODS,
    NASTY,
    TOKEN_CHARACTERS,
    Message,
    bodies,
    fields,
    messages,
    mutated,
    names,
    splits,
    targets,
    values,
)

__all__ = [
    "DECIDING",
    "METHODS",
    "NASTY",
    "TOKEN_CHARACTERS",
    "Message",
    "asks",
    "bodies",
    "chunkings",
    "clients",
    "fields",
    "header_lists",
    "histories",
    "messages",
    "moments",
    "mutated",
    "names",
    "pairs_of_stories",
    "pieces",
    "reactions",
    "replies",
    "responses",
    "splits",
    "stories",
    "targets",
    "values",
]

#: More than a connection takes at once of an answer that nobody reads.
MUCH = b"m" * 70_000
_REQUEST_NAMES = (b"X-A", b"x-a", b"X-B", b"Accept", b"Cookie", b"User-Agent", b"user-AGENT", b"X-Forwarded-Host")
_RESPONSE_NAMES = (b"X-A", b"x-A", b"X-B", b"Set-Cookie", b"set-cookie", b"Vary", b"ETag", b"Cache-Control")
_VALUES = (b"1", b"2", b"a, b", b"", b'"q, r"', b"\xc3\xa9")
_STATUSES = (200, 200, 200, 201, 204, 304, 404, 500)
_TARGETS = (b"/", b"/a/b?c=d", b"/a%20b;x", b"/a?b=/../c", b"/deep/er/path/")


def header_lists(names: tuple[bytes, ...] = _REQUEST_NAMES, max_size: int = 5) -> st.SearchStrategy[Pairs]:
    """End-to-end fields: names repeated, in different spellings, next to each other and apart."""
    return st.lists(st.tuples(st.sampled_from(names), st.sampled_from(_VALUES)), max_size=max_size).map(tuple)


def pieces(max_size: int = 4) -> st.SearchStrategy[tuple[bytes, ...]]:
    """A body as it comes; empty pieces among them."""
    piece = st.sampled_from((b"", b"a", b"bc", b"\r\n", b"0\r\n\r\n", b"\x00\xff", b"d" * 3000))
    return st.lists(piece, max_size=max_size).map(tuple)


def moments() -> st.SearchStrategy[float]:
    """Seconds after a beginning: at once, between two other things, late."""
    return st.sampled_from((0.0, 0.5, 1.5, 2.5, 7.5))


@st.composite
def asks(draw: st.DrawFn) -> Ask:
    """A valid request, in reads of any size, at once or slowly."""
    cuts = tuple(draw(st.lists(st.integers(1, 200), max_size=3)))
    gap_s = draw(st.sampled_from((0.0, 0.0, 1.0))) if cuts else 0.0
    target, extra = draw(st.sampled_from(_TARGETS)), draw(header_lists())
    if draw(st.booleans()):
        method = draw(st.sampled_from((b"GET", b"HEAD", b"DELETE", b"OPTIONS")))
        return Ask(method, target, extra, cuts=cuts, gap_s=gap_s)
    is_chunked = draw(st.booleans())
    trailers = draw(header_lists((b"X-T", b"x-t", b"X-U"), 2)) if is_chunked else ()
    method = draw(st.sampled_from((b"POST", b"PUT", b"PATCH")))
    return Ask(method, target, extra, draw(pieces()), is_chunked, trailers, cuts, gap_s)


@st.composite
def replies(draw: st.DrawFn, *, is_well: bool = False) -> Reply:
    """An answer; unless ``is_well``, it may break off, stall, or never begin."""
    status = draw(st.sampled_from(_STATUSES))
    body = draw(pieces()) if status not in {204, 304} else ()
    after_s, gap_s = draw(st.sampled_from((0.0, 0.0, 1.0, 5.0))), draw(st.sampled_from((0.0, 0.0, 1.0)))
    is_resource = draw(st.booleans())
    has_length = not is_resource and draw(st.booleans())
    trailers = () if is_resource or has_length or not body else draw(header_lists((b"X-T", b"x-t"), 2))
    end = End.WHOLE if is_well else draw(st.sampled_from((End.WHOLE, *End)))
    headers = draw(header_lists(_RESPONSE_NAMES))
    return Reply(status, headers, body, has_length, trailers, after_s, gap_s, is_resource, end)


def clients() -> st.SearchStrategy[Client]:
    """One that stays, one that leaves at any point, one that takes nothing for a while."""
    return st.one_of(
        st.just(Client()),
        st.just(Client()),  # half of them
        st.builds(Client, leaves_at_s=moments()),
        st.builds(Client, stalls_at_s=moments()),
    )


@st.composite
def stories(draw: st.DrawFn) -> Story:
    """One exchange, well or not."""
    client = draw(clients())
    reply = draw(replies())
    if client.stalls_at_s is not None and reply.pieces and not reply.has_length:
        reply = Reply(200, reply.fields, (MUCH, *reply.pieces), is_resource=reply.is_resource, end=reply.end)
    return Story(draw(asks()), reply, client)


@st.composite
def chunkings(draw: st.DrawFn) -> tuple[Story, Story]:
    """The same exchange twice: all at once, and in other pieces, empty ones included."""
    ask, reply = draw(asks()), draw(replies(is_well=True))
    whole = (reply.body,) if reply.body else ()
    asked = None if ask.pieces is None else (ask.body,)
    once = Story(
        Ask(ask.method, ask.target, ask.fields, asked, ask.is_chunked, ask.trailers),
        Reply(reply.status, reply.fields, whole, reply.has_length, reply.trailers, is_resource=reply.is_resource),
    )
    return once, Story(ask, reply)


@st.composite
def pairs_of_stories(draw: st.DrawFn) -> tuple[Story, Story]:
    """Two exchanges that overlap."""
    first = Story(draw(asks()), draw(replies(is_well=True)))
    second = Story(draw(asks()), draw(replies()), starts_at_s=draw(moments()))
    return first, second


def histories() -> st.SearchStrategy[list[Story]]:
    """Some exchanges at the same time, most of which do not end well."""
    return st.lists(stories(), min_size=1, max_size=4)


@st.composite
def responses(draw: st.DrawFn) -> Response:
    """What a scripted backend of a GatewayHarness answers: any valid response, with a length or chunked."""
    status, headers = draw(st.sampled_from(_STATUSES)), draw(header_lists(_RESPONSE_NAMES))
    after_s, at_head = draw(moments()), draw(st.booleans())
    if status in {204, 304}:
        return Response(status, headers, after_s=after_s, at_head=at_head)
    body = draw(pieces())
    if draw(st.booleans()):
        return Response(status, headers, b"".join(body), after_s=after_s, at_head=at_head)
    trailers = draw(header_lists((b"X-T", b"x-t"), 2))
    return Response(status, headers, chunks=body, trailers=trailers, after_s=after_s, at_head=at_head)


def reactions() -> st.SearchStrategy[Reaction]:
    """What a scripted backend does, well or not: it answers, breaks off or stalls at any point, or refuses."""
    after_bytes = st.sampled_from((None, 0, 1, 5))
    return st.one_of(
        responses(),
        st.builds(Reset, after_bytes, responses(), moments(), st.booleans()),
        st.builds(Stall, after_bytes, responses(), moments(), st.booleans()),
        st.just(Refuse()),
    )
