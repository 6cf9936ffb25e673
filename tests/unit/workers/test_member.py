"""A worker's end, in virtual time: what it says, and what it does when it is told."""

from __future__ import annotations

import os
import socket
from typing import Any

from attrs import define
from tests.helpers.logs import logged
from tests.unit.workers.test_channel import Transport
from twisted.internet.task import Clock

from txgateway.health.probes import BackendHealth
from txgateway.telemetry.metrics import RequestMetrics
from txgateway.workers.assignment import Assignment
from txgateway.workers.channel import Frames, Message, framed
from txgateway.workers.member import FAREWELL_S, TOTALS_PER_LAST, Gateway, Member


class Reactor(Clock):
    """A clock that connects what it is given to a transport in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.transport = Transport()
        self.protocol: Any = None

    def adoptStreamConnection(self, descriptor: int, family: int, factory: Any) -> None:
        assert os.fstat(descriptor)
        assert family == socket.AF_UNIX
        self.protocol = factory.buildProtocol(None)
        self.protocol.makeConnection(self.transport)


@define
class Case:
    reactor: Reactor
    member: Member
    drains: list[float]
    reloads: list[float]

    @classmethod
    def make(cls) -> Case:
        reactor = Reactor()
        ours, theirs = socket.socketpair()
        theirs.close()
        return cls(reactor, Member(Assignment(1, 2, ours.detach(), 0, ()), reactor), [], [])

    def run(self) -> Case:
        member = self.member
        gateway = Gateway(
            metrics=RequestMetrics(),
            status=lambda: {"routes": []},
            config=lambda: {"settings": {}},
            explain=lambda query: {"query": query},
            totals=lambda: {"requests": 7},
            health=lambda: [BackendHealth("b", 1, 2)],
            drain=lambda: self._drain(member),
            reload=lambda: self.reloads.append(self.reactor.seconds()),
        )
        member.running(gateway)
        return self

    def _drain(self, member: Member) -> None:
        self.drains.append(self.reactor.seconds())
        member.draining()

    def said(self) -> list[Message]:
        """What it said since this was asked last."""
        written = self.reactor.transport.written
        found = Frames().feed(bytes(written))
        written.clear()
        return found

    def tell(self, kind: str, **members: Any) -> None:
        self.reactor.protocol.dataReceived(framed({"is": kind, **members}))


def kinds(messages: list[Message]) -> list[str]:
    return [message["is"] for message in messages]


def test_it_says_hello_and_its_totals_each_second_and_all_each_tenth() -> None:
    case = Case.make().run()
    assert kinds(case.said()) == ["hello", "totals"]
    case.member.ready()
    assert kinds(case.said()) == ["totals", "ready"]
    case.reactor.pump([1.0] * 3)
    found = case.said()
    assert found == [{"is": "totals", "totals": {"requests": 7}, "backends": [["b", 1, 2]]}] * 3
    case.reactor.pump([1.0] * TOTALS_PER_LAST)
    (last,) = [message for message in case.said() if message["is"] == "last"]
    assert last["totals"] == {"requests": 7}
    assert last["status"] == {"routes": []}
    assert last["snapshot"]["gateway_requests"]["type"] == "counter"


def test_readiness_before_the_channel_is_told_later() -> None:
    case = Case.make()
    case.member.ready()
    case.run()
    assert kinds(case.said())[0] == "hello"
    case = Case.make()
    case.member.ready()
    case.run()
    assert "ready" in kinds(case.said())


def test_it_answers() -> None:
    case = Case.make().run()
    case.said()
    for what in ("snapshot", "status", "config", "explain url=/a%20b"):
        case.tell("ask", **{"for": what})
    answers = case.said()
    assert [(message["is"], message["for"]) for message in answers] == [
        ("answer", "snapshot"), ("answer", "status"), ("answer", "config"), ("answer", "explain url=/a%20b"),
    ]  # fmt: skip
    assert answers[3]["value"] == {"query": "url=/a%20b"}
    assert answers[2]["value"] == {"settings": {}}
    with logged() as lines:
        case.tell("ask", **{"for": "secrets"})
        case.tell("nonsense")
    assert [text for _, text in lines] == ["message not understood"]
    assert case.said() == []


def test_told_to_reload_it_says_when_the_last_one_that_it_was_told_of_is_over() -> None:
    case = Case.make().run()
    case.said()
    case.tell("reload", times=1)
    case.tell("reload", times=2)
    assert len(case.reloads) == 2
    assert case.said() == []
    case.member.reloaded("3 routes")
    assert case.said() == [{"is": "reloaded", "times": 2, "status": "3 routes"}]


def test_told_to_stop_it_drains_once_whoever_says_so_first() -> None:
    case = Case.make().run()
    case.tell("stop", times=1)
    assert len(case.drains) == 1
    case.tell("stop", times=1)
    assert len(case.drains) == 1
    case.tell("stop", times=2)
    assert len(case.drains) == 2
    assert kinds(case.said()).count("draining") == 1


def test_signal_and_supervisor_s_word_are_one_in_whatever_order() -> None:
    for order in ("s1", "1s", "s1s2", "1ss2", "12ss", "ss12", "s12s"):
        case = Case.make().run()
        for said in order:
            if said == "s":
                case.member.signalled()
            else:
                case.tell("stop", times=int(said))
        assert len(case.drains) == len(order) // 2, order


def test_supervisor_that_is_gone_is_a_reason_to_drain() -> None:
    case = Case.make().run()
    with logged() as lines:
        case.reactor.protocol.connectionLost()
    assert len(case.drains) == 1
    assert [level for level, _ in lines] == ["error"]
    case = Case.make().run()
    case.member.signalled()
    case.reactor.protocol.connectionLost()
    assert len(case.drains) == 1


def test_last_words_are_waited_for_but_not_for_ever() -> None:
    case = Case.make().run()
    case.said()
    ended: list[None] = []
    case.member.stop().addCallback(ended.append)
    assert kinds(case.said()) == ["last"]
    assert case.reactor.transport.closed == "in order"
    assert not ended
    case.reactor.protocol.connectionLost()
    assert (ended, case.drains, case.reactor.getDelayedCalls()) == ([None], [], [])
    case = Case.make().run()
    case.member.stop().addCallback(ended.append)
    case.reactor.advance(FAREWELL_S)
    assert len(ended) == 2
    case.reactor.protocol.connectionLost()
    case = Case.make()  # it never ran
    case.member.stop().addCallback(ended.append)
    assert len(ended) == 3
    os.close(case.member.assignment.channel)


def test_findings_go_to_the_supervisor_and_come_from_it() -> None:
    case = Case.make().run()
    case.said()
    case.tell("lead")
    assert case.member.board.leads
    case.member.board.has_checked("b")
    assert case.said() == [{"is": "checked", "names": ["b"]}]
    case.tell("checked", names=["c"])
    assert case.member.board.is_checked("c")
    case.tell("health", found=[["b", "t", "unhealthy", "x"]])
    assert case.member.board.about("b", "t") is not None
