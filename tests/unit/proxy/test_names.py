"""Where names lead: what follows from an answer, and what becomes of targets when the answers change."""

from __future__ import annotations

from typing import Any

import pytest
from tests.helpers.logs import logged
from tests.helpers.resolver import ip
from tests.unit.proxy.watched import Case, is_closed, settle
from twisted.internet.address import UNIXAddress

from txgateway.config.groups import Breaker
from txgateway.config.targets import target as parse_target
from txgateway.errors import PoolExhausted
from txgateway.proxy.names import (
    LOOKUP_LIMIT_S,
    MAX_TARGETS,
    is_name,
    target_addresses,
    wanted_targets,
)
from txgateway.proxy.target import Outcome
from txgateway.proxy.target_drain import DRAIN_LIMIT_S
from txgateway.transport.wheel import TICK_S


class _Waiter:
    needs_http2 = False

    def __init__(self) -> None:
        self.errors: list[object] = []

    def on_connection(self, connection: Any) -> None:
        raise AssertionError("nobody listens")

    def on_unavailable(self, error: object) -> None:
        self.errors.append(error)


# --- what an answer says ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "targets"),
    [
        ("", ""),
        ("10.0.0.1", "10.0.0.1"),
        ("fd00::1", "fd00::1"),
        ("::1 127.0.0.1", "::1,127.0.0.1"),  # localhost
        ("127.0.0.1 ::1", "127.0.0.1,::1"),
        ("127.0.0.1 127.0.0.1 ::1 ::1", "127.0.0.1,::1"),  # once a socket type
        ("10.0.0.2 10.0.0.10 10.0.0.1", "10.0.0.1 10.0.0.2 10.0.0.10"),
        ("10.0.0.2 10.0.0.1 10.0.0.2", "10.0.0.1 10.0.0.2"),
        ("10.0.0.2 10.0.0.1 fd00::1", "10.0.0.1 10.0.0.2"),
        ("10.0.0.1 fd00::2 fd00::1", "fd00::1 fd00::2"),
        ("fd00::2 10.0.0.2 fd00::1 10.0.0.1", "10.0.0.1 10.0.0.2"),  # as many of both
        ("fd00::10 fd00::9", "fd00::9 fd00::10"),
        ("fe80::1%eth1 fe80::1%eth0", "fe80::1%eth0 fe80::1%eth1"),
        ("svc 10.0.0.1", "10.0.0.1"),  # a resolver of somebody's own
    ],
)
def test_targets_of_an_answer(found: str, targets: str) -> None:
    expected = tuple(tuple(addresses.split(",")) for addresses in targets.split())
    assert target_addresses([ip(host) for host in found.split()]) == expected


def test_only_ip_addresses_count() -> None:
    assert target_addresses([UNIXAddress("/run/app.sock"), ip("10.0.0.1")]) == (("10.0.0.1",),)


def test_targets_of_an_answer_are_bounded_and_do_not_depend_on_its_order() -> None:
    hosts = [f"10.0.{number // 250}.{number % 250}" for number in range(MAX_TARGETS * 2)]
    expected = tuple((host,) for host in hosts[:MAX_TARGETS])
    assert target_addresses([ip(host) for host in hosts]) == expected
    assert target_addresses([ip(host) for host in reversed(hosts)]) == expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://svc:1", True),
        ("https://localhost", True),
        ("http://10.0.0.1:1", False),
        ("http://[::1]:1", False),
        ("unix:/run/app.sock", False),
        ("demo", False),
    ],
)
def test_only_host_names_are_names(url: str, expected: bool) -> None:
    assert is_name(parse_target(url)) is expected


def test_no_two_targets_go_by_the_same() -> None:
    configured = [parse_target(url) for url in ("http://a:1", "http://b:1", "http://10.0.0.1:1", "http://c:1")]
    both = (("10.0.0.1",), ("10.0.0.2",))
    wanted = wanted_targets(configured, {"a": both, "b": both, "c": (("10.0.0.1",),)})
    assert [new.address for new in wanted.values()] == [
        "10.0.0.1:1",
        "10.0.0.2:1",
        "10.0.0.1:1 (b:1)",
        "10.0.0.2:1 (b:1)",
        "10.0.0.1:1 (10.0.0.1:1)",
        "c:1",
    ]


