"""Targets that are named by host names: where the names lead is found out apart from requests, again and again.

A target goes by its label for as long as its name leads to one target, and by its address once there are several
(``svc:9000``; ``10.0.0.1:9000``, ``[fd00::1]:9000``). Consistent hashing goes by this. So the keys of a name of its own
(``cache-1``, ``cache-2``, as with stateful sets) stay with it when it comes back at another address; of a name with
many addresses, those of an address that comes or goes move and no others; and gateways that were told the same agree,
whatever each was told before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_address
from random import Random
from types import MappingProxyType
from typing import Final, TypeAlias

from attrs import define, frozen
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime
from twisted.logger import Logger

from txgateway.config import Target as TargetSettings
from txgateway.proxy.backend import Backend
from txgateway.proxy.target import Target
from txgateway.proxy.target_drain import TargetDrain
from txgateway.transport.dial import Dialer, TcpAddress
from txgateway.transport.lookup import Lookups
from txgateway.transport.wheel import TimerWheel

_log = Logger(__name__)

#: Most targets that one name makes.
MAX_TARGETS: Final = 64
#: Seconds that an answer is waited for before it counts as a failure; it is still used when it comes later.
LOOKUP_LIMIT_S: Final = 5.0
#: Least seconds between two rounds that connections that could not be made ask for.
EXTRA_ROUND_S: Final = 1.0
#: A round is earlier or later by up to this share of the interval, so that many gateways do not ask at once.
JITTER: Final = 0.1

#: The addresses of each target that a name makes, IP literals.
Found: TypeAlias = tuple[tuple[str, ...], ...]
#: Makes a target at these addresses; at none, one that dials by name.
Make: TypeAlias = Callable[[TargetSettings, Sequence[str]], Target]


# --- what follows from what was found: no state, no I/O -----------------------------------------------------------


def is_name(target: TargetSettings) -> bool:
    """Whether a target is named by a host name: not by an address, not a UNIX socket, not the demo."""
    return bool(target.host) and not target.is_demo and not isIPAddress(target.host) and not isIPv6Address(target.host)


def target_addresses(found: Sequence[IAddress]) -> Found:
    """The targets that a name stands for.

    With at most one address a family (IPv4, IPv6) it is one target, whose dials try those in the resolver's order. It
    is one server, which has two addresses because it has two protocols; and often only one of them works: many
    servers listen at one of the two that ``localhost`` has. Balancing between them would send half of the requests
    nowhere.

    Otherwise each address of one family is a target of its own. Only of one, or a server with both would count twice:
    of the one that tells more servers apart, and of IPv4 if they are equal.

    Args:
        found: in the resolver's order, of any types; only IP addresses count, each once.

    Returns:
        the addresses of each target. Those of one target are in the resolver's order; several targets are sorted by
        their address, and no more than MAX_TARGETS, so that all gateways choose the same.
    """
    together: dict[str, int] = {}  # to its version, in the resolver's order
    for address in found:
        if isinstance(address, IPv4Address | IPv6Address) and (version := _version(address.host)):
            together[address.host] = version
    v4 = [host for host, version in together.items() if version == 4]
    v6 = [host for host, version in together.items() if version == 6]
    if len(v4) <= 1 and len(v6) <= 1:
        return (tuple(together),) if together else ()
    apart = sorted(v4 if len(v4) >= len(v6) else v6, key=lambda host: (ip_address(host).packed, host))
    return tuple((host,) for host in apart[:MAX_TARGETS])


def _version(host: str) -> int:
    """4 or 6, 0 for what is no IP literal."""
    try:
        return ip_address(host).version
    except ValueError:
        return 0


@frozen
class Place:
    """Where a target is; in whatever order its addresses come, it is the same.

    Attributes:
        index: of the configured target.
        addresses: of it; none if it is not known by addresses.
    """

    index: int
    addresses: frozenset[str]


@frozen
class Wanted:
    """A target that the backend should have.

    Attributes:
        settings: what is configured for it.
        addresses: what its dials try in turn; none if they go by what is configured.
        address: what it goes by.
    """

    settings: TargetSettings
    addresses: tuple[str, ...]
    address: str


def wanted_targets(configured: Sequence[TargetSettings], found: Mapping[str, Found]) -> dict[Place, Wanted]:
    """The targets that a backend should have, in order, no two of which go by the same.

    Args:
        configured: the backend's targets.
        found: by name; names that were never found are missing.
    """
    wanted: dict[Place, Wanted] = {}
    taken: set[str] = set()
    for index, settings in enumerate(configured):
        targets = found.get(settings.host, ((),)) if is_name(settings) else ((),)
        for addresses in targets:
            address = settings.label if len(targets) == 1 else str(TcpAddress(addresses[0], settings.port))
            if address in taken:  # two names lead to the same server, and each has a share of its own
                address = f"{address} ({settings.label})"
            taken.add(address)
            wanted[Place(index, frozenset(addresses))] = Wanted(settings, addresses, address)
    return wanted


def reconciled(known: Mapping[Place, Target], wanted: Mapping[Place, Wanted], make: Make) -> dict[Place, Target]:
    """The targets that are wanted: those that are known already as they are, new ones for the others.

    What a known one goes by, and the order in which its addresses are tried, may have changed.

    Args:
        known: where there are targets already.
        wanted: where there should be.
        make: makes those that are missing.
    """
    targets = {place: known.get(place) or make(new.settings, new.addresses) for place, new in wanted.items()}
    for place, target in targets.items():
        target.address = wanted[place].address
        for dialer in (target.dialer, target.tunnel_dialer):
            if isinstance(dialer, Dialer):
                dialer.addresses = wanted[place].addresses
    return targets


# --- the watch ----------------------------------------------------------------------------------------------------


@define(eq=False)
class _Name:
    """A host name of a backend, and how its lookups go.

    Attributes:
        on_told: is told what was found.
        is_new: no lookup of it is over yet.
        is_failing: the last one failed.
        limit: of an answer that is waited for.
    """

    host: str
    on_told: Callable[[_Name, Sequence[IAddress]], None]
    is_new: bool = True
    is_failing: bool = False
    limit: IDelayedCall | None = None

    def told(self, found: Sequence[IAddress]) -> None:
        """The lookup is over."""
        self.on_told(self, found)


class NameWatch:
    """Keeps a backend's targets where their names lead.

    Each name is looked up every ``dns_refresh_s``, and soon after a connection could not be made. Addresses that stay
    keep their targets, with connections, breaker and health. Those that are new get new ones; those that are gone leave
    the backend at once, and their targets' pools are closed when the requests under way there are over. A target whose
    address comes back before that comes back itself. A lookup that fails, or finds nothing, changes nothing: what was
    known last still holds, and a name that was never found is dialed by name.

    Args:
        backend: has the targets as configured, in that order.
        make: makes its targets.
        lookups: finds the addresses of names.
        clock: for the rounds.
        wheel: looks after targets that have left.
        chance: spreads the rounds.
        found: where names were found before, and the backend's targets are.

    Attributes:
        found: where names were found last.
        left: targets that have left the backend while it shares them with another.
    """

    def __init__(
        self,
        backend: Backend,
        make: Make,
        lookups: Lookups,
        clock: IReactorTime,
        wheel: TimerWheel,
        chance: Random,
        found: Mapping[str, Found] = MappingProxyType({}),
    ) -> None:
        self._backend = backend
        self._configured = backend.settings.targets
        self._make = make
        self._lookups = lookups
        self._clock = clock
        self._wheel = wheel
        self._chance = chance
        self._names = {target.host: _Name(target.host, self._told) for target in self._configured if is_name(target)}
        self.found: Mapping[str, Found] = found
        self._targets = dict(zip(wanted_targets(self._configured, found), backend.targets, strict=True))
        self._drains: dict[Place, TargetDrain] = {}
        self._next_round: IDelayedCall | None = None
        self._extra_round: IDelayedCall | None = None
        self._extra_allowed_at = 0.0
        self._first_round: Deferred[None] | None = None
        self._is_stopped = self._is_holding = False
        self.left: list[Target] = []

    @property
    def draining(self) -> tuple[Target, ...]:
        """Targets that have left the backend while requests are under way at them."""
        return tuple(drain.target for drain in self._drains.values())

    def start(self) -> Deferred[None]:
        """Begin with the rounds; once only.

        Returns:
            fires when all names have been looked up for the first time, or that took too long; never with an error.
        """
        first_round: Deferred[None] = Deferred()
        self._first_round = first_round
        self._extra_allowed_at = self._clock.seconds() + EXTRA_ROUND_S
        self._backend.on_connect_failed = self._ask_for_extra_round
        self._round()
        return first_round

    def hold(self) -> None:
        """Another backend may have taken over targets of this one: close no connections of those that leave."""
        self._is_holding = True

    def stop(self) -> None:
        """No more rounds, and no answers; lets go of targets that have left. Their requests run to their end."""
        self._is_stopped = True
        calls = [self._next_round, self._extra_round, *(name.limit for name in self._names.values())]
        for call in calls:
            if call is not None:
                call.cancel()
        self._next_round = self._extra_round = None
        for name in self._names.values():
            name.limit = None
        for drain in list(self._drains.values()):
            drain.finish()
        self._tell_if_first_is_over()

    # --- rounds ---------------------------------------------------------------------------------------------------

    def _round(self) -> None:
        # The next one comes, whatever becomes of this one.
        wait_s = self._backend.settings.dns_refresh_s * self._chance.uniform(1 - JITTER, 1 + JITTER)
        self._next_round = self._clock.callLater(wait_s, self._round)
        self._look_up_all()

    def _ask_for_extra_round(self) -> None:
        """A connection could not be made: perhaps the target is somewhere else now."""
        if self._extra_round is None and not self._is_stopped:
            wait_s = max(0.0, self._extra_allowed_at - self._clock.seconds())
            self._extra_round = self._clock.callLater(wait_s, self._begin_extra_round)

    def _begin_extra_round(self) -> None:
        self._extra_round = None
        self._extra_allowed_at = self._clock.seconds() + EXTRA_ROUND_S
        self._look_up_all()

    def _look_up_all(self) -> None:
        for name in self._names.values():
            if name.limit is None:
                name.limit = self._clock.callLater(LOOKUP_LIMIT_S, self._overdue, name)
                self._lookups.ask(name.host, name.told)

    # --- answers --------------------------------------------------------------------------------------------------

    def _told(self, name: _Name, found: Sequence[IAddress]) -> None:
        if self._is_stopped:
            return
        if name.limit is not None:
            name.limit.cancel()
            name.limit = None
        try:
            self._use(name, target_addresses(found))
        finally:
            self._is_over(name)

    def _overdue(self, name: _Name) -> None:
        name.limit = None
        self._failed(name, f"no answer within {LOOKUP_LIMIT_S:g} s")
        self._is_over(name)

    def _is_over(self, name: _Name) -> None:
        name.is_new = False
        self._tell_if_first_is_over()

    def _tell_if_first_is_over(self) -> None:
        first_round = self._first_round
        if first_round is not None and (self._is_stopped or not any(name.is_new for name in self._names.values())):
            self._first_round = None
            first_round.callback(None)

    def _failed(self, name: _Name, problem: str) -> None:
        if not name.is_failing:
            name.is_failing = True
            _log.warn(
                "cannot resolve {name} of backend {backend}: {problem}",
                name=name.host,
                backend=self._backend.name,
                problem=problem,
            )

    def _use(self, name: _Name, found: Found) -> None:
        if not found:
            self._failed(name, "no address")
            return
        is_news = found != self.found.get(name.host)
        if is_news:
            all_found = {**self.found, name.host: found}
            self._reconcile(wanted_targets(self._configured, all_found))
            self.found = all_found
        if is_news or name.is_failing:
            name.is_failing = False
            _log.info(
                "{name} of backend {backend} leads to {addresses}",
                name=name.host,
                backend=self._backend.name,
                addresses=", ".join(host for addresses in found for host in addresses),
            )

    # --- targets come and go --------------------------------------------------------------------------------------

    def _reconcile(self, wanted: Mapping[Place, Wanted]) -> None:
        drains = self._drains
        known = {**self._targets, **{place: drain.target for place, drain in drains.items()}}
        targets = reconciled(known, wanted, self._make)
        for place in [place for place in drains if place in targets]:
            drains.pop(place).leave()
        gone = {place: target for place, target in self._targets.items() if place not in targets}
        self._targets = targets
        self._backend.set_targets(list(targets.values()))
        for place, target in gone.items():
            self._drain(place, target)

    def _drain(self, place: Place, target: Target) -> None:
        if self._is_holding or not self._backend.is_live:
            self.left.append(target)
            return

        def over() -> None:
            del self._drains[place]

        target.breaker.on_change = None
        self._drains[place] = TargetDrain(target, self._clock.seconds(), self._wheel, over)
