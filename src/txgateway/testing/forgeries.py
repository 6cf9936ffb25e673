"""What a client says in fields that are a middleware's own, in spellings that a backend may take for the same."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from attrs import frozen
from hypothesis import strategies as st

from txgateway.headers import cgi_name, end_to_end
from txgateway.testing.law import law
from txgateway.testing.stories import Ask, Brief, Story
from txgateway.testing.trial import Trial

FORGED: Final = b"forged-by-the-client"
_SEPARATORS: Final = (b"-", b"_", b".", b"~", b"!", b"+")
_PLACES: Final = ("fields", "trailers", "Connection")


@frozen(repr=False)
class Forgery(Brief):
    """How a client tries it.

    Attributes:
        place: where it names the field: among its ``fields`` or ``trailers``, or in ``Connection``.
        separator: in place of the hyphens of the name.
        is_upper: it shouts.
    """

    place: str = "fields"
    separator: bytes = b"-"
    is_upper: bool = False

    def spelled(self, name: bytes) -> bytes:
        """The name as the client writes it."""
        spelled = name.replace(b"-", self.separator)
        return spelled.upper() if self.is_upper else spelled

    def story(self, name: bytes) -> Story:
        """The exchange in which it is tried."""
        spelled = self.spelled(name)
        if self.place == "fields":
            return Story(Ask(fields=((spelled, FORGED),)))
        if self.place == "trailers":
            return Story(Ask(b"POST", pieces=(b"a",), is_chunked=True, trailers=((spelled, FORGED),)))
        return Story(Ask(fields=((b"Connection", spelled),)))


#: All there is of them, the usual first.
FORGERIES: Final = tuple(
    Forgery(place, separator, is_upper)
    for separator in _SEPARATORS
    for place in _PLACES
    for is_upper in (False, True)
    if place != "Connection" or separator == b"-"
)


def forgeries() -> st.SearchStrategy[Forgery]:
    """Any of them."""
    return st.sampled_from(FORGERIES)


@law(forgeries)
def drops_forgeries(trial: Trial, forgery: Forgery) -> str | None:
    """What it sets itself of the declared request fields, no client can set or take away, however it spells the name."""
    for name in sorted(trial.promises.changes_request_headers):
        if not _is_own(trial, name):
            continue
        story = forgery.story(name)
        (outcome,) = trial.bench().play(story)
        if not outcome.record.seen:
            continue
        headers = outcome.record.seen[0].headers
        fields = [(lowered, value) for lowered, _, value in headers]
        trailers = [(spelled.lower(), value) for spelled, value in outcome.record.trailers]
        if FORGED in _values([*fields, *trailers], name):
            return f"the client's {forgery.spelled(name).decode()} comes to the inner beside its own: {story!r}"
        connection = b", ".join(value for lowered, value in fields if lowered == b"connection")
        if not any(header[0] == name for header in end_to_end(headers, connection)):
            return f"the client has its {name.decode()} taken away: {story!r}"
    return None


def _is_own(trial: Trial, name: bytes) -> bool:
    """Whether the middleware sets the field, whatever the client says in it; not if it only stands in, or drops."""
    for fields in ((), ((name, FORGED),)):
        (outcome,) = trial.bench().play(Story(Ask(fields=fields)))
        seen = outcome.record.seen
        if not seen or not any(lowered == name and value != FORGED for lowered, _, value in seen[0].headers):
            return False
    return True


def _values(fields: Iterable[tuple[bytes, bytes]], name: bytes) -> Iterator[Any]:
    """Of all fields that a backend may take for this one."""
    meant = cgi_name(name)
    return (value for lowered, value in fields if cgi_name(lowered) == meant)
