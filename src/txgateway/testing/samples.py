"""The usual exchanges, one of each kind: laws are judged on these first, whatever chance would have found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from txgateway.testing.forgeries import FORGERIES, forgeries
from txgateway.testing.stories import Ask, Client, End, Reply, Story
from txgateway.testing.strategies import MUCH, chunkings, histories, pairs_of_stories, stories

_FIELDS: Final = ((b"X-A", b"1"), (b"x-a", b"2"), (b"X-B", b""), (b"X-A", b"1"), (b"Cookie", b"a=b"))
_ANSWER_FIELDS: Final = ((b"Set-Cookie", b"a"), (b"set-cookie", b"b"), (b"X-B", b"1"), (b"Set-Cookie", b"a"))
_TRAILERS: Final = ((b"X-T", b"1"), (b"x-t", b"2"))
_PIECES: Final = (b"ab", b"", b"c")
_TARGETS: Final = (b"/a/b?c=d", b"/a%20b;x", b"/deep/er/path/")
_SLOW: Final = Reply(pieces=_PIECES, after_s=1.0, gap_s=1.0)

SAMPLE_STORIES: Final[tuple[Story, ...]] = (
    Story(),
    *(Story(Ask(method)) for method in (b"HEAD", b"DELETE", b"OPTIONS")),
    *(Story(Ask(target=target)) for target in _TARGETS),
    *(Story(Ask(method, pieces=_PIECES)) for method in (b"POST", b"PUT", b"PATCH")),
    Story(Ask(b"POST", fields=_FIELDS, pieces=_PIECES, is_chunked=True, trailers=_TRAILERS, cuts=(30,), gap_s=1.0)),
    *(Story(reply=Reply(status)) for status in (201, 204, 304, 404, 500)),
    Story(reply=Reply(fields=_ANSWER_FIELDS, pieces=_PIECES, trailers=_TRAILERS)),
    Story(reply=Reply(fields=_ANSWER_FIELDS, pieces=_PIECES, has_length=True)),
    Story(reply=Reply(fields=_ANSWER_FIELDS, pieces=_PIECES, is_resource=True)),
    *(Story(reply=Reply(end=end)) for end in End if end is not End.WHOLE),
    *(Story(reply=Reply(pieces=_PIECES, after_s=1.0, end=end)) for end in (End.FAILS, End.BREAKS, End.STALLS)),
    *(Story(reply=_SLOW, client=Client(leaves_at_s=at_s)) for at_s in (0.0, 0.5, 1.5, 2.5)),
    Story(Ask(b"POST", pieces=_PIECES, cuts=(70,), gap_s=1.0), client=Client(leaves_at_s=0.5)),
    *(
        Story(reply=Reply(pieces=(MUCH, *_PIECES), is_resource=kind), client=Client(None, 0.0))
        for kind in (False, True)
    ),
)

SAMPLE_CHUNKINGS: Final[tuple[tuple[Story, Story], ...]] = tuple(
    (
        Story(Ask(b"POST", pieces=(b"abc",), is_chunked=True), Reply(pieces=(b"abc",), is_resource=kind)),
        Story(
            Ask(b"POST", pieces=_PIECES, is_chunked=True, cuts=(5, 60, 90), gap_s=gap_s),
            Reply(pieces=(b"", *_PIECES, b""), gap_s=gap_s, is_resource=kind),
        ),
    )
    for kind in (False, True)
    for gap_s in (0.0, 1.0)
)

SAMPLE_PAIRS: Final[tuple[tuple[Story, Story], ...]] = (
    (Story(Ask(target=b"/a/b?c=d", fields=_FIELDS), _SLOW), Story(starts_at_s=0.5)),
    (Story(Ask(b"POST", pieces=_PIECES, cuts=(70,), gap_s=1.0)), Story(reply=Reply(end=End.RAISES), starts_at_s=0.5)),
    (Story(reply=_SLOW), Story(Ask(target=b"/deep/er/path/"), _SLOW, starts_at_s=1.5)),
)

SAMPLE_HISTORIES: Final[tuple[list[Story], ...]] = (
    [Story(), Story(Ask(b"POST", pieces=_PIECES))],
    [Story(reply=_SLOW, client=Client(leaves_at_s=at_s)) for at_s in (0.0, 0.5, 1.5, 2.5)],
    [Story(reply=Reply(pieces=_PIECES, end=end)) for end in End],
)

#: By what makes further ones.
SAMPLES: Final[Mapping[Callable[..., Any], Sequence[Any]]] = {
    stories: SAMPLE_STORIES,
    chunkings: SAMPLE_CHUNKINGS,
    pairs_of_stories: SAMPLE_PAIRS,
    histories: SAMPLE_HISTORIES,
    forgeries: FORGERIES,
}
