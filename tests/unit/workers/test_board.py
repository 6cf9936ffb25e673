"""Health that is found in one worker and believed in the others, without processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attrs import define, field
from tests.helpers.logs import logged
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from txgateway.health.state import Health
from txgateway.workers.board import MAX_FINDINGS, Board, Finding, Findings, SharedChecks


@define(eq=False)
class Target:
    address: str
    health: Health = Health.UNKNOWN


@define(eq=False)
class Backend:
    """As much of a backend as checks see."""

    name: str
    targets: list[Target]
    adopted: list[tuple[str, str]] = field(factory=list)
    on_targets: Any = None
    on_health: Any = lambda *_: None

    def adopt_health(self, target: Target, health: Health) -> None:
        if target.health is not health:
            self.adopted.append((target.address, health.value))
        target.health = health

    def find(self, index: int, health: Health, why: str = "") -> None:
        """Checks of this process have found it."""
        self.targets[index].health = health
        self.on_health(self.targets[index], health, why)


class Checks:
    def __init__(self) -> None:
        self.first: Deferred[None] = Deferred()
        self.log: list[str] = []

    def start(self) -> Deferred[None]:
        self.log.append("start")
        return self.first

    def stop(self) -> None:
        self.log.append("stop")


class Case:
    def __init__(self) -> None:
        self.clock = Clock()
        self.told: list[list[Finding]] = []
        self.checked: list[str] = []
        self.board = Board(self.clock, self.told.append, self.checked.append)
        self.made: list[Checks] = []
        self.fired: list[str] = []

    def begin(self, name: str = "b", targets: Sequence[str] = ("t:1", "t:2")) -> tuple[Backend, SharedChecks]:
        backend = Backend(name, [Target(address) for address in targets])
        checks = self.board.checks(backend, self._make)  # type: ignore[arg-type]
        checks.start().addCallback(lambda _: self.fired.append(name))
        return backend, checks

    def _make(self) -> Checks:
        self.made.append(Checks())
        return self.made[-1]


def test_leader_checks_and_tells_what_it_finds_once_a_turn() -> None:
    case = Case()
    backend, _ = case.begin()
    assert not case.made
    case.board.lead()
    assert [checks.log for checks in case.made] == [["start"]]
    backend.find(0, Health.HEALTHY, "connected")
    backend.find(1, Health.HEALTHY, "connected")
    backend.find(1, Health.UNHEALTHY, "refused")
    assert case.told == []
    case.clock.advance(0)
    assert case.told == [[("b", "t:1", "healthy", "connected"), ("b", "t:2", "unhealthy", "refused")]]
    assert (case.fired, case.checked) == ([], [])
    backend.find(0, Health.UNHEALTHY, "refused")
    case.made[0].first.callback(None)
    assert len(case.told) == 2  # before it is told that all were checked
    assert (case.fired, case.checked) == (["b"], ["b"])
    case.clock.advance(1)
    assert len(case.told) == 2
    case.board.lead()
    assert len(case.made) == 1


def test_follower_believes_and_says_nothing() -> None:
    case = Case()
    backend, _ = case.begin()
    other, _ = case.begin("c", ["t:1"])
    with logged() as lines:
        case.board.told([("b", "t:2", "unhealthy", "x"), ("b", "gone:1", "unhealthy", "x")])
        case.board.told([("b", "t:1", "healthy", "x")])
    assert backend.adopted == [("t:2", "unhealthy"), ("t:1", "healthy")]
    assert other.adopted == []
    assert (lines, case.told, case.made) == ([], [], [])
    case.board.told_checked(["c"])
    assert case.fired == ["c"]
    case.board.told_checked(["b", "c"])
    assert case.fired == ["c", "b"]


def test_targets_and_backends_that_come_later_get_what_is_known() -> None:
    case = Case()
    case.board.told([("b", "t:3", "unhealthy", "x")])
    case.board.told_checked(["b"])
    backend, _ = case.begin()
    assert case.fired == ["b"]
    assert backend.adopted == []
    backend.targets.append(Target("t:3"))
    backend.on_targets()
    assert backend.adopted == [("t:3", "unhealthy")]
    again, _ = case.begin(targets=["t:3"])
    assert again.adopted == [("t:3", "unhealthy")]


def test_next_leader_begins_with_what_is_known_and_does_not_believe_the_one_before() -> None:
    case = Case()
    backend, _ = case.begin()
    case.board.told([("b", "t:1", "unhealthy", "x")])
    case.board.lead()
    assert backend.targets[0].health is Health.UNHEALTHY
    case.board.told([("b", "t:1", "healthy", "late")])
    assert backend.targets[0].health is Health.UNHEALTHY
    later, _ = case.begin("c")
    assert len(case.made) == 2
    assert later.adopted == []


def test_leader_that_takes_over_ends_the_wait_of_all() -> None:
    case = Case()
    case.begin()
    case.board.told_checked(["b"])
    case.board.lead()
    case.made[0].first.callback(None)
    assert (case.fired, case.checked) == (["b"], [])  # all know that already


def test_stopped_checks_end_and_wait_for_nobody() -> None:
    case = Case()
    backend, checks = case.begin()
    case.board.lead()
    checks.stop()
    assert case.made[0].log == ["start", "stop"]
    assert case.fired == ["b"]
    case.board.told([("b", "t:1", "unhealthy", "x")])
    case.board.told_checked(["b"])
    assert backend.adopted == []
    checks.stop()
    follower = Case()
    _, waiting = follower.begin()
    waiting.stop()
    assert follower.fired == ["b"]
    follower.board.lead()
    assert not follower.made


def test_findings_are_news_only_once_and_bounded() -> None:
    findings = Findings()
    first = ("b", "t", "healthy", "x")
    assert findings.take([first]) == [first]
    assert findings.take([("b", "t", "healthy", "another reason")]) == []
    assert findings.about("b", "t") is Health.HEALTHY
    assert findings.about("b", "u") is None
    findings.take([("b", f"t{n}", "healthy", "x") for n in range(MAX_FINDINGS)])
    assert len(findings.all()) == MAX_FINDINGS
    assert findings.about("b", "t") is None
