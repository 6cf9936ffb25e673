"""What laws judge: a middleware, what it promises, and what came of an exchange with it and without it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

from attrs import field, frozen

from txgateway.testing.bench import Bench, Outcome
from txgateway.testing.context import MiddlewareFactory
from txgateway.testing.stories import End, Pairs, Reply, Story

#: What else than fields a middleware may declare to change.
CHANGEABLE: Final = frozenset({"target", "request_body", "response_body", "status"})
_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding"})
#: A request that nobody answers.
HOLDING: Final = Story(reply=Reply(end=End.STALLS))

Fields = tuple[tuple[bytes, bytes], ...]


def _lowered(names: Collection[str | bytes]) -> frozenset[bytes]:
    return frozenset((name.encode("ascii") if isinstance(name, str) else name).lower() for name in names)


def _known(names: Collection[str]) -> frozenset[str]:
    if unknown := set(names) - CHANGEABLE:
        raise ValueError(f"{sorted(unknown)} cannot be declared: only {sorted(CHANGEABLE)}")
    return frozenset(names)


def _reasons(reasons: Collection[str]) -> frozenset[str]:
    return frozenset(reasons)


def _pairs(fields: Collection[tuple[bytes, bytes]]) -> Pairs:
    return tuple(fields)


@frozen
class Promises:
    """What a middleware declares.

    Attributes:
        changes_request_headers: names, in whatever case, of fields that the backend may see changed.
        changes_response_headers: the same, towards the client.
        changes: of ``target``, ``request_body``, ``response_body``, ``status``.
        refuses: reasons of the errors that it answers with.
        may_answer: it answers some requests itself.
        request_headers: fields that every request is made with, without which it lets none through.
        response_headers: fields that every answer of the inner has, in place of its own of these names.
        claims: of the token that was verified above it.
        outlasts_s: how long its timers may run after the last request.
        depends_on_others: what it tells in the declared fields depends on other requests, as with a limit.
        reports: what it has counted so far, of ``requests``, ``bytes_in`` and ``bytes_out``.
    """

    changes_request_headers: frozenset[bytes] = field(default=frozenset(), converter=_lowered)
    changes_response_headers: frozenset[bytes] = field(default=frozenset(), converter=_lowered)
    changes: frozenset[str] = field(default=frozenset(), converter=_known)
    refuses: frozenset[str] = field(default=frozenset(), converter=_reasons)
    may_answer: bool = False
    request_headers: Pairs = field(default=(), converter=_pairs)
    response_headers: Pairs = field(default=(), converter=_pairs)
    claims: Mapping[str, Any] = MappingProxyType({})
    outlasts_s: float = 0.0
    depends_on_others: bool = False
    reports: Callable[[Any], Mapping[str, int]] | None = None

    def is_kept_from_client(self, name: bytes) -> bool:
        """Whether a request field has to come to the inner as it is."""
        name = name.lower()
        return name not in self.changes_request_headers and not (name in _FRAMING and "request_body" in self.changes)

    def is_kept_from_inner(self, name: bytes) -> bool:
        """Whether a field of the answer has to come to the client as it is."""
        name = name.lower()
        if name == b"connection":  # the server connection's own business
            return False
        return name not in self.changes_response_headers and not (name in _FRAMING and "response_body" in self.changes)

    def is_own(self, outcome: Outcome) -> bool:
        """Whether this answer is the middleware's own, as declared."""
        if outcome.reason is not None:
            return outcome.reason in self.refuses
        return self.may_answer and not outcome.record.seen


@frozen
class Exchange:
    """One story, with the middleware and without."""

    story: Story
    outcome: Outcome
    bare: Outcome
    bench: Bench


class Trial:
    """A middleware before its judges.

    Args:
        factory: makes it, around an inner and with a context.
        promises: what it declares.
    """

    def __init__(self, factory: MiddlewareFactory, promises: Promises) -> None:
        self.factory = factory
        self.promises = promises
        self._last: Exchange | None = None

    def bench(self) -> Bench:
        """A new one of it."""
        return self._bench(self.factory)

    def bare_bench(self) -> Bench:
        """A new one without it."""
        return self._bench(None)

    def _bench(self, factory: MiddlewareFactory | None) -> Bench:
        promises = self.promises
        return Bench(factory, promises.request_headers, promises.response_headers, promises.claims)

    def exchange(self, story: Story) -> Exchange:
        """Play a story; laws that ask for the same one after each other get the same."""
        if self._last is None or self._last.story is not story:
            bench, bare = self.bench(), self.bare_bench()
            (outcome,), (without,) = bench.play(story), bare.play(story)
            self._last = Exchange(story, outcome, without, bench)
        return self._last

    # --- what counts of an outcome --------------------------------------------------------------------------------

    def request_of(self, outcome: Outcome) -> Iterator[tuple[str, object]]:
        """What the inner got, as far as it may not be changed."""
        promises, record = self.promises, outcome.record
        if not record.seen:
            return
        seen = record.seen[0]
        yield "method", seen.method
        if "target" not in promises.changes:
            yield "target", (seen.target, seen.path, seen.uri)
        headers = [(name, value) for _, name, value in seen.headers]
        yield "header fields", kept(headers, promises.is_kept_from_client)
        if "request_body" not in promises.changes:
            yield "body", record.body
        yield "trailers", kept(record.trailers, promises.is_kept_from_client)

    def answer_of(self, outcome: Outcome, *, is_strict: bool = False) -> Iterator[tuple[str, object]]:
        """What the client got, as far as it may not be changed; all of its fields if ``is_strict``."""
        promises = self.promises
        if "status" not in promises.changes:
            yield "status", (outcome.status, outcome.phrase)
        yield "header fields", kept(outcome.fields, promises.is_kept_from_inner)
        if is_strict:
            yield "header fields of its own", kept(outcome.fields, lambda name: name.lower() != b"connection")
        if "response_body" not in promises.changes:
            yield "body", outcome.body
        yield "trailers", kept(outcome.trailers, promises.is_kept_from_inner)
        yield "end", "whole" if outcome.is_whole else "cut off"
        yield "reason", outcome.reason

    def content_of(self, outcome: Outcome) -> Iterator[tuple[str, object]]:
        """What the client got, without what may be new each time."""
        yield "status", outcome.status
        yield "content fields", kept(outcome.fields, self._is_content)
        yield "body", outcome.body
        yield "end", "whole" if outcome.is_whole else "cut off"

    def _is_content(self, name: bytes) -> bool:
        """Whether it says what the body is; how long it is need not have been said."""
        lowered = name.lower()
        is_content = lowered.startswith(b"content-") and lowered not in _FRAMING
        return is_content and self.promises.is_kept_from_inner(name)


def kept(fields: Collection[tuple[bytes, bytes]], is_kept: Callable[[bytes], bool]) -> Fields:
    """Those fields that may not be changed."""
    return tuple((name, value) for name, value in fields if is_kept(name))


def difference(now: Iterator[tuple[str, object]], before: Iterator[tuple[str, object]]) -> str | None:
    """What is different, in words; None if nothing is."""
    known = dict(before)
    for what, value in now:
        if what in known and value != known[what]:
            return f"{what}: {_short(value)} instead of {_short(known[what])}"
    return None


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 600 else f"{text[:600]}… ({len(text)} characters)"
