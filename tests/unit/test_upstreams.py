"""Which backends and targets live on when others take their place, and how the others leave."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trustme
from tests.helpers.resolver import ManualResolver
from twisted.internet.task import Clock

from txgateway.config import load
from txgateway.errors import PoolExhausted
from txgateway.health.state import Health
from txgateway.proxy.backend import Backend
from txgateway.proxy.breaker import BreakerState
from txgateway.proxy.target import Outcome, Target
from txgateway.telemetry.metrics import RequestMetrics
from txgateway.transport.wheel import TimerWheel
from txgateway.upstreams import LATE_S, Upstreams

A, B, C = "http://10.0.0.1", "http://10.0.0.2", "http://10.0.0.3"


class Reactor(Clock):
    """Time, and names; connections never come to anything."""

    def __init__(self) -> None:
        super().__init__()
        self.nameResolver = ManualResolver()


class Case:
    """A process's backends, one configuration after the other."""

    def __init__(self) -> None:
        self.reactor = Reactor()
        self.wheel = TimerWheel(self.reactor)
        self.metrics = RequestMetrics()
        self.now: Upstreams | None = None

    def made(self, **backends: Any) -> Upstreams:
        """Made of these, to take the place of those in force."""
        document = {
            "backends": {
                name: made if isinstance(made, dict) else {"targets": made} for name, made in backends.items()
            },
            "routes": [{"name": name, "path": f"/{name}", "backend": name} for name in backends],
        }
        configured = load({"GATEWAY_ROUTES": json.dumps(document)}).backends
        return Upstreams(configured, self.reactor, self.wheel, 0, Random(1), self.metrics, self.now)

    def put(self, upstreams: Upstreams) -> None:
        """In force from now on."""
        upstreams.go_live()
        if self.now is not None:
            self.now.retire(upstreams)
        self.now = upstreams

    def replace(self, **backends: Any) -> Upstreams:
        made = self.made(**backends)
        self.put(made)
        return made


@pytest.fixture
def case() -> Case:
    return Case()


def targets(upstreams: Upstreams, name: str = "b") -> dict[str, Target]:
    return {target.address: target for target in upstreams.backends[name].targets}


def fail(target: Target, now: float = 0.0) -> None:
    is_probe = target.begin(now)
    target.settle(Outcome.ERROR, now, 0.0, is_fault=True, is_probe=is_probe)


def is_closed(target: Target) -> bool:
    return bool(getattr(target.pool, "_is_closed"))  # noqa: B009


# --- what is the same ---------------------------------------------------------------------------------------------


def test_equal_backends_are_the_same_and_others_are_not(case: Case) -> None:
    first = case.replace(b=[A, B], other=[C])
    second = case.replace(b=[A, B], other=[B])
    assert second.known["b"] is first.known["b"]
    assert second.backends["b"] is first.backends["b"]
    assert second.backends["other"] is not first.backends["other"]


def test_backend_that_comes_back_is_a_new_one(case: Case) -> None:
    first = case.replace(b=[A], other=[B])
    case.replace(other=[B])
    assert case.replace(b=[A], other=[B]).backends["b"] is not first.backends["b"]


def test_targets_of_one_backend_are_not_anothers(case: Case) -> None:
    first = case.replace(b=[A])
    second = case.replace(c=[A])
    assert targets(second, "c")["10.0.0.1:80"] is not targets(first, "b")["10.0.0.1:80"]


def test_without_a_previous_one_all_are_new(case: Case) -> None:
    assert targets(case.made(b=[A]))["10.0.0.1:80"] is not targets(case.made(b=[A]))["10.0.0.1:80"]


@pytest.mark.parametrize(
    ("before", "after", "kept"),
    [
        ([A], [A, B], {"10.0.0.1:80"}),
        ([A, B], [B], {"10.0.0.2:80"}),
        ([A, B], [B, A], {"10.0.0.1:80", "10.0.0.2:80"}),
        ([A], [B], set()),
        ([{"url": A, "weight": 1}], [{"url": A, "weight": 5}], {"10.0.0.1:80"}),
        ([A], {"targets": [A], "load_balancer": "least_request"}, {"10.0.0.1:80"}),
        ([A], {"targets": [A], "panic_percent": 1}, {"10.0.0.1:80"}),
        ([A], {"targets": [A], "health_check": {"interval": "1s"}}, {"10.0.0.1:80"}),
        ([A], {"targets": [A], "pool": {"max_connections": 3}}, set()),
        ([A], {"targets": [A], "breaker": {"failures": 3}}, set()),
        ([A], {"targets": [A], "timeout": {"connect": "1s"}}, set()),
        ([A], {"targets": [A], "tls": {"server_name": "x.test"}}, set()),
        ([A], ["http://10.0.0.1:81"], set()),
        ([A], ["h2c://10.0.0.1"], set()),
    ],
)
def test_targets_whose_connections_would_be_the_same_are_kept(
    case: Case, before: Any, after: Any, kept: set[str]
) -> None:
    first = case.replace(b=before)
    old = targets(first)
    second = case.replace(b=after)
    assert second.backends["b"] is not first.backends["b"]
    new = targets(second)
    assert {name for name, target in new.items() if target is old.get(name)} == kept


