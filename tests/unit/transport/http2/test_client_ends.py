"""How exchanges with a target end before their time: given up, refused, reset, lost; and faults of the target's."""

from __future__ import annotations

import pytest
from tests.helpers.http2_target import Exchange, Http2Target, failure, raw_headers
from tests.helpers.upstream import RecordingHandler
from tests.integration import h2_frames
from tests.integration.h2_frames import (
    CANCEL,
    ENHANCE_YOUR_CALM,
    INTERNAL_ERROR,
    NO_ERROR,
    REFUSED_STREAM,
    data_frame,
    goaway,
    rst_stream,
    settings_frame,
    window_update,
)
from tests.unit.support import logged_failures
from twisted.internet.error import ConnectionLost

from txgateway.errors import UpstreamRefused, UpstreamReset
from txgateway.transport.interfaces import UNKNOWN_LENGTH

STATUS = (b":status", b"200")


# --- ended without END_STREAM ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_paused", [False, True])
def test_whole_response_that_ends_with_a_reset_without_error_is_complete(is_paused: bool) -> None:
    target = Http2Target()
    exchange = target.request()
    exchange.head(200, ("content-length", "5"))
    if is_paused:
        exchange.stream.pause_reading()
    exchange.data(b"hello")
    target.raw(rst_stream(1, NO_ERROR))
    if is_paused:
        assert exchange.handler.names == ["head"]
        exchange.resume()
    assert exchange.handler.names == ["head", "body", "end"]
    assert (exchange.reset, target.connection.completed, target.owner.spare) == (None, 1, 1)
    assert not target.connection.streams
    target.request().answer()
    assert target.connection.completed == 2


def test_answer_to_head_may_end_with_a_reset_without_error() -> None:
    target = Http2Target()
    exchange = target.request(b"HEAD")
    exchange.head(200, ("content-length", "5"))
    target.raw(rst_stream(1, NO_ERROR))
    assert exchange.handler.names == ["head", "end"]


def test_early_answer_that_ends_with_a_reset_stops_the_upload() -> None:
    target = Http2Target()
    target.reads = False
    exchange = target.request(b"PUT", length=UNKNOWN_LENGTH, first=b"x" * 100_000, ended=False)
    exchange.head(200, ("content-length", "2"))
    exchange.data(b"ok")
    target.raw(rst_stream(1, NO_ERROR))
    assert exchange.handler.names[-1] == "end"
    assert exchange.reset is None
    assert not target.connection.streams


@pytest.mark.parametrize(
    ("code", "fields"),
    [(NO_ERROR, [("content-length", "6")]), (NO_ERROR, []), (CANCEL, [("content-length", "5")])],
)
def test_response_that_may_be_cut_short_is_not_complete(code: int, fields: list[tuple[str, str]]) -> None:
    target = Http2Target()
    exchange = target.request()
    exchange.head(200, *fields)
    exchange.data(b"hello")
    target.raw(rst_stream(1, code))
    assert exchange.handler.names == ["head", "body", "failed"]
    assert failure(exchange) == (UpstreamReset, True, True, False)


# --- given up by us -----------------------------------------------------------------------------------------------------


def test_cancel_resets_the_stream_and_nothing_else() -> None:
    target = Http2Target()
    given_up, sibling = target.request(), target.request()
    given_up.head(200)
    told = list(given_up.handler.events)
    given_up.cancel()
    assert given_up.reset == CANCEL
    assert target.owner.spare == 1
    target.raw(data_frame(1, b"late"), raw_headers(1, [(b"x", b"1")], ends=True), rst_stream(1))
    target.raw(window_update(5, 1))
    assert given_up.handler.events == told
    sibling.answer()
    assert sibling.handler.names == ["head", "body", "end"]
    assert target.connection.completed == 1
    given_up.stream.cancel()
    given_up.stream.send_body(b"x")
    given_up.stream.send_end([])
    given_up.stream.pause_reading()
    given_up.resume()
    assert given_up.handler.events == told
    assert target.owner.spare == 2


def test_cancel_of_a_request_that_waits_drops_what_is_not_sent() -> None:
    target = Http2Target()
    target.reads = False
    exchange = target.request(b"PUT", length=UNKNOWN_LENGTH, first=b"x" * 100_000, ended=False)
    exchange.cancel()
    target.grant(1_000_000)
    assert len(exchange.seen.body) == 65_535
    assert exchange.reset == CANCEL
    assert exchange.handler.names == ["blocked"]


