"""The server transport and the way behind it: any split means the same, no mutation means something else."""

from __future__ import annotations

import string
from typing import Any

from attrs import define, field
from hypothesis import example, given
from hypothesis import strategies as st
from tests.property.strict_reading import Reading, read_strictly
from tests.unit.support import MemoryClient, MemoryGateway, Server, logged_failures, read_responses

from txgateway.headers import FORWARDED_NAMES, HOP_BY_HOP, NEVER_NOMINATED
from txgateway.testing.wire_strategies import Fields, Message, fields, messages, mutated, names, splits, values
from txgateway.transport.framing import FORBIDDEN_TRAILERS
from txgateway.transport.interfaces import UNKNOWN_LENGTH


@define
class Exchange:
    """One dispatched request and its body so far."""

    request: Any
    method: bytes = b""
    fields: Fields = field(factory=list)
    body: bytes = b""
    trailers: Fields | None = None

    def body_received(self, data: bytes) -> None:
        assert data
        self.body += data

    def body_ended(self, trailers: Any) -> None:
        assert self.trailers is None
        self.trailers = [(name, value) for _, name, value in trailers]

    @property
    def reading(self) -> Reading:
        request = self.request
        return Reading(
            request.method, request.uri, request.clientproto, self.fields, self.body, self.trailers or [],
            self.trailers is not None,
        )  # fmt: skip


class Echo:
    """A server that answers every request with its method, target and body when that is complete.

    Args:
        is_late: it answers at the next turn of the clock.
    """

    def __init__(self, *, is_late: bool) -> None:
        self.is_late = is_late
        self.exchanges: list[Exchange] = []
        self.server = Server(self.take)

    def take(self, request: Any) -> None:
        exchange = _Answering(request, self)
        exchange.fields = [(name, value) for _, name, value in request.headers]
        self.exchanges.append(exchange)
        request.want_body(exchange)

    def answer(self, exchange: Exchange) -> None:
        request = exchange.request
        if request.ended:
            return
        body = b"%b %b %b" % (request.method, request.uri, exchange.body)
        is_chunked = len(body) % 2 and request.clientproto != b"HTTP/1.0"  # to 1.0 only a known length keeps alive
        request.respond(200, b"", [], UNKNOWN_LENGTH if is_chunked else len(body))
        request.send_body(body)
        request.end([])

    def feed(self, reads: list[bytes]) -> MemoryClient:
        client = self.server.connect()
        for data in reads:
            client.transport.send(data)
            if not self.is_late or len(data) % 2:
                self.server.clock.advance(0)
        self.server.clock.advance(0)
        return client


class _Answering(Exchange):
    def __init__(self, request: Any, echo: Echo) -> None:
        super().__init__(request)
        self.echo = echo

    def body_ended(self, trailers: Any) -> None:
        super().body_ended(trailers)
        if self.echo.is_late:
            self.echo.server.clock.callLater(0, self.echo.answer, self)
        else:
            self.echo.answer(self)


def expected(message: Message) -> Reading:
    trailers = [(name, value) for name, value in message.trailers if name.lower() not in FORBIDDEN_TRAILERS]
    return Reading(
        message.method, message.target, message.version, message.all_fields, message.body, trailers, is_whole=True
    )


#: Several requests; often the same one again, whose fields need no second reading.
conversations = st.one_of(
    st.lists(messages(), min_size=1, max_size=4),
    st.tuples(messages(), st.integers(2, 4)).map(lambda pair: [pair[0]] * pair[1]),
)


def by_message(sent: list[Message]) -> list[bytes]:
    return [message.wire for message in sent]


@given(data=st.data(), sent=conversations, is_late=st.booleans())
def test_any_split_of_valid_requests_gives_the_same_exchanges_and_responses(
    data: st.DataObject, sent: list[Message], is_late: bool
) -> None:
    wire = b"".join(message.wire for message in sent)
    with logged_failures() as failures:
        whole, split = Echo(is_late=is_late), Echo(is_late=is_late)
        answers = whole.feed([wire]).received()
        client = split.feed(data.draw(st.one_of(st.just(by_message(sent)), splits(wire))))
    assert [exchange.reading for exchange in whole.exchanges] == [expected(message) for message in sent]
    assert [exchange.reading for exchange in split.exchanges] == [exchange.reading for exchange in whole.exchanges]
    assert client.received() == answers
    assert len(read_responses(answers, [message.method for message in sent])) == len(sent)
    assert not client.transport.closed
    assert not failures


