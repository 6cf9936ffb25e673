"""What came of a request, held against what was expected of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from attrs import frozen

from txgateway.policy.tables import BackendExpectTable, ExpectTable
from txgateway.policy.values import Wanted
from txgateway.testing.backends import Received
from txgateway.testing.calls import Answer

#: Characters of a value that a difference shows.
MAX_SHOWN: Final = 300
#: Times that differ by less are equal.
_MILLISECOND_S: Final = 0.001


@frozen
class Difference:
    """Something that is not as expected.

    Attributes:
        field: as the file names it, ``headers.Retry-After``.
        expected, got: as people read them.
    """

    field: str
    expected: str
    got: str


@frozen
class Seen:
    """What came of a request.

    Attributes:
        answer: None if it was never whole.
        trouble: why not; empty otherwise.
        delay_s: virtual time that it took.
        received: what backends got, each with the backend's name.
        log: the line of the access log.
        faults: exceptions that were logged meanwhile.
    """

    answer: Answer | None
    trouble: str
    delay_s: float
    received: Sequence[tuple[str, Received]]
    log: Mapping[str, Any]
    faults: Sequence[str] = ()


def differences(expect: ExpectTable, seen: Seen) -> tuple[Difference, ...]:
    """All that is not as expected."""
    return tuple(_differences(expect, seen))


def seconds_text(seconds: float) -> str:
    """A time to the millisecond: ``30s``, ``0.1s``."""
    return f"{seconds:.3f}".rstrip("0").rstrip(".") + "s"


def _differences(expect: ExpectTable, seen: Seen) -> Iterator[Difference]:
    answer, log = seen.answer, seen.log
    if answer is None:
        yield Difference("answer", "a whole one", seen.trouble)
    else:
        yield from _differs("status", expect.status, [str(answer.status)])
    yield from _differs("reason", expect.reason, _values(log.get("reason")))
    yield from _differs("route", expect.route, _values(log.get("route")))
    if expect.attempts is not None and expect.attempts != log.get("attempts", 0):
        yield Difference("attempts", str(expect.attempts), str(log.get("attempts", 0)))
    if answer is not None:
        for name, wanted in expect.headers.items():
            yield from _differs(f"headers.{name}", wanted, [_text(value) for value in answer.values(name)])
        yield from _differs("body", expect.body, [_text(answer.body)])
    yield from _times(expect, seen.delay_s)
    if expect.backend is not None:
        yield from _backend(expect.backend, seen.received)


def _times(expect: ExpectTable, delay_s: float) -> Iterator[Difference]:
    got = seconds_text(delay_s)
    if expect.delay_s is not None and abs(delay_s - expect.delay_s) >= _MILLISECOND_S:
        yield Difference("delay", seconds_text(expect.delay_s), got)
    if expect.at_most_s is not None and delay_s - expect.at_most_s >= _MILLISECOND_S:
        yield Difference("at_most", seconds_text(expect.at_most_s), got)
    if expect.at_least_s is not None and expect.at_least_s - delay_s >= _MILLISECOND_S:
        yield Difference("at_least", seconds_text(expect.at_least_s), got)


def _backend(expect: BackendExpectTable, received: Sequence[tuple[str, Received]]) -> Iterator[Difference]:
    if not received:
        if expect.name is None or not expect.name.fits([]):
            yield Difference("backend", "a request" if expect.name is None else shown(expect.name.shown), "nothing")
        return
    name, request = received[-1]
    yield from _differs("backend.name", expect.name, [name])
    yield from _differs("backend.target", expect.target, [request.place])
    yield from _differs("backend.method", expect.method, [_text(request.method)])
    yield from _differs("backend.path", expect.path, [_text(request.target)])
    for field, wanted in expect.headers.items():
        lowered = field.lower().encode("ascii")
        values = [_text(value) for known, value in request.headers if known.lower() == lowered]
        yield from _differs(f"backend.headers.{field}", wanted, values)
    yield from _differs("backend.body", expect.body, [_text(request.body)])


def _differs(field: str, wanted: Wanted | None, values: list[str]) -> Iterator[Difference]:
    if wanted is not None and not wanted.fits(values):
        yield Difference(field, shown(wanted.shown), _got(values))


def _got(values: list[str]) -> str:
    if not values:
        return "nothing"
    return shown(values[0]) if len(values) == 1 else "[" + ", ".join(shown(value) for value in values) + "]"


def shown(text: str) -> str:
    """A text on one line, of bounded length; quoted if it would not be seen otherwise."""
    cut = text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}… ({len(text)} characters)"
    return cut if cut and cut.isprintable() and cut == cut.strip() else repr(cut)


def _values(value: object) -> list[str]:
    return [] if value is None else [str(value)]


def _text(value: bytes) -> str:
    return value.decode("utf-8", "backslashreplace")
