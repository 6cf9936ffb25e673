"""How the laws are called, and what a broken one says."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from txgateway.errors import GatewayError
from txgateway.middleware import GatewayRequest, Middleware
from txgateway.testing.forgeries import drops_forgeries
from txgateway.testing.laws import (
    LAWS,
    LawBroken,
    Promises,
    Trial,
    assert_middleware_laws,
    keeps_response,
    repeats_what_was_said,
)
from txgateway.testing.stories import Ask, Client, End, Reply, Story


class Lifted(GatewayError):
    """Not today."""

    status, reason, title = 403, "LIFTED", "Forbidden"


class Barrier(Middleware):
    """Refuses a path."""

    class Settings(BaseModel, frozen=True, extra="forbid"):
        path: str = "/a/b"

    def render(self, request: GatewayRequest) -> Any:
        if request.path == self.settings.path.encode():
            raise Lifted
        return self.inner.render(request)


class Louder(Middleware):
    """Changes what the client gets."""

    def render(self, request: GatewayRequest) -> Any:
        request.before_head(self._shout)
        return self.inner.render(request)

    def _shout(self, request: GatewayRequest) -> None:
        request.response_headers = [*request.response_headers, (b"x-loud", b"X-Loud", b"1")]


def test_class_is_made_as_the_gateway_makes_it() -> None:
    assert_middleware_laws(Barrier, refuses=["LIFTED"], max_examples=10)
    assert_middleware_laws(Barrier, settings={"path": "/nowhere"}, max_examples=10)
    with pytest.raises(ValidationError):
        assert_middleware_laws(Barrier, settings={"pat": "/"}, max_examples=1)


def test_message_names_the_law_and_tells_what_happened() -> None:
    with pytest.raises(LawBroken) as caught:
        assert_middleware_laws(Barrier, max_examples=60)
    assert caught.value.law == "refuses_as_declared"
    told = str(caught.value).splitlines()
    assert told == [
        "refuses_as_declared: It refuses with declared reasons, and answers itself only if that is declared.",
        "  it answers 403 LIFTED, which is not declared",
        "  This is what happened:",
        "    Story(ask=Ask(target=b'/a/b?c=d'))",
    ]


def test_one_law_can_be_judged_by_itself() -> None:
    story = Story(Ask(), Reply(pieces=(b"a",)))
    keeps_response(Trial(lambda inner, context: Louder(inner), Promises(changes_response_headers=["x-LOUD"])), story)
    with pytest.raises(LawBroken, match="keeps_response"):
        keeps_response(Trial(lambda inner, context: Louder(inner), Promises()), story)
    others = [law for law in LAWS if law is not keeps_response]
    assert_middleware_laws(Louder, laws=others, max_examples=5)


def test_what_cannot_be_declared_is_refused() -> None:
    with pytest.raises(ValueError, match="weather"):
        Promises(changes=["weather"])


def test_story_can_be_pasted() -> None:
    story = Story(
        Ask(b"POST", b"/x", ((b"A", b"1"),), (b"m" * 70_000, b""), is_chunked=True, cuts=(3,)),
        Reply(204, end=End.BREAKS, after_s=1.0),
        Client(leaves_at_s=0.5),
    )
    assert eval(repr(story)) == story
    assert len(repr(story)) < 250


class StandsIn(Middleware):
    """Says what a client has not said."""

    def render(self, request: GatewayRequest) -> Any:
        if request.header(b"x-kind") is None:
            request.headers = (*request.headers, (b"x-kind", b"X-Kind", b"usual"))
            request.fields = request.fields | {b"x-kind": b"usual"}
        return self.inner.render(request)


class SetsPlainly(Middleware):
    """Knows one spelling."""

    def render(self, request: GatewayRequest) -> Any:
        request.remove_headers(frozenset({b"x-kind"}))
        request.headers = (*request.headers, (b"x-kind", b"X-Kind", b"usual"))
        request.fields = request.fields | {b"x-kind": b"usual"}
        return self.inner.render(request)


def test_field_that_clients_may_set_cannot_be_forged() -> None:
    only: dict[str, Any] = {"changes_request_headers": ["X-Kind"], "laws": [drops_forgeries]}
    assert_middleware_laws(StandsIn, **only)
    with pytest.raises(LawBroken) as caught:
        assert_middleware_laws(SetsPlainly, **only)
    assert "the client has its x-kind taken away" in str(caught.value)
    assert "Forgery(place='Connection')" in str(caught.value)


class KnowsItAll(Middleware):
    """Answers whatever comes again with one status."""

    def __init__(self, inner: Any, settings: Any = None, context: Any = None) -> None:
        super().__init__(inner, settings, context)
        self.known: set[bytes] = set()

    def render(self, request: GatewayRequest) -> Any:
        if request.uri in self.known:
            request.answer(self.settings, [], b"")
            return 1
        self.known.add(request.uri)
        return self.inner.render(request)


def test_own_answers_to_what_was_asked_before() -> None:
    only: dict[str, Any] = {"may_answer": True, "laws": [repeats_what_was_said], "max_examples": 5}
    assert_middleware_laws(KnowsItAll, settings=304, **only)
    assert_middleware_laws(KnowsItAll, settings=409, changes=["status"], **only)
    with pytest.raises(LawBroken, match="another status: 409 instead of 200"):
        assert_middleware_laws(KnowsItAll, settings=409, **only)


class Repeats(Middleware):
    """Tells the backend who asks, and refuses nobody."""

    def render(self, request: GatewayRequest) -> Any:
        who = str(request.claims["org"]).encode()
        request.headers = (*request.headers, (b"x-who", b"X-Who", who))
        request.before_head(self.look)
        return self.inner.render(request)

    def look(self, request: GatewayRequest) -> None:
        if request.reason is None:
            assert [value for lowered, _, value in request.response_headers if lowered == b"x-b"] == [b"given"]


def test_claims_and_fields_of_answers_are_given() -> None:
    story = Story(Ask(), Reply(fields=((b"x-b", b"other"), (b"X-A", b"1")), pieces=(b"a",)))
    trial = Trial(
        lambda inner, context: Repeats(inner), Promises(claims={"org": "acme"}, response_headers=[(b"X-B", b"given")])
    )
    outcome = trial.exchange(story).outcome
    assert (outcome.status, outcome.record.seen[0].headers[-1]) == (200, (b"x-who", b"X-Who", b"acme"))
    fields = [field for field in outcome.fields if field[0].lower().startswith(b"x-")]
    assert fields == [(b"X-A", b"1"), (b"X-B", b"given")]