@given(sent=st.lists(messages(), min_size=1, max_size=3))
def test_strict_reader_of_these_tests_reads_what_was_written(sent: list[Message]) -> None:
    readings = read_strictly(b"".join(message.wire for message in sent))
    assert [(r.method, r.target, r.fields, r.body, r.is_whole) for r in readings] == [
        (m.method, m.target, m.all_fields, m.body, True) for m in sent
    ]


def assert_harmless(wire: bytes, reads: list[bytes]) -> None:
    """Whatever was dispatched is what a strict reader sees; the rest was refused once or waits for more."""
    strict = read_strictly(wire)
    echo = Echo(is_late=False)
    with logged_failures() as failures:
        client = echo.feed(reads)
        got = [exchange.reading for exchange in echo.exchanges]
        assert len(got) <= len(strict), (got[len(strict) :], wire)
        for mine, theirs in zip(got, strict, strict=False):
            assert (mine.method, mine.target, mine.version, mine.fields) == (
                theirs.method, theirs.target, theirs.version, theirs.fields,
            )  # fmt: skip
            if mine.is_whole:
                assert theirs.is_whole
                assert mine.body == theirs.body
            else:
                assert theirs.body.startswith(mine.body)
        answers = client.received()
        methods = [reading.method for reading in got] + [request.method for request in echo.server.refused]
        responses = [r for r in read_responses(answers, methods) if r.status >= 200]
        refusals = [response for response in responses if response.status != 200]
        assert len(refusals) <= 1
        if refusals:
            assert responses[-1] is refusals[0]
            assert refusals[0].status in {400, 414, 431, 501, 505}
            assert refusals[0].get(b"connection") == b"close"
            assert client.transport.half_closed
        client.end()
        assert client.transport.closed
        assert all(exchange.request.ended for exchange in echo.exchanges)
    assert not failures


