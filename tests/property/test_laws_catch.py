"""Middlewares with one usual bug each, beside the same without it: the laws find the one and let the other pass."""

from __future__ import annotations

import time
from time import sleep as pause
from typing import Any

import pytest
from twisted.internet.task import deferLater

from txgateway.errors import BadRequest, BulkheadFull, GatewayError
from txgateway.middleware import Context, GatewayRequest, Inner, Middleware, OwnHeaders, claim_value
from txgateway.testing.laws import LAWS, LawBroken, assert_middleware_laws

EXAMPLES = 40


class Tried(Middleware):
    """What they have in common."""

    def __init__(self, inner: Inner, settings: Any, context: Context) -> None:
        super().__init__(inner, settings, context)
        self.clock = context.clock


class AnswersItself(Tried):
    def render(self, request: GatewayRequest) -> Any:
        if request.path.startswith(b"/deep"):
            request.answer(200, [], b"it is deep here")
            return 1
        return self.inner.render(request)


class AnswersTwice(Tried):
    def render(self, request: GatewayRequest) -> Any:
        if request.path.startswith(b"/deep"):
            request.answer(200, [], b"it is deep here")
        return self.inner.render(request)


class Waits(Tried):
    def render(self, request: GatewayRequest) -> Any:
        return self.when(deferLater(self.clock, 0.25, lambda: None), request, self.go_on)

    def go_on(self, _: None, request: GatewayRequest) -> None:
        self.inner.render(request)


class ForgetsToGoOn(Waits):
    def go_on(self, _: None, request: GatewayRequest) -> None:
        if request.method != b"DELETE":
            self.inner.render(request)


class Blocks(Tried):
    def render(self, request: GatewayRequest) -> Any:
        time.sleep(0.25)
        return self.inner.render(request)


class BlocksByAnotherName(Tried):
    def render(self, request: GatewayRequest) -> Any:
        pause(0.25)
        return self.inner.render(request)


class Permits(Tried):
    def __init__(self, inner: Inner, settings: Any, context: Context) -> None:
        super().__init__(inner, settings, context)
        self.free = 3

    def render(self, request: GatewayRequest) -> Any:
        if not self.free:
            raise BulkheadFull
        self.free -= 1
        request.on_finish(self.release)
        return self.inner.render(request)

    def release(self, _: GatewayRequest) -> None:
        self.free += 1


class LeaksPermits(Permits):
    def render(self, request: GatewayRequest) -> Any:
        if not self.free:
            raise BulkheadFull
        self.free -= 1
        request.before_head(self.release)  # which nobody calls when the client leaves before
        return self.inner.render(request)


class DropsOneField(Tried):
    def render(self, request: GatewayRequest) -> Any:
        request.remove_headers(frozenset({b"x-b"}))
        return self.inner.render(request)


class DropsRepeatedFields(Tried):
    def render(self, request: GatewayRequest) -> Any:
        fields = {field[0]: field for field in request.headers if field[0] != b"x-b"}
        request.headers, request.fields = tuple(fields.values()), {name: field[2] for name, field in fields.items()}
        return self.inner.render(request)


class NotesErrors(Tried):
    def __init__(self, inner: Inner, settings: Any, context: Context) -> None:
        super().__init__(inner, settings, context)
        self.errors = 0

    def render(self, request: GatewayRequest) -> Any:
        try:
            return self.inner.render(request)
        except GatewayError:
            self.errors += 1
            raise


class SwallowsErrors(NotesErrors):
    def render(self, request: GatewayRequest) -> Any:
        try:
            return self.inner.render(request)
        except GatewayError:
            self.errors += 1
            request.answer(200, [], b"")
            return 1


class CountsBytes(Tried):
    def __init__(self, inner: Inner, settings: Any, context: Context) -> None:
        super().__init__(inner, settings, context)
        self.bytes_out = 0

    def render(self, request: GatewayRequest) -> Any:
        request.on_finish(self.count)
        return self.inner.render(request)

    def count(self, request: GatewayRequest) -> None:
        self.bytes_out += request.bytes_out


class CountsAtTheHead(CountsBytes):
    def render(self, request: GatewayRequest) -> Any:
        request.before_head(self.count)
        return self.inner.render(request)


class CountsPieces(CountsBytes):
    """Reads at the right time, and the wrong thing."""

    def count(self, request: GatewayRequest) -> None:
        self.bytes_out += request.bytes_in


class NamesUsers(Tried):
    def render(self, request: GatewayRequest) -> Any:
        request.fields = request.fields | {b"x-user": b"somebody"}
        return self.inner.render(request)


class MutatesWhatIsShared(Tried):
    def render(self, request: GatewayRequest) -> Any:
        request.fields[b"x-user"] = b"somebody"
        return self.inner.render(request)