def test_late_data_of_what_was_given_up_is_credited_to_the_connection() -> None:
    target = Http2Target()
    target.request().cancel()
    before = target.connection._receive_left
    target.raw(*[data_frame(1, b"x" * 16384)] * 8)
    assert target.connection._receive_left > before - 65_536
    assert not target.closed


class Quitting(RecordingHandler):
    """Gives up at the first of these events."""

    exchange: Exchange

    def __init__(self, target: Http2Target, event: str) -> None:
        super().__init__()
        self.stream = target.connection.exchange()
        self.event = event

    def on_informational(self, status: int, headers: object) -> None:
        self.note("informational")

    def on_head(self, *arguments: object) -> None:
        self.note("head")

    def on_body(self, data: bytes) -> None:
        self.note("body")

    def note(self, event: str) -> None:
        self.events.append((event,))
        if event == self.event:
            self.stream.cancel()


@pytest.mark.parametrize("event", ["informational", "head", "body"])
@pytest.mark.parametrize("ends_with", ["head", "data", "trailers"])
def test_whoever_gives_up_while_it_is_told_hears_nothing_more(event: str, ends_with: str) -> None:
    if (event, ends_with) == ("body", "head"):
        return  # there is no body then
    target = Http2Target()
    handler = Quitting(target, event)
    exchange = Exchange(target, handler.stream, handler)
    handler.stream.start(handler, b"GET", b"/", [(b"host", b"host", b"a")], -1, b"", True)
    target.turn()
    frames = [raw_headers(1, [(b":status", b"103")]), raw_headers(1, [STATUS], ends=ends_with == "head")]
    if ends_with != "head":
        frames.append(data_frame(1, b"x", ends=ends_with == "data"))
    if ends_with == "trailers":
        frames.append(raw_headers(1, [(b"x", b"1")], ends=True))
    target.raw(b"".join(frames))
    assert handler.events[-1] == (event,)
    assert not target.connection.streams
    assert exchange.handler.error is None
    assert not target.closed
    assert target.connection.completed == 0


# --- refused by the target ------------------------------------------------------------------------------------------------


def test_refused_stream() -> None:
    target = Http2Target()
    exchange, sibling = target.request(b"POST", length=UNKNOWN_LENGTH, ended=False), target.request()
    exchange.send_reset(REFUSED_STREAM)
    assert failure(exchange) == (UpstreamRefused, True, False, False)
    assert target.owner.spare == 1
    sibling.answer()
    assert sibling.handler.names[-1] == "end"


@pytest.mark.parametrize("status", [103, 200])
def test_stream_cannot_be_refused_once_it_is_answered(status: int) -> None:
    exchange = Http2Target().request()
    exchange.head(status)
    exchange.send_reset(REFUSED_STREAM)
    assert failure(exchange) == (UpstreamReset, True, True, False)


@pytest.mark.parametrize("code", [INTERNAL_ERROR, CANCEL, ENHANCE_YOUR_CALM, 0, 2**32 - 1])
def test_reset_by_the_target(code: int) -> None:
    target = Http2Target()
    target.request().answer()
    exchange = target.request()
    target.raw(rst_stream(exchange.id, code))
    assert failure(exchange) == (UpstreamReset, True, False, False)  # the target has had the request
    assert target.owner.spare == 2
    assert not target.closed


def test_frames_behind_a_reset_are_answered_with_another() -> None:
    target = Http2Target()
    exchange = target.request()
    target.raw(rst_stream(1, CANCEL), data_frame(1, b"x"))
    assert failure(exchange)[0] is UpstreamReset
    assert not target.closed
    assert target.request().id == 3


# --- GOAWAY ---------------------------------------------------------------------------------------------------------------


def test_goaway_refuses_what_the_target_has_not_looked_at() -> None:
    target = Http2Target()
    target.request().answer()
    looked_at, refused, also_refused = target.request(), target.request(), target.request()
    target.raw(goaway(looked_at.id))
    assert failure(refused) == (UpstreamRefused, True, False, False)
    assert failure(also_refused) == (UpstreamRefused, True, False, False)
    assert looked_at.handler.events == []
    assert target.connection.spare == 0
    (error,) = target.owner.errors
    assert type(error) is UpstreamReset
    spare = target.owner.spare
    looked_at.answer()
    assert looked_at.handler.names == ["head", "body", "end"]
    assert target.owner.spare == spare  # nobody may begin any more
    assert target.closed
    assert not target.transport.aborted
    assert len(target.link.goaways) == 1
    assert target.owner.errors == [error]