@example(sent=[], data=None, raw=b"GET / HTTP/1.1\r\nHost: a\r\n\r\n\n\r\n\r\n")
@example(sent=[], data=None, raw=b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n")
@example(sent=[], data=None, raw=b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n")
@example(sent=[], data=None, raw=b"GET / RTSP/1.0\r\nHost: a\r\n\r\n")
@example(sent=[], data=None, raw=b"GET / HTTP/1.0\r\nConnection: keep-alive, upgrade\r\nUpgrade: x\r\n\r\n" * 2)
@example(sent=[], data=None, raw=b"GET / HTTP/1.1\r\nHost: a \t\r\nX-A: b \r\nConnection: keep-alive \r\n\r\n")
@given(sent=st.lists(messages(), min_size=1, max_size=3), data=st.data(), raw=st.none())
def test_mutated_requests_are_refused_or_mean_what_a_strict_reader_sees(
    sent: list[Message], data: st.DataObject | None, raw: bytes | None
) -> None:
    if data is None:
        assert raw is not None
        assert_harmless(raw, [raw])
        assert_harmless(raw, [raw[at : at + 1] for at in range(len(raw))])
        return
    wire = data.draw(mutated(b"".join(by_message(sent))))
    assert_harmless(wire, [wire])
    assert_harmless(wire, data.draw(splits(wire)))


@example(sent=[Message(b"GET", b"/", b"HTTP/1.1", [])], wire=b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n")
@example(sent=[Message(b"GET", b"/", b"HTTP/1.1", [])], wire=b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n")
@given(sent=conversations, wire=st.data())
def test_mutated_repetition_is_refused_or_means_what_a_strict_reader_sees(
    sent: list[Message], wire: st.DataObject | bytes
) -> None:
    last = wire if isinstance(wire, bytes) else wire.draw(mutated(sent[-1].wire))
    reads = [*by_message(sent), last]
    assert_harmless(b"".join(reads), reads)


@given(data=st.data(), garbage=st.binary(max_size=200))
def test_garbage_is_harmless(data: st.DataObject, garbage: bytes) -> None:
    assert_harmless(garbage, data.draw(splits(garbage)))


TOKEN_LETTERS = "!#$%&'*+-.^_`|~" + string.digits + string.ascii_letters


@given(
    method=st.one_of(
        st.text(TOKEN_LETTERS, min_size=1, max_size=20),
        st.sampled_from(["get", "GE", "GETT", "POSTS", "PRI", "SOURCES", "BREW", "DESCRIBE", "M-", "P"]),
    ).map(str.encode),
    version=st.sampled_from([b"1.1", b"1.0", b"2.0"]),
    data=st.data(),
)
@example(method=b"BREW", version=b"1.1", data=None)
def test_any_method_in_any_split_is_served_or_refused_alike(
    method: bytes, version: bytes, data: st.DataObject | None
) -> None:
    wire = method + b" /x HTTP/" + version + b"\r\nHost: a\r\n\r\n"
    by_chance = [data.draw(splits(wire))] if data else []
    answers = [
        Echo(is_late=False).feed(reads).response(method).status
        for reads in ([wire], [wire[at : at + 1] for at in range(len(wire))], *by_chance)
    ]
    if method != b"PRI":  # which llhttp knows as the beginning of HTTP/2's preface only
        assert answers[0] in ({505} if version == b"2.0" else {200, 501})
    assert set(answers) == {answers[0]}


# --- what the target gets -------------------------------------------------------------------------------------------

#: Fields that the gateway makes itself; a client's own are dropped or replaced.
OURS = FORWARDED_NAMES | {b"host", b"x-request-id", b"via", b"expect"}

hop_fields = st.tuples(
    st.sampled_from(sorted((HOP_BY_HOP | FORWARDED_NAMES) - {b"content-length", b"transfer-encoding", b"connection"})),
    st.sampled_from([b"1", b"trailers", b"timeout=5", b"203.0.113.7", b"x"]),
)
#: Of them, those of which a second line is refused.
SINGLE = frozenset((b"proxy-authorization",))
nominations = st.lists(st.one_of(names, st.sampled_from(sorted(NEVER_NOMINATED | HOP_BY_HOP))), max_size=3)


def pass_through(sent: Fields) -> Fields:
    """The fields that a target gets of a GET with these."""
    gateway = MemoryGateway()
    head = b"".join(name + b": " + value + b"\r\n" for name, value in sent)
    gateway.connect().send(b"GET / HTTP/1.1\r\nHost: a\r\n" + head + b"\r\n")
    received = gateway.target.received()
    assert received.endswith(b"\r\n\r\n")
    (reading,) = read_strictly(received)
    return reading.fields


@given(
    chosen=st.lists(st.one_of(hop_fields, st.tuples(names, values)), max_size=8),
    nominated=nominations,
    extra=fields,
)
def test_target_gets_end_to_end_fields_in_order_and_no_others(
    chosen: Fields, nominated: list[bytes], extra: Fields
) -> None:
    chosen = [field for at, field in enumerate(chosen) if field[0] not in SINGLE or field[0] not in dict(chosen[:at])]
    taken = frozenset(name.lower() for name in nominated) - NEVER_NOMINATED
    connection = [(b"Connection", b", ".join(nominated))] if nominated else []
    sent = [*chosen, *connection, *extra]
    got = pass_through(sent)
    ours = [name.lower() for name, _ in got if name.lower() in OURS - {b"via"}]
    assert len(set(ours)) == len(ours)  # one of each, and it is the gateway's
    single = {name.lower(): value for name, value in got}
    assert single[b"x-forwarded-for"] == single[b"x-real-ip"] == b"127.0.0.1"
    assert single[b"x-request-id"] == b"id-1"
    drop = HOP_BY_HOP | OURS | taken
    kept = [(name, value) for name, value in got if name.lower() not in OURS and name.lower() not in HOP_BY_HOP]
    assert kept == [(name, value) for name, value in sent if name.lower() not in drop and b"_" not in name]
    asks_trailers = any(name.lower() == b"te" and value == b"trailers" for name, value in sent)
    hops = [(name, value) for name, value in got if name.lower() in HOP_BY_HOP]
    assert hops == ([(b"TE", b"trailers"), (b"Connection", b"TE")] if asks_trailers else [])
    again = pass_through([(name, value) for name, value in got if name.lower() != b"host"])
    assert [f for f in again if f[0].lower() not in OURS] == [f for f in got if f[0].lower() not in OURS]