class EchoesPath(Tried):
    def render(self, request: GatewayRequest) -> Any:
        self.path = request.path
        request.before_head(self.tell)
        return self.inner.render(request)

    def tell(self, request: GatewayRequest) -> None:
        request.response_headers = [*request.response_headers, (b"x-path", b"X-Path", request.path)]


class EchoesTheLastPath(EchoesPath):
    def tell(self, request: GatewayRequest) -> None:
        request.response_headers = [*request.response_headers, (b"x-path", b"X-Path", self.path)]


class LooksAtPieces(Tried):
    """Looks how each piece of an answer begins."""

    def render(self, request: GatewayRequest) -> Any:
        write = request.write

        def look(data: bytes) -> None:
            self.look(data)
            write(data)

        request.write = look  # type: ignore[method-assign]
        return self.inner.render(request)

    def look(self, data: bytes) -> None:
        self.is_markup = data[:1] == b"<"


class StumblesOverEmptyPieces(LooksAtPieces):
    def look(self, data: bytes) -> None:
        self.is_markup = not data or data[0] == ord("<")
        if not data and self.pieces:
            raise IndexError("an empty piece")
        self.pieces += 1

    pieces = 0


class TellsOfSlowOnes(Tried):
    def render(self, request: GatewayRequest) -> Any:
        call = self.clock.callLater(60.0, int)
        request.on_finish(lambda _: call.cancel() if call.active() else None)
        return self.inner.render(request)


class KeepsATimer(Tried):
    def render(self, request: GatewayRequest) -> Any:
        self.clock.callLater(60.0, int)
        return self.inner.render(request)


class Hooks(Tried):
    def render(self, request: GatewayRequest) -> Any:
        request.on_finish(self.over)
        return self.inner.render(request)

    def over(self, request: GatewayRequest) -> None:
        self.last_status = request.status


class TakesOthersHooks(Hooks):
    def render(self, request: GatewayRequest) -> Any:
        request._on_finish = [self.over]
        return self.inner.render(request)


class FailsAtTheEnd(Hooks):
    def over(self, request: GatewayRequest) -> None:
        self.last_status = int(request.response_headers[0][2]) if request.status >= 400 else 0


class Guesses(Tried):
    """Says what kind of body it is, where nobody has."""

    def render(self, request: GatewayRequest) -> Any:
        request.before_head(self.guess)
        return self.inner.render(request)

    def guess(self, request: GatewayRequest) -> None:
        kind = (b"x-kind", b"X-Kind", b"text")
        request.response_headers = [*request.response_headers, kind]


class LosesOthersFields(Guesses):
    def guess(self, request: GatewayRequest) -> None:
        kinds = {field[0]: field for field in request.response_headers}
        request.response_headers = [*kinds.values(), (b"x-kind", b"X-Kind", b"text")]


class RefusesSome(Tried):
    def render(self, request: GatewayRequest) -> Any:
        if request.method == b"DELETE":
            raise BulkheadFull
        return self.inner.render(request)


class RefusesMore(RefusesSome):
    def render(self, request: GatewayRequest) -> Any:
        if request.method == b"OPTIONS":
            raise BadRequest
        return super().render(request)


class KnowsWhoIsThere(Tried):
    def __init__(self, inner: Inner, settings: Any, context: Context) -> None:
        super().__init__(inner, settings, context)
        self.there: list[GatewayRequest] = []

    def render(self, request: GatewayRequest) -> Any:
        self.there.append(request)
        request.on_finish(self.there.remove)
        return self.inner.render(request)


class NeverForgets(KnowsWhoIsThere):
    def render(self, request: GatewayRequest) -> Any:
        self.there.append(request)
        return self.inner.render(request)


class Remembers(Tried):
    """Keeps whole answers to GET for some seconds."""

    def __init__(self, inner: Inner, settings: Any, context: Context) -> None:
        super().__init__(inner, settings, context)
        self.known: dict[bytes, tuple[float, int, Any, bytes]] = {}

    def render(self, request: GatewayRequest) -> Any:
        if request.method != b"GET":
            return self.inner.render(request)
        until, status, headers, body = self.known.get(request.uri, (-1.0, 0, [], b""))
        if self.clock.seconds() < until:
            request.answer(status, self.said(headers), body)
            return 1
        pieces: list[bytes] = []
        heads: list[Any] = []

        def keep(request: GatewayRequest) -> None:
            if self.may_keep(request):
                lasts_until = self.clock.seconds() + 10.0
                self.known[request.uri] = (lasts_until, request.status, heads[0], b"".join(pieces))

        request.before_head(lambda request: heads.append(tuple(request.response_headers)))
        request.on_body(lambda _, data: pieces.append(data))
        request.on_finish(keep)
        return self.inner.render(request)

    def may_keep(self, request: GatewayRequest) -> bool:
        return request.is_whole

    def said(self, headers: Any) -> Any:
        return list(headers)