def test_kept_target_has_what_it_had_and_its_new_weight(case: Case) -> None:
    old = targets(case.replace(b=[{"url": A, "weight": 1}, B]))["10.0.0.1:80"]
    for _ in range(5):
        fail(old)
    old.health = Health.HEALTHY
    second = case.replace(b=[{"url": A, "weight": 5}])
    new = targets(second)["10.0.0.1:80"]
    assert (new.weight, new.health, new.breaker.state) == (5, Health.HEALTHY, BreakerState.OPEN)


def test_breakers_tell_the_backend_that_is_in_force(case: Case) -> None:
    first = case.replace(b=[A, B]).backends["b"]
    second = case.made(b=[A, C])
    target = first.targets[0]
    for _ in range(5):
        fail(target)
    assert not first._is_all_well
    case.put(second)
    assert not second.backends["b"]._is_all_well
    target.breaker.recover(0.0)
    target.settle(Outcome.OK, 0.0, 0.0, is_fault=False, is_probe=target.begin(0.0))
    assert second.backends["b"]._is_all_well


# --- files --------------------------------------------------------------------------------------------------------


def secure(ca_file: Path, url: str = "https://10.0.0.1") -> dict[str, Any]:
    return {"targets": [url], "tls": {"ca_file": str(ca_file)}}


def test_changed_file_of_tls_makes_another_backend_and_other_targets(case: Case, tmp_path: Path) -> None:
    ca_file = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(ca_file))
    first = case.replace(b=secure(ca_file))
    assert case.replace(b=secure(ca_file)).backends["b"] is first.backends["b"]
    ca_file.unlink()
    trustme.CA().cert_pem.write_to_path(str(ca_file))
    second = case.replace(b=secure(ca_file))
    assert second.backends["b"] is not first.backends["b"]
    assert second.backends["b"].targets[0] is not first.backends["b"].targets[0]


def test_file_that_nobody_needs_may_change(case: Case, tmp_path: Path) -> None:
    ca_file = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(ca_file))
    first = case.replace(b=secure(ca_file, "http://10.0.0.1"))
    ca_file.unlink()
    trustme.CA().cert_pem.write_to_path(str(ca_file))
    assert case.replace(b=secure(ca_file, "http://10.0.0.1")).backends["b"] is first.backends["b"]


# --- leaving ------------------------------------------------------------------------------------------------------


def test_removed_target_is_closed_when_its_requests_are_over(case: Case) -> None:
    first = case.replace(b=[A, B])
    kept, removed = first.backends["b"].targets
    removed.begin(0.0)
    case.replace(b=[A])
    case.reactor.pump([0.1] * 300)
    assert not is_closed(removed)
    removed.settle(Outcome.OK, 30.0, 0.0, is_fault=False, is_probe=False)
    case.reactor.pump([0.1] * round(LATE_S * 10 - 5))
    assert not is_closed(removed)  # somebody may still come from a queue
    case.reactor.pump([0.1] * 20)
    assert is_closed(removed)
    assert not is_closed(kept)
    assert not is_closed(first.backends["b"].targets[0])


@pytest.mark.parametrize("after", [{}, {"other": [B]}])
def test_targets_of_a_removed_backend_are_closed_later(case: Case, after: dict[str, Any]) -> None:
    (target,) = case.replace(b=[A]).backends["b"].targets
    case.replace(other=[C], **{name: made for name, made in after.items() if name != "other"})
    assert not is_closed(target)
    case.reactor.pump([0.1] * round(LATE_S * 10 + 11))
    assert is_closed(target)


def picks(backend: Backend) -> set[str]:
    return {backend.pick(request=None).address for _ in range(10)}  # type: ignore[arg-type]


def test_late_requests_go_to_targets_that_live_on(case: Case) -> None:
    first = case.replace(b=[A, B]).backends["b"]
    case.replace(b=[B, C])
    assert picks(first) == {"10.0.0.2:80"}


def test_late_requests_find_a_target_if_none_lives_on(case: Case) -> None:
    first = case.replace(b=[A]).backends["b"]
    case.replace(b=[B])
    assert picks(first) == {"10.0.0.1:80"}