def test_goaway_closes_an_idle_connection() -> None:
    target = Http2Target()
    target.raw(goaway())
    assert target.closed
    assert len(target.owner.errors) == 1


def test_goaway_twice_refuses_more() -> None:
    target = Http2Target()
    first, second = target.request(), target.request()
    target.raw(goaway(h2_frames.LARGEST_STREAM))
    assert target.connection.spare == 0
    assert first.handler.events == second.handler.events == []
    target.raw(goaway(first.id))
    assert failure(second)[0] is UpstreamRefused
    first.answer()
    assert first.handler.names[-1] == "end"
    assert len(target.owner.errors) == 1


def test_goaway_does_not_take_back_an_answer() -> None:
    target = Http2Target()
    exchange = target.request()
    exchange.head(200)
    target.raw(goaway(0, INTERNAL_ERROR))
    exchange.data(b"x", ends=True)
    assert exchange.handler.names == ["head", "body", "end"]


class Meddler(RecordingHandler):
    """Gives up another exchange when its own fails."""

    def __init__(self) -> None:
        super().__init__()
        self.others: list[Exchange] = []

    def on_failed(self, error: object) -> None:
        super().on_failed(error)  # type: ignore[arg-type]
        for other in self.others:
            other.stream.cancel()


@pytest.mark.parametrize("how", ["goaway", "lost"])
def test_one_who_fails_may_give_up_others(how: str) -> None:
    target = Http2Target()
    handler = Meddler()
    first = target.request(handler=handler)
    handler.others = [target.request(), target.request()]
    with logged_failures() as events:
        if how == "goaway":
            target.raw(goaway(0))
        else:
            target.transport.reset()
    assert events == []
    assert first.handler.names == ["failed"]
    assert all(other.handler.events == [] for other in handler.others)
    assert not target.connection.streams


def test_goaway_behind_the_first_settings() -> None:
    target = Http2Target(greets=False)
    target.transport.send(settings_frame() + goaway())
    target.clock.advance(0)
    assert target.owner.ready == 0
    assert [type(error) for error in target.owner.errors] == [UpstreamReset]
    assert target.connection.spare == 0
    assert target.closed


# --- lost -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_clean", [True, False])
def test_lost_connection(is_clean: bool) -> None:
    target = Http2Target()
    target.request().answer()
    waiting, answered, hinted = target.request(), target.request(), target.request()
    answered.head(200)
    hinted.head(103)
    target.transport.end(None if is_clean else ConnectionLost())
    assert failure(waiting) == (UpstreamReset, True, False, True)
    assert failure(answered) == (UpstreamReset, True, True, True)
    assert failure(hinted) == (UpstreamReset, True, True, True)
    assert waiting.handler.error is not answered.handler.error
    assert [type(error) for error in target.owner.errors] == [UpstreamReset]
    assert target.connection.spare == 0
    assert not target.wheel._coarse
    assert not target.wheel._fine


def test_lost_connection_of_first_exchanges_was_not_used_before() -> None:
    target = Http2Target()
    first, exchange = target.request(), target.request()
    first.answer()
    target.transport.end()
    assert failure(exchange) == (UpstreamReset, True, False, False)


def test_owner_hears_first_that_a_connection_is_lost() -> None:
    target = Http2Target()
    told: list[int] = []

    class Handler(RecordingHandler):
        def on_failed(self, error: object) -> None:
            told.append(len(target.owner.errors))

    target.request(handler=Handler())
    target.transport.end()
    assert told == [1]
    target = Http2Target()
    target.request(handler=Handler())
    target.raw(data_frame(0, b"x"))
    assert told == [1, 1]


def test_complete_response_that_is_held_survives_its_connection() -> None:
    target = Http2Target()
    whole, cut = target.request(), target.request()
    for exchange in (whole, cut):
        exchange.head(200)
        exchange.stream.pause_reading()
    whole.data(b"all", ends=True)
    cut.data(b"some")
    target.transport.end()
    assert whole.handler.names == ["head"]
    assert failure(cut) == (UpstreamReset, True, True, False)
    whole.stream.resume_reading()
    assert whole.handler.events[-3:] == [("body", b"all"), ("end", []), ("flush",)]