class RemembersHalves(Remembers):
    def may_keep(self, request: GatewayRequest) -> bool:
        return request.responded and request.status == 200


class ForgetsWhatItIs(Remembers):
    def said(self, headers: Any) -> Any:
        return [header for header in headers if header[0] != b"content-type"]


class TellsWhose(Tried):
    """Sets a header to a claim."""

    own = OwnHeaders(["X-Whose-It-Is"])

    def render(self, request: GatewayRequest) -> Any:
        value = claim_value(request.claims.get("org")) or b"nobody"
        self.tell(request, ((b"x-whose-it-is", b"X-Whose-It-Is", value),))
        return self.inner.render(request)

    def tell(self, request: GatewayRequest, fields: Any) -> None:
        self.own.replace(request, fields)


class TrustsSpelling(TellsWhose):
    def tell(self, request: GatewayRequest, fields: Any) -> None:
        request.remove_headers(frozenset({fields[0][0]}))
        request.headers = (*request.headers, *fields)
        request.fields = request.fields | {fields[0][0]: fields[0][2]}


class LetsConnectionTakeIt(TellsWhose):
    def tell(self, request: GatewayRequest, fields: Any) -> None:
        said = request.fields.get(b"connection")
        self.own.replace(request, fields)
        if said is not None and b"connection" not in request.fields:
            request.headers = (*request.headers, (b"connection", b"Connection", said))
            request.fields = request.fields | {b"connection": said}


class ForgetsTrailers(TellsWhose):
    def tell(self, request: GatewayRequest, fields: Any) -> None:
        before = request._unwanted_trailers
        self.own.replace(request, fields)
        request._unwanted_trailers = before


KEPT = {"may_answer": True, "depends_on_others": True, "response_headers": ((b"Content-Type", b"text/x"),)}
WHOSE = {"changes_request_headers": ["X-Whose-It-Is"], "claims": {"org": "acme"}}
CASES: list[tuple[str, type[Tried], type[Tried], dict[str, Any]]] = [
    ("answers_once", AnswersTwice, AnswersItself, {"may_answer": True}),
    ("settles", ForgetsToGoOn, Waits, {}),
    ("gives_permits_back", LeaksPermits, Permits, {"refuses": ["BULKHEAD_FULL"]}),
    ("keeps_request", DropsRepeatedFields, DropsOneField, {"changes_request_headers": ["X-B"]}),
    ("never_blocks", Blocks, Waits, {}),
    ("never_blocks", BlocksByAnotherName, Waits, {}),
    ("runs_hooks_once", TakesOthersHooks, Hooks, {}),
    ("logs_no_faults", FailsAtTheEnd, Hooks, {}),
    ("keeps_response", LosesOthersFields, Guesses, {"changes_response_headers": ["X-Kind"]}),
    ("refuses_as_declared", RefusesMore, RefusesSome, {"refuses": ["BULKHEAD_FULL"]}),
    ("passes_errors_on", SwallowsErrors, NotesErrors, {}),
    ("counts_at_the_end", CountsAtTheHead, CountsBytes, {}),
    (
        "counts_at_the_end",
        CountsPieces,
        CountsBytes,
        {"reports": lambda middleware: {"bytes_out": middleware.bytes_out}},
    ),
    ("shares_nothing", MutatesWhatIsShared, NamesUsers, {}),
    ("keeps_apart", EchoesTheLastPath, EchoesPath, {"changes_response_headers": ["X-Path"]}),
    ("any_chunking", StumblesOverEmptyPieces, LooksAtPieces, {}),
    ("repeats_what_was_said", RemembersHalves, Remembers, KEPT),
    ("repeats_what_was_said", ForgetsWhatItIs, Remembers, KEPT),
    ("drops_forgeries", TrustsSpelling, TellsWhose, WHOSE),
    ("drops_forgeries", LetsConnectionTakeIt, TellsWhose, WHOSE),
    ("drops_forgeries", ForgetsTrailers, TellsWhose, WHOSE),
    ("frees_everything", KeepsATimer, TellsOfSlowOnes, {}),
    ("keeps_nothing", NeverForgets, KnowsWhoIsThere, {}),
]


@pytest.mark.parametrize(("law", "buggy", "right", "promises"), CASES, ids=[case[1].__name__ for case in CASES])
def test_laws_catch_the_bug_and_pass_its_twin(
    law: str, buggy: type[Tried], right: type[Tried], promises: dict[str, Any]
) -> None:
    assert_middleware_laws(right, **promises, max_examples=EXAMPLES // 4)
    with pytest.raises(LawBroken) as caught:
        assert_middleware_laws(buggy, **promises, max_examples=EXAMPLES)
    assert caught.value.law == law, caught.value
    assert law in str(caught.value)


def test_each_law_has_caught_something() -> None:
    assert {law.name for law in LAWS} == {case[0] for case in CASES}