# --- the first answer -------------------------------------------------------------------------------------------------


def test_target_dials_by_name_until_the_name_is_found() -> None:
    case = Case()
    assert case.resolver.asked == ["svc"]
    assert case.targets == case.originals
    assert case.dials == [[]]
    assert case.fired == []
    case.answer("10.0.0.1")
    assert case.fired == [None]
    assert case.dials == [["10.0.0.1"]]
    assert case.addresses == ["svc:9000"]


def test_start_waits_for_all_names() -> None:
    case = Case("http://a:1", "http://b:1", "http://a:2")
    assert case.resolver.asked == ["a", "b"]  # one lookup for both targets at a
    case.answer("10.0.0.1", name="a")
    assert case.fired == []
    case.answer(name="b")
    assert case.fired == [None]
    assert case.dials == [["10.0.0.1"], [], ["10.0.0.1"]]


def test_start_waits_no_longer_than_the_limit() -> None:
    case = Case("http://a:1", "http://b:1")
    case.answer("10.0.0.1", name="a")
    case.wait(LOOKUP_LIMIT_S - TICK_S)
    assert case.fired == []
    with logged() as lines:
        case.wait(2 * TICK_S)
    assert case.fired == [None]
    assert lines == [("warn", "cannot resolve b of backend b: no answer within 5 s")]
    assert case.dials == [["10.0.0.1"], []]


def test_answer_that_comes_late_is_used() -> None:
    case = Case()
    case.wait(LOOKUP_LIMIT_S + 1)
    case.answer("10.0.0.1")
    assert case.dials == [["10.0.0.1"]]
    assert case.fired == [None]


def test_name_that_is_not_found_leaves_its_target_as_it_was() -> None:
    case = Case()
    case.answer()
    assert case.fired == [None]
    assert case.targets == case.originals
    case.answer("10.0.0.1")
    assert case.dials == [["10.0.0.1"]]


def test_targets_that_are_no_names_stay_where_they_are() -> None:
    case = Case("http://10.0.0.9:1", "http://svc:9000", "unix:/run/app.sock")
    case.answer("10.0.0.2", "10.0.0.1")
    assert case.addresses == ["10.0.0.9:1", "10.0.0.1:9000", "10.0.0.2:9000", "unix:/run/app.sock"]
    assert (case.targets[0], case.targets[3]) == (case.originals[0], case.originals[2])


def test_addresses_of_one_name_share_label_and_weight() -> None:
    case = Case()
    case.answer("fd00::2", "fd00::1")
    assert [target.label for target in case.targets] == ["svc:9000"] * 2
    assert case.addresses == ["[fd00::1]:9000", "[fd00::2]:9000"]
    assert case.targets[0].metrics is case.targets[1].metrics


# --- addresses come and go --------------------------------------------------------------------------------------------


def test_addresses_that_stay_keep_their_targets() -> None:
    case = Case()
    case.answer("10.0.0.1", "10.0.0.2")
    one, two = case.targets
    case.answer("10.0.0.3", "10.0.0.2")
    assert case.targets[0] is two
    assert case.addresses == ["10.0.0.2:9000", "10.0.0.3:9000"]
    assert case.watch.draining == (one,)


def test_same_answer_makes_nothing_new() -> None:
    case = Case()
    case.answer("10.0.0.1", "10.0.0.2")
    before, made = case.targets, case.made
    case.answer("10.0.0.2", "10.0.0.1")
    assert case.targets is before
    assert case.made == made


def test_target_that_has_left_is_closed_when_its_requests_are_over() -> None:
    case = Case()
    case.answer("10.0.0.1", "10.0.0.2")
    one = case.targets[0]
    for _ in range(2):
        one.begin(0)
    case.answer("10.0.0.2", "10.0.0.3")
    assert one not in case.targets
    case.wait(5)
    settle(one)
    case.wait(5)
    assert not is_closed(one)
    settle(one)
    case.wait(1)
    assert is_closed(one)
    assert case.watch.draining == ()
    with pytest.raises(PoolExhausted):
        one.pool.acquire(_Waiter())


