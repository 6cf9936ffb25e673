"""Health that several workers share: one of them, the leader, checks the targets, and the others believe it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from txgateway.health.active import Checks
from txgateway.health.state import Health
from txgateway.proxy.backend import Backend
from txgateway.proxy.target import Target

#: What a target is known by in all workers, its health, and why: backend, address, health, reason.
Finding: TypeAlias = Sequence[str]

#: Findings that are remembered; the oldest go first. Only targets that have left are ever that many.
MAX_FINDINGS = 20_000


class Findings:
    """The last finding about each target."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], Finding] = {}

    def take(self, found: Iterable[Finding]) -> list[Finding]:
        """Remember these; returns those that are news."""
        news = []
        for finding in found:
            backend, address, health, _ = finding
            before = self._known.pop((backend, address), None)
            self._known[backend, address] = finding
            if before is None or before[2] != health:
                news.append(finding)
        while len(self._known) > MAX_FINDINGS:
            del self._known[next(iter(self._known))]
        return news

    def all(self) -> list[Finding]:
        """Every finding, oldest first."""
        return list(self._known.values())

    def about(self, backend: str, address: str) -> Health | None:
        """What was found; None for nothing."""
        finding = self._known.get((backend, address))
        return None if finding is None else Health(finding[2])


class Board:
    """Where the worker's backends get their health from: checks of its own if it leads, else what it is told.

    Args:
        clock: collects what is found in one turn.
        tell: sends what this worker, as the leader, found.
        tell_checked: sends that a backend's targets were checked once.
    """

    def __init__(
        self, clock: IReactorTime, tell: Callable[[list[Finding]], None], tell_checked: Callable[[str], None]
    ) -> None:
        self._clock = clock
        self._tell = tell
        self._tell_checked = tell_checked
        self._findings = Findings()
        self._found: dict[tuple[str, str], Finding] = {}
        self._call: IDelayedCall | None = None
        self._checked: set[str] = set()
        self._members: list[SharedChecks] = []
        self.leads = False

    def checks(self, backend: Backend, make: Callable[[], Checks]) -> SharedChecks:
        """The checks of a backend.

        Args:
            make: makes such as this worker does itself.
        """
        return SharedChecks(backend, make, self)

    # --- what the supervisor says -----------------------------------------------------------------------------------

    def lead(self) -> None:
        """This worker checks from now on."""
        if not self.leads:
            self.leads = True
            for member in list(self._members):
                member.lead()

    def told(self, found: Iterable[Finding]) -> None:
        """What the leader has found."""
        news = self._findings.take(found)
        if self.leads:  # what is still under way from the one before
            return
        backends = {finding[0] for finding in news}
        for member in self._members:
            if member.backend.name in backends:
                member.adopt()

    def told_checked(self, backends: Iterable[str]) -> None:
        """The leader has checked these backends once."""
        self._checked.update(backends)
        for member in list(self._members):
            if member.backend.name in self._checked:
                member.checked()

    # --- what its checks ask for ------------------------------------------------------------------------------------

    def add(self, member: SharedChecks) -> None:
        """Its backend is in use from now on."""
        self._members.append(member)

    def remove(self, member: SharedChecks) -> None:
        """It is no longer."""
        if member in self._members:
            self._members.remove(member)

    def is_checked(self, backend: str) -> bool:
        """Whether a leader has checked its targets once."""
        return backend in self._checked

    def about(self, backend: str, address: str) -> Health | None:
        """What was found about a target."""
        return self._findings.about(backend, address)

    def found(self, backend: str, target: Target, health: Health, why: str) -> None:
        """This worker's checks have made up their mind."""
        finding = (backend, target.address, health.value, why)
        self._findings.take([finding])
        self._found[backend, target.address] = finding
        if self._call is None:
            self._call = self._clock.callLater(0, self._send)

    def has_checked(self, backend: str) -> None:
        """This worker's checks have asked all targets once."""
        self._send()
        self._checked.add(backend)
        self._tell_checked(backend)

    def _send(self) -> None:
        call, self._call = self._call, None
        if call is not None and call.active():
            call.cancel()
        if self._found:
            found, self._found = self._found, {}
            self._tell(list(found.values()))


class SharedChecks:
    """The checks of one backend, here or elsewhere.

    Args:
        backend: whose targets they are about.
        make: makes those of this worker, once it leads.
        board: knows who leads.
    """

    def __init__(self, backend: Backend, make: Callable[[], Checks], board: Board) -> None:
        self.backend = backend
        self._make = make
        self._board = board
        self._first: Deferred[None] = Deferred()
        self._checks: Checks | None = None

    def start(self) -> Deferred[None]:
        """Begin; fires when the targets were checked once by whoever leads, or when this is stopped."""
        self._board.add(self)
        self.backend.on_targets = self.adopt
        self.adopt()
        if self._board.leads:
            self.lead()
        elif self._board.is_checked(self.backend.name):
            self.checked()
        return self._first

    def stop(self) -> None:
        """End for good."""
        self._board.remove(self)
        if self._checks is not None:
            self._checks.stop()
        self.checked()

    def lead(self) -> None:
        """Check from now on; what is known already is where it begins."""
        if self._checks is None:
            self._checks = self._make()
            self.backend.on_health = self._found
            self._checks.start().addCallback(self._led)

    def adopt(self) -> None:
        """Take over what was found elsewhere about the targets of this moment."""
        for target in self.backend.targets:
            health = self._board.about(self.backend.name, target.address)
            if health is not None:
                self.backend.adopt_health(target, health)

    def checked(self) -> None:
        """The first round is over."""
        if not self._first.called:
            self._first.callback(None)

    def _found(self, target: Target, health: Health, why: str) -> None:
        self._board.found(self.backend.name, target, health, why)

    def _led(self, _: Any) -> None:
        if not self._first.called or not self._board.is_checked(self.backend.name):
            self._board.has_checked(self.backend.name)
        self.checked()
