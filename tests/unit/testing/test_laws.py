"""How the laws are called, and what a broken one says."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from txgateway.errors import GatewayError
from txgateway.middleware import GatewayRequest, Middleware
from txgateway.testing.laws import LAWS, LawBroken, Promises, Trial, assert_middleware_laws, keeps_response
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