def test_target_without_requests_is_closed_within_a_second() -> None:
    case = Case()
    case.answer("10.0.0.1")
    assert not is_closed(case.originals[0])
    case.wait(1)
    assert is_closed(case.originals[0])
    assert not is_closed(case.targets[0])


def test_patience_with_a_target_that_has_left_has_an_end() -> None:
    case = Case()
    case.answer("10.0.0.1")
    one = case.targets[0]
    one.begin(0)
    case.answer("10.0.0.2")
    case.wait(DRAIN_LIMIT_S - 1)
    assert not is_closed(one)
    case.wait(2)
    assert is_closed(one)
    settle(one)
    assert case.watch.draining == ()


def test_target_whose_address_comes_back_comes_back_itself() -> None:
    case = Case()
    case.answer("10.0.0.1", "10.0.0.2")
    one, two = case.targets
    one.begin(0)
    case.answer("10.0.0.2")
    case.answer("10.0.0.1", "10.0.0.2")
    assert case.targets == (one, two)
    assert case.watch.draining == ()
    settle(one)
    with logged() as lines:
        case.wait(5)
    assert lines == []
    assert not is_closed(one)
    case.answer("10.0.0.2")
    case.wait(1)
    assert is_closed(one)


def test_target_that_has_left_changes_nothing_of_the_backend_any_more() -> None:
    case = Case(breaker=Breaker(failures=1))
    case.answer("10.0.0.1")
    one = case.targets[0]
    is_probe = one.begin(0)
    case.answer("10.0.0.2")
    with logged() as lines:
        one.settle(Outcome.ERROR, 0, 0, is_fault=True, is_probe=is_probe)
    assert lines == []
    assert one.breaker.state != 0
    assert case.backend.is_usable()


def test_target_that_comes_back_is_heard_again() -> None:
    case = Case(breaker=Breaker(failures=1))
    case.answer("10.0.0.1")
    one = case.targets[0]
    is_probe = one.begin(0)
    case.answer("10.0.0.2")
    case.answer("10.0.0.1")
    assert case.targets == (one,)
    one.settle(Outcome.ERROR, case.clock.seconds(), 0, is_fault=True, is_probe=is_probe)
    assert not case.backend.is_usable()


def test_name_at_another_address_is_another_target_that_goes_by_the_same() -> None:
    case = Case()
    case.answer("10.0.0.1", "::1")
    before = case.targets[0]
    case.answer("10.0.0.2", "::1")
    assert case.targets[0] is not before
    assert case.watch.draining == (before,)
    assert case.dials == [["10.0.0.2", "::1"]]
    assert case.addresses == ["svc:9000"]


def test_other_order_of_the_same_addresses_is_the_same_target() -> None:
    case = Case()
    case.answer("::1", "127.0.0.1")
    before = case.targets[0]
    case.answer("127.0.0.1", "::1")
    assert case.targets[0] is before
    assert case.dials == [["127.0.0.1", "::1"]]


def test_target_that_stays_goes_by_what_the_number_of_addresses_makes_of_it() -> None:
    case = Case()
    case.answer("10.0.0.1")
    one = case.targets[0]
    assert one.address == "svc:9000"
    case.answer("10.0.0.1", "10.0.0.2")
    assert case.targets[0] is one
    assert one.address == "10.0.0.1:9000"
    case.answer("10.0.0.1")
    assert case.targets == (one,)
    assert one.address == "svc:9000"


def test_hashed_keys_of_other_names_stay_where_they_are() -> None:
    case = Case("http://a:1", "http://b:1", load_balancer="hash:client_ip")

    def homes() -> dict[int, str]:
        picks = {number: case.backend._policy.pick(b"%d" % number) for number in range(300)}
        return {number: target.label for number, target in picks.items() if target is not None}

    before = homes()
    for host in ("10.0.0.1", "10.0.0.2"):
        case.answer(host, name="a")
        case.answer("10.0.0.3", name="b")
        assert homes() == before
    case.answer("10.0.0.2", name="a")
    case.answer("10.0.0.3", "10.0.0.4", name="b")
    assert {number for number, label in homes().items() if label == "a:1"} != set()
