"""Whatever clients, targets and time do: every request ends once, with one answer, and leaves nothing behind."""

from __future__ import annotations

import gc
from contextlib import ExitStack
from typing import Any

from attrs import define
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.unit.support import MemoryClient, MemoryGateway, MemoryTarget, logged_failures, message, read_responses

from txgateway.proxy.breaker import BreakerState
from txgateway.proxy.forwarding import FAULTS, Forwarding
from txgateway.proxy.target import Health
from txgateway.transport.response_writer import HEAD

MAX_ATTEMPTS = 3
LIMITS = {
    "GATEWAY_RETRY_MAX_ATTEMPTS": str(MAX_ATTEMPTS),
    "GATEWAY_RETRY_MAX_BODY": "8",
    "GATEWAY_RETRY_ON": "connect,reset,timeout,502,503,504,429",
    "GATEWAY_POOL_MAX_CONNECTIONS": "2",
    "GATEWAY_POOL_MAX_PENDING": "1",
    "GATEWAY_POOL_PENDING_TIMEOUT": "1s",
    "GATEWAY_BREAKER_FAILURES": "2",
    "GATEWAY_BREAKER_OPEN_FOR": "2s",
    "GATEWAY_TIMEOUT_TOTAL": "5s",
    "GATEWAY_TIMEOUT_PER_TRY": "2s",
    "GATEWAY_TIMEOUT_IDLE": "4s",
    "GATEWAY_BODY_TIMEOUT": "3s",
    "GATEWAY_MAX_BODY_BYTES": "20",
    "GATEWAY_SLOW_START": "2s",
}
#: By then everything has run into some limit.
LONG_S = 40
ALPHABET = b"abcdefghijklmnopqrstuvwxyz"


@define(eq=False)
class Asked:
    """One request, as its client sees it."""

    client: MemoryClient
    method: bytes
    body: bytes
    is_chunked: bool
    sent: int = 0  # of the body
    is_sent: bool = False
    replays: int = 0  # free ones that it may have had
    has_left: bool = False


@define(eq=False)
class Answering:
    """A connection in the middle of an answer, as its target sees it."""

    rest: list[bytes]
    left_of_head: int  # parts of it
    status: int


class Ordered(dict[Any, None]):
    """A set whose order does not depend on addresses: deadlines of one tick come in the order of their watching."""

    def add(self, item: Any) -> None:
        self[item] = None

    def discard(self, item: Any) -> None:
        self.pop(item, None)


class AttemptsMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.failures = self.stack.enter_context(logged_failures())
        self.gateway: Any = None

    @initialize(
        count=st.integers(1, 3),
        backoff=st.sampled_from(["0", "500ms"]),
        budget=st.sampled_from(["0", "2", "1000"]),
        load_balancer=st.sampled_from(["round_robin", "least_request"]),
    )
    def build(self, count: int, backoff: str, budget: str, load_balancer: str) -> None:
        self.gateway = MemoryGateway(
            {
                **LIMITS,
                "GATEWAY_RETRY_BACKOFF": backoff,
                "GATEWAY_RETRY_BACKOFF_MAX": "1s",
                "GATEWAY_RETRY_BUDGET_MIN": budget,
                "GATEWAY_LOAD_BALANCER": load_balancer,
            },
            {
                "backends": {"b": {"targets": [f"http://t{number}" for number in range(count)]}},
                "routes": [{"name": "r", "path": "/", "backend": "b"}],
            },
        )
        self.gateway.wheel._fine, self.gateway.wheel._coarse = Ordered(), Ordered()
        for dialer in self.gateway.dialers.values():
            dialer.holds = True
        self.asked: list[Asked] = []
        self.answering: dict[MemoryTarget, Answering] = {}
        self.checked = 0

    # --- what can be seen -----------------------------------------------------------------------------------------

    @property
    def targets(self) -> Any:
        return self.gateway.backends["b"].targets

    @property
    def ended(self) -> set[str]:
        return {record.request_id for record in self.gateway.log}

    def open_ones(self) -> list[Asked]:
        ended = self.ended
        return [asked for number, asked in enumerate(self.asked, 1) if f"id-{number}" not in ended]

    def uploads(self) -> list[Asked]:
        return [asked for asked in self.open_ones() if not asked.is_sent and not asked.has_left]

    def dials(self) -> list[tuple[Any, Any]]:
        return [(dialer, waiting) for dialer in self.gateway.dialers.values() for waiting in dialer.waiting]

    def connections(self) -> list[MemoryTarget]:
        return [at for dialer in self.gateway.dialers.values() for at in dialer.targets if not at.closed]

    def busy(self) -> list[MemoryTarget]:
        """Connections with a request to which no answer has begun."""
        return [at for at in self.connections() if at.connection.is_lent and at not in self.answering]

    def asked_at(self, at: MemoryTarget) -> Asked:
        """The one request that a connection carries now; as much of its body as has come is right."""
        head, end, rest = at.transport.taken.partition(b"\r\n\r\n")
        assert end
        lines = head.split(b"\r\n")
        (number,) = [int(line[17:]) for line in lines if line.startswith(b"X-Request-ID: id-")]
        asked = self.asked[number - 1]
        assert lines[0] == asked.method + b" / HTTP/1.1"
        body = self.decoded(rest) if b"Transfer-Encoding: chunked" in lines else rest
        assert body == asked.body[: asked.sent][: len(body)]
        if asked.client.transport.is_reading and not asked.has_left:
            assert len(body) == asked.sent
        return asked

    @staticmethod
    def decoded(chunks: bytes) -> bytes:
        body = b""
        while chunks:
            size, _, chunks = chunks.partition(b"\r\n")
            body, chunks = body + chunks[: int(size, 16)], chunks[int(size, 16) + 2 :]
        return body

    # --- clients --------------------------------------------------------------------------------------------------

    @rule(size=st.integers(0, 24), method=st.sampled_from([b"GET", b"PUT", b"PUT"]), is_chunked=st.booleans())
    def ask(self, size: int, method: bytes, is_chunked: bool) -> None:
        if len(self.open_ones()) > 5:
            return
        self.begin(self.gateway.connect(), size if method == b"PUT" else 0, method, is_chunked)

    @precondition(lambda self: self.gateway.log)
    @rule(method=st.sampled_from([b"GET", b"PUT"]), size=st.integers(0, 8), data=st.data())
    def ask_again(self, method: bytes, size: int, data: st.DataObject) -> None:
        busy = {asked.client for asked in self.open_ones()}
        kept = [asked.client for asked in self.asked if asked.is_sent and asked.client not in busy]
        kept = [client for client in kept if not client.transport.closed and client.connection._state == HEAD]
        if kept:
            client = data.draw(st.sampled_from(kept))
            client.received()
            self.begin(client, size if method == b"PUT" else 0, method, is_chunked=False)

    def begin(self, client: MemoryClient, size: int, method: bytes, is_chunked: bool) -> None:
        asked = Asked(client, method, (ALPHABET * 2)[len(self.asked) % 26 :][:size], is_chunked and method == b"PUT")
        self.asked.append(asked)
        fields = []
        if method == b"PUT":
            fields = [b"Transfer-Encoding: chunked" if asked.is_chunked else b"Content-Length: %d" % size]
        asked.is_sent = not size and not asked.is_chunked
        client.send(message(b"/", *fields, method=method))

    @precondition(lambda self: self.uploads())
    @rule(size=st.integers(1, 12), data=st.data())
    def send(self, size: int, data: st.DataObject) -> None:
        asked = data.draw(st.sampled_from(self.uploads()))
        piece = asked.body[asked.sent :][:size]
        asked.sent += len(piece)
        if not asked.is_chunked:
            asked.is_sent = asked.sent == len(asked.body)
            asked.client.send(piece)
        elif piece:
            asked.client.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        else:
            asked.is_sent = True
            asked.client.send(b"0\r\n\r\n")

    @precondition(lambda self: self.open_ones())
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        asked = data.draw(st.sampled_from(self.open_ones()))
        asked.has_left = True
        asked.client.leave()

    # --- targets --------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.dials())
    @rule(accepts=st.sampled_from([True, True, False]), data=st.data())
    def dial_ends(self, accepts: bool, data: st.DataObject) -> None:
        dialer, waiting = data.draw(st.sampled_from(self.dials()))
        dialer.waiting.remove(waiting)
        dialer.fails = not accepts
        dialer.finish(waiting)
        self.gateway.clock.advance(0)

    @precondition(lambda self: self.busy())
    @rule(
        status=st.sampled_from([200, 200, 404, 503, 504, 429, 500]),
        is_chunked=st.booleans(),
        parts=st.integers(1, 4),
        hints=st.sampled_from([b"", b"", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"]),
        fields=st.sampled_from([b"", b"Retry-After: 1\r\n", b"Retry-After: 9\r\n", b"Connection: close\r\n"]),
        data=st.data(),
    )
    def answer_begins(
        self, status: int, is_chunked: bool, parts: int, hints: bytes, fields: bytes, data: st.DataObject
    ) -> None:
        at = data.draw(st.sampled_from(self.busy()))
        asked = self.asked_at(at)
        body = b"for %d" % self.asked.index(asked)
        if is_chunked:
            fields, body = fields + b"Transfer-Encoding: chunked\r\n", b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        else:
            fields += b"Content-Length: %d\r\n" % len(body)
        head = b"HTTP/1.1 %d Status\r\n" % status + fields
        whole = [hints + head[:-4], head[-4:] + b"\r\n", body[:3], body[3:]]
        rest = [*whole[: parts - 1], b"".join(whole[parts - 1 :])]
        self.answering[at] = Answering(rest, min(parts, 2), status)
        self.go_on(at)

    @precondition(lambda self: self.answering)
    @rule(data=st.data())
    def answer_goes_on(self, data: st.DataObject) -> None:
        self.go_on(data.draw(st.sampled_from(list(self.answering))))

    def go_on(self, at: MemoryTarget) -> None:
        answering = self.answering[at]
        part = answering.rest.pop(0)
        answering.left_of_head -= 1
        if not answering.rest:
            self.asked_at(at)
            at.received()
            del self.answering[at]
        at.send(part)

    @precondition(lambda self: self.busy())
    @rule(data=st.data())
    def answer_is_garbage(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.busy())).send(b"220 mail.example ESMTP\r\n\r\n")

    @precondition(lambda self: self.connections())
    @rule(how=st.sampled_from(["reset", "end"]), data=st.data())
    def connection_ends(self, how: str, data: st.DataObject) -> None:
        at = data.draw(st.sampled_from(self.connections()))
        if at.connection.reused and at in self.busy():
            self.asked_at(at).replays += 1
        getattr(at, how)()

    @rule(health=st.sampled_from(list(Health)), data=st.data())
    def checks_say(self, health: Health, data: st.DataObject) -> None:
        self.gateway.backends["b"].set_health(data.draw(st.sampled_from(self.targets)), health, "test")

    @rule(ticks=st.integers(1, 20))
    def time_passes(self, ticks: int) -> None:
        self.gateway.clock.pump([0.1] * ticks)

    def is_probed(self, target: Any) -> bool:
        """Its breaker waits for the outcome of a probe, and lets nothing else through."""
        breaker = target.breaker
        return breaker.state is BreakerState.HALF_OPEN and not breaker.allows(self.gateway.clock.seconds())

    # --- what must hold -------------------------------------------------------------------------------------------

    @invariant()
    def attempts_are_counted(self) -> None:
        if self.gateway is None:
            return
        for at in [at for at in self.answering if at.closed or not at.connection.is_lent]:
            del self.answering[at]  # given up, or cut
        for target, dialer in zip(self.targets, self.gateway.dialers.values(), strict=True):
            passed_on = [
                at
                for at, answering in self.answering.items()
                if at in dialer.targets and answering.left_of_head <= 0 and answering.status in FAULTS | {429}
            ]
            assert target.in_flight == target.pool.active + target.pool.pending - len(passed_on)
            assert target.pool.open_connections <= 2
            under_way = [item for item in self.gateway.wheel._fine if isinstance(item, Forwarding)]
            probes = [item for item in under_way if item._target is target and item._is_probe]
            assert len(probes) == int(self.is_probed(target))
            assert target.in_flight == len([item for item in under_way if item._target is target])

    @invariant()
    def every_request_ends_once_and_well(self) -> None:
        if self.gateway is None:
            return
        assert self.failures == []
        log = self.gateway.log
        assert len(self.ended) == len(log)
        for record in log[self.checked :]:
            self.check(record, self.asked[int(record.request_id[3:]) - 1])
        self.checked = len(log)

    def check(self, record: Any, asked: Asked) -> None:
        assert record.attempts <= MAX_ATTEMPTS + asked.replays
        received = asked.client.transport.taken
        if asked.has_left:
            assert record.reason is not None
            return
        if asked.client.transport.aborted and record.reason is not None:
            return  # cut, and it shows
        *before, response = read_responses(received, [asked.method])
        assert {early.status for early in before} <= {103}
        assert response.status == record.status
        if record.reason is None:
            assert response.body == b"for %d" % self.asked.index(asked)
        else:
            assert response.problem["reason"] == record.reason

    def teardown(self) -> None:
        with self.stack:
            if self.gateway is not None:
                self.all_ends()

    def all_ends(self) -> None:
        self.gateway.wait(LONG_S)
        self.attempts_are_counted()
        self.every_request_ends_once_and_well()
        assert len(self.gateway.log) == len(self.asked)
        assert [target.in_flight for target in self.targets] == [0] * len(self.targets)
        assert not any(map(self.is_probed, self.targets))
        self.gateway.assert_clean()
        counts = self.gateway.metrics.retries("b").counts
        assert counts.get("success", 0) + counts.get("failure", 0) <= sum(r.attempts for r in self.gateway.log)


def test_attempts_keep_their_promises() -> None:
    gc.collect()  # or failures of Deferreds that other tests have dropped may be told while this one listens
    run_state_machine_as_test(AttemptsMachine, settings=settings(stateful_step_count=40))
