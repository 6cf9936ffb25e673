"""Whatever names resolve to, and whenever: the backend has the targets that the last answers speak of, and no request
is cut."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.helpers.resolver import ManualResolver, ip
from twisted.internet.task import Clock

from txgateway.config import Backend as BackendSettings
from txgateway.config.targets import target as parse_target
from txgateway.proxy.backend import Backend
from txgateway.proxy.build import TargetMaker
from txgateway.proxy.names import JITTER, LOOKUP_LIMIT_S, MAX_TARGETS, NameWatch, target_addresses
from txgateway.proxy.target import Outcome, Target
from txgateway.proxy.target_drain import DRAIN_LIMIT_S
from txgateway.telemetry.metrics import TargetMetrics
from txgateway.transport.lookup import Lookups
from txgateway.transport.wheel import TICK_S, TimerWheel

V4 = ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
V6 = ["fd00::1", "fd00::2"]
HOSTS = st.lists(st.sampled_from(V4 + V6), max_size=6)
#: Few and alike, so that addresses go and come back.
ANSWERS = st.lists(st.sampled_from(V4), max_size=3) | st.sampled_from([["fd00::1", "10.0.0.1"], V6, V4[:2]])
URLS = ["http://a:1", "http://10.9.9.9:1", "http://b:1", "http://a:2"]
NAMES = ["a", "b"]
REFRESH_S = 20.0

#: ``(configured URL, addresses)``, which a target is known by.
Key = tuple[str, frozenset[str]]


def groups(hosts: Sequence[str]) -> list[frozenset[str]]:
    """The targets of an answer, in the plainest words."""
    v4 = sorted({host for host in hosts if ":" not in host})
    v6 = sorted({host for host in hosts if ":" in host})
    if len(v4) < 2 and len(v6) < 2:
        return [frozenset(v4 + v6)] if hosts else []
    return [frozenset([host]) for host in (v6 if len(v6) > len(v4) else v4)]


@given(HOSTS)
def test_targets_of_an_answer(hosts: list[str]) -> None:
    assert [frozenset(addresses) for addresses in target_addresses([ip(host) for host in hosts])] == groups(hosts)


@given(st.lists(st.ip_addresses().map(str), max_size=100), st.randoms(use_true_random=False))
def test_targets_of_an_answer_do_not_depend_on_its_order(hosts: list[str], chance: Random) -> None:
    found = target_addresses([ip(host) for host in hosts])
    chance.shuffle(hosts)
    assert {frozenset(addresses) for addresses in target_addresses([ip(host) for host in hosts])} == set(
        map(frozenset, found)
    )
    assert len(found) <= MAX_TARGETS
    assert bool(found) == bool(hosts)


class NamesMachine(RuleBasedStateMachine):
    @initialize(seed=st.integers(0, 5), load_balancer=st.sampled_from(["round_robin", "hash:client_ip"]))
    def build(self, seed: int, load_balancer: str) -> None:
        configured = tuple(map(parse_target, URLS))
        backend_settings = BackendSettings("b", configured, dns_refresh_s=REFRESH_S, load_balancer=load_balancer)
        self.clock = Clock()
        self.wheel = TimerWheel(self.clock)
        self.resolver = ManualResolver()
        maker = TargetMaker(backend_settings, self.clock, self.wheel, 0, Random(seed), lambda _: TargetMetrics())
        targets = [maker.make(target) for target in configured]
        self.backend = Backend(backend_settings, targets, self.clock.seconds, Random(seed))
        self.watch = NameWatch(self.backend, maker.make, Lookups(self.resolver), self.clock, self.wheel, Random(seed))
        self.known: dict[str, list[frozenset[str]]] = {}
        self.current: dict[Key, Target] = {
            (url, frozenset()): target for url, target in zip(URLS, targets, strict=True)
        }
        self.left: dict[Key, Target] = {}  # and are not closed
        self.left_at: dict[Key, float] = {}
        self.settled_at: dict[int, float] = {}  # by identity of the target
        self.closed: list[Target] = []
        self.under_way: list[Target] = []
        self.free_since = dict.fromkeys(NAMES, 0.0)  # of the names that are not being looked up
        self.heard: set[str] = set()
        self.is_first_over = False
        self.watch.start().addCallback(self.first_is_over)

    def first_is_over(self, _: object) -> None:
        assert not self.is_first_over
        self.is_first_over = True

    # --- the model ------------------------------------------------------------------------------------------------

    def model_answer(self, name: str, hosts: Sequence[str]) -> None:
        self.heard.add(name)
        self.free_since[name] = self.clock.seconds()
        if not hosts:
            return
        self.known[name] = groups(hosts)
        wanted: list[Key] = []
        for url in URLS:
            found = self.known.get(url.removeprefix("http://").partition(":")[0], [frozenset()])
            wanted += [(url, addresses) for addresses in found]
        before, self.current = self.current, {}
        assert len(self.backend.targets) == len(wanted)
        for key, target in zip(wanted, self.backend.targets, strict=True):
            known = before.get(key) or self.left.get(key)
            assert known is None or known is target, "a target was made anew"
            assert known is not None or target not in [*before.values(), *self.left.values(), *self.closed]
            self.current[key] = target
            self.left.pop(key, None)
        for key, target in before.items():
            if key not in self.current:
                self.left[key] = target
                self.left_at[key] = self.clock.seconds()

    def model_time(self) -> None:
        """Notice whom the wheel has closed."""
        now = self.clock.seconds()
        for key, target in list(self.left.items()):
            age = now - self.left_at[key]
            quiet_s = now - max(self.left_at[key], self.settled_at.get(id(target), 0))
            if target.pool._is_closed:
                assert not target.in_flight or age >= DRAIN_LIMIT_S
                self.closed.append(self.left.pop(key))
            else:
                assert quiet_s < 1 + TICK_S or target.in_flight, "drained and not closed"
                assert age < DRAIN_LIMIT_S + 1 + TICK_S

    # --- what may happen ------------------------------------------------------------------------------------------

    @precondition(lambda self: self.resolver.out)
    @rule(data=st.data(), hosts=ANSWERS)
    def answer(self, data: st.DataObject, hosts: list[str]) -> None:
        name = data.draw(st.sampled_from(sorted(self.resolver.out)))
        self.resolver.answer(name, *hosts)
        self.model_answer(name, hosts)

    @precondition(lambda self: self.resolver.out)
    @rule(data=st.data())
    def lookup_is_lost(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.resolver.out)))
        self.resolver.lose(name)
        self.free_since[name] = self.clock.seconds()

    @rule(data=st.data())
    def request_begins(self, data: st.DataObject) -> None:
        target = data.draw(st.sampled_from(self.backend.targets))
        target.begin(self.clock.seconds())
        self.under_way.append(target)

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), outcome=st.sampled_from([Outcome.OK, Outcome.ERROR]))
    def request_ends(self, data: st.DataObject, outcome: Outcome) -> None:
        target = self.under_way.pop(data.draw(st.integers(0, len(self.under_way) - 1)))
        self.settled_at[id(target)] = self.clock.seconds()
        target.settle(outcome, self.clock.seconds(), 0, is_fault=outcome is Outcome.ERROR, is_probe=False)

    @rule(times=st.integers(1, 3))
    def connections_fail(self, times: int) -> None:
        for _ in range(times):
            self.backend.on_connect_failed()
        self.time_passes(11)

    @rule(ticks=st.sampled_from([1, 5, 11, 60, 230]))
    def time_passes(self, ticks: int) -> None:
        for _ in range(ticks):
            self.clock.advance(TICK_S)

    @precondition(lambda self: any(target.in_flight for target in self.left.values()))
    @rule()
    def patience_ends(self) -> None:
        self.clock.advance(DRAIN_LIMIT_S)
        self.time_passes(11)

    # --- what must hold -------------------------------------------------------------------------------------------

    @invariant()
    def targets_are_those_of_the_last_answers(self) -> None:
        if not hasattr(self, "watch"):
            return
        self.model_time()
        assert self.backend.targets
        assert self.backend.targets == tuple(self.current.values())
        for (url, addresses), target in self.current.items():
            dialer = target.dialer
            assert set(dialer.addresses) == addresses  # type: ignore[attr-defined]
            assert not target.pool._is_closed
            assert target.breaker.on_change is not None
            assert target.label == parse_target(url).label
        assert len({target.address for target in self.current.values()}) == len(self.current)
        assert set(self.watch.draining) == set(self.left.values())
        assert len(self.wheel._coarse) == len(self.left)  # looked after, each once
        assert self.backend._policy.pick(b"key", lambda _: True) in self.backend.targets

    @invariant()
    def every_name_is_looked_up_again(self) -> None:
        if not hasattr(self, "watch"):
            return
        now = self.clock.seconds()
        for name in NAMES:
            if name not in self.resolver.out:
                assert now - self.free_since[name] <= REFRESH_S * (1 + JITTER) + LOOKUP_LIMIT_S
        if self.heard.issuperset(NAMES) or now > LOOKUP_LIMIT_S + TICK_S:
            assert self.is_first_over

    def teardown(self) -> None:
        if not hasattr(self, "watch"):
            return
        self.watch.stop()
        assert all(target.pool._is_closed for target in self.left.values())
        assert self.watch.draining == ()
        assert self.is_first_over
        self.wheel.stop()
        assert self.clock.getDelayedCalls() == []


def test_names_keep_their_promises() -> None:
    run_state_machine_as_test(NamesMachine, settings=settings(stateful_step_count=50))