def test_late_requests_leave_breakers_to_the_new_backend(case: Case) -> None:
    first = case.replace(b=[A, B]).backends["b"]
    second = case.replace(b=[A, C]).backends["b"]
    for _ in range(5):
        fail(second.targets[0])
    assert not second._is_all_well
    assert first._is_all_well


# --- names --------------------------------------------------------------------------------------------------------


def named(case: Case, *hosts: str) -> Upstreams:
    """In force, with a name that leads there."""
    made = case.made(b=["http://svc.test"])
    case.put(made)
    watch = made.known["b"].built.watch
    assert watch is not None
    watch.start()
    case.reactor.nameResolver.answer("svc.test", *hosts)
    return made


def changed(case: Case) -> Upstreams:
    """The same name, in a backend that is another."""
    return case.made(b={"targets": ["http://svc.test"], "panic_percent": 7})


def look_up(upstreams: Upstreams, case: Case, *hosts: str) -> None:
    watch = upstreams.known["b"].built.watch
    assert watch is not None
    if "svc.test" not in case.reactor.nameResolver.out:
        watch._look_up_all()
    case.reactor.nameResolver.answer("svc.test", *hosts)


def test_addresses_of_a_name_keep_their_targets(case: Case) -> None:
    first = named(case, "10.0.0.1", "10.0.0.2")
    old = targets(first)
    assert set(old) == {"10.0.0.1:80", "10.0.0.2:80"}
    second = changed(case)
    assert targets(second) == old
    case.put(second)
    watch = second.known["b"].built.watch
    assert watch is not None
    watch.start()
    case.reactor.nameResolver.answer("svc.test", "10.0.0.2", "10.0.0.3")
    new = targets(second)
    assert set(new) == {"10.0.0.2:80", "10.0.0.3:80"}
    assert new["10.0.0.2:80"] is old["10.0.0.2:80"]


def test_other_targets_of_a_backend_with_names_are_kept_too(case: Case) -> None:
    first = named(case, "10.0.0.1", "10.0.0.2")
    second = case.made(b={"targets": [A, "http://svc.test"]})
    old, new = targets(first), list(second.backends["b"].targets)
    assert [target.dialer.addresses for target in new[1:]] == [("10.0.0.1",), ("10.0.0.2",)]  # type: ignore[attr-defined]
    assert set(map(id, new[1:])) == set(map(id, old.values()))


def test_name_that_is_gone_is_forgotten(case: Case) -> None:
    named(case, "10.0.0.1", "10.0.0.2")
    assert set(targets(case.replace(b=[C]))) == {"10.0.0.3:80"}


def test_address_that_is_gone_before_the_change_stays_in_use_until_then(case: Case) -> None:
    first = named(case, "10.0.0.1", "10.0.0.2")
    removed = targets(first)["10.0.0.1:80"]
    second = changed(case)
    watch = second.known["b"].built.watch
    assert watch is not None
    watch.start()
    case.reactor.nameResolver.answer("svc.test", "10.0.0.2", "10.0.0.3")  # only the new one is told
    case.reactor.pump([0.1] * 50)
    assert not is_closed(removed)
    assert removed.breaker.on_change is not None
    case.put(second)
    case.reactor.pump([0.1] * round(LATE_S * 10 + 11))
    assert is_closed(removed)
    assert not is_closed(targets(second)["10.0.0.2:80"])


def test_address_that_only_the_old_one_lets_go_stays_open_for_the_new_one(case: Case) -> None:
    first = named(case, "10.0.0.1", "10.0.0.2")
    shared = targets(first)["10.0.0.1:80"]
    second = changed(case)
    look_up(first, case, "10.0.0.2", "10.0.0.3")
    assert set(targets(first)) == {"10.0.0.2:80", "10.0.0.3:80"}
    case.reactor.pump([0.1] * 50)
    between = targets(first)["10.0.0.3:80"]
    case.put(second)
    case.reactor.pump([0.1] * round(LATE_S * 10 + 11))
    assert targets(second)["10.0.0.1:80"] is shared
    assert not is_closed(shared)
    assert is_closed(between)
    with pytest.raises(PoolExhausted):
        between.pool.acquire(None)  # type: ignore[arg-type]


def test_watch_over_names_ends_with_its_backend(case: Case) -> None:
    first = named(case, "10.0.0.1", "10.0.0.2")
    case.replace(b=[A])
    asked = list(case.reactor.nameResolver.asked)
    case.reactor.pump([1.0] * 100)
    assert case.reactor.nameResolver.asked == asked
    assert first.known["b"].built.watch is not None


def test_only_what_is_new_is_started(case: Case) -> None:
    named(case, "10.0.0.1")
    assert case.reactor.nameResolver.asked == ["svc.test"]
    second = case.made(b=["http://svc.test"], c=["http://other.test"])
    second.start()
    assert case.reactor.nameResolver.asked == ["svc.test", "other.test"]
