"""What a target is made of, for each kind of target, and which backends get a watch over names."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest
import trustme
from tests.helpers.resolver import ManualResolver
from twisted.internet.task import Clock

from txgateway.config import Backend as BackendSettings
from txgateway.config.groups import BackendTls, Breaker
from txgateway.config.groups import Pool as PoolSettings
from txgateway.config.targets import Target as TargetSettings
from txgateway.config.targets import target as parse_target
from txgateway.proxy.backend import Backend
from txgateway.proxy.breaker import BreakerState
from txgateway.proxy.build import BackendBuilder, TargetMaker, build_issuer
from txgateway.proxy.names import NameWatch
from txgateway.proxy.target import Outcome, Target
from txgateway.telemetry.metrics import Tally, TargetMetrics
from txgateway.transport.dial import TcpAddress, UnixAddress
from txgateway.transport.wheel import TimerWheel

DEMO_PORT = 4711


class _Reactor(Clock):
    """Time, and names."""

    def __init__(self) -> None:
        super().__init__()
        self.nameResolver = ManualResolver()


def settings_of(*urls: str, **others: Any) -> BackendSettings:
    return BackendSettings("b", tuple(map(parse_target, urls)), **others)


class _Case:
    def __init__(self, settings: BackendSettings) -> None:
        self.settings = settings
        self.cells: dict[str, TargetMetrics] = {}
        clock = _Reactor()
        self.maker = TargetMaker(settings, clock, TimerWheel(clock), DEMO_PORT, Random(1), self.metrics)

    def metrics(self, label: str) -> TargetMetrics:
        return self.cells.setdefault(label, TargetMetrics())

    def make(self, number: int = 0, *addresses: str) -> Any:
        return self.maker.make(self.settings.targets[number], addresses)


def all_built(*backends: BackendSettings) -> tuple[dict[str, Backend], dict[str, NameWatch], dict[Any, Any]]:
    clock = _Reactor()
    cells: dict[Any, Any] = {}

    def target_metrics(backend: str, label: str) -> TargetMetrics:
        made: TargetMetrics = cells.setdefault((backend, label), TargetMetrics())
        return made

    def retries(backend: str) -> Tally:
        made: Tally = cells.setdefault(backend, Tally())
        return made

    by_name = {settings.name: settings for settings in backends}
    builder = BackendBuilder(clock, TimerWheel(clock), DEMO_PORT, Random(1), target_metrics, retries)
    built = {name: builder.build(settings) for name, settings in by_name.items()}
    watches = {name: one.watch for name, one in built.items() if one.watch is not None}
    return {name: one.backend for name, one in built.items()}, watches, cells


@pytest.mark.parametrize(
    ("url", "label", "authority", "address"),
    [
        ("http://svc:9000", "svc:9000", b"svc:9000", TcpAddress("svc", 9000)),
        ("http://svc", "svc:80", b"svc", TcpAddress("svc", 80)),
        ("http://svc:443", "svc:443", b"svc:443", TcpAddress("svc", 443)),
        ("http://10.0.0.1:9000", "10.0.0.1:9000", b"10.0.0.1:9000", TcpAddress("10.0.0.1", 9000)),
        ("http://[::1]:9000", "[::1]:9000", b"[::1]:9000", TcpAddress("::1", 9000)),
        ("unix:/run/app.sock", "unix:/run/app.sock", b"localhost", UnixAddress("/run/app.sock")),
        ("demo", "demo", b"localhost", TcpAddress("127.0.0.1", DEMO_PORT)),
    ],
)
def test_target_is_what_its_url_says(url: str, label: str, authority: bytes, address: TcpAddress | UnixAddress) -> None:
    target = _Case(settings_of(url)).make()
    assert (target.label, target.address, target.authority) == (label, label, authority)
    assert target.dialer.address == address
    assert target.dialer.addresses == ()
    assert target.pool._dialer is target.dialer
    assert target.pool.name == label


def test_default_port_of_https_is_left_out_of_host() -> None:
    case = _Case(settings_of("https://svc", "https://svc:80"))
    assert [case.make(number).authority for number in range(2)] == [b"svc", b"svc:80"]


def test_target_has_its_weight_and_the_backends_settings() -> None:
    target = TargetSettings("http://svc:1", "http", "svc", 1, weight=7, label="svc:1")
    pool = PoolSettings(max_connections=3)
    case = _Case(BackendSettings("b", (target,), pool=pool, connect_timeout_s=1.5))
    made = case.make()
    assert made.weight == 7
    assert made.pool.settings == pool
    assert made.dialer._connect_timeout_s == 1.5


def test_target_at_addresses_keeps_its_name_and_shares_its_metrics() -> None:
    case = _Case(settings_of("http://svc:9000", "http://other:9000"))
    first, second = case.make(0, "10.0.0.1"), case.make(0, "10.0.0.2", "::1")
    assert first.dialer.addresses == ("10.0.0.1",)
    assert second.dialer.addresses == ("10.0.0.2", "::1")
    assert first.label == second.label == "svc:9000"
    assert first.authority == second.authority == b"svc:9000"
    assert first.metrics is second.metrics is case.cells["svc:9000"]
    assert first.pool is not second.pool
    assert first.breaker is not second.breaker
    assert case.make(1).metrics is case.cells["other:9000"]


def fail_once(target: Target) -> BreakerState:
    is_probe = target.begin(0)
    target.settle(Outcome.ERROR, 0, 0, is_fault=True, is_probe=is_probe)
    return target.breaker.state


def test_breaker_is_the_backends() -> None:
    assert fail_once(_Case(settings_of("http://svc", breaker=Breaker(failures=1))).make()) is BreakerState.OPEN
    assert fail_once(_Case(settings_of("http://svc", breaker=Breaker(failures=2))).make()) is BreakerState.CLOSED


def test_tls_context_is_one_a_backend_and_only_for_those_that_speak_it(tmp_path: Path) -> None:
    ca_file = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(ca_file))
    case = _Case(settings_of("https://svc", "http://svc", tls=BackendTls(ca_file=str(ca_file))))
    ca_file.unlink()  # a second context could not be built
    first, second, plain = case.make(0, "10.0.0.1"), case.make(0, "10.0.0.2"), case.make(1)
    assert first.dialer._tls is not None
    assert second.dialer._tls is not None
    assert first.dialer._tls._hostname == "svc"  # the name, not the address
    assert plain.dialer._tls is None


def test_files_of_a_backend_without_tls_are_not_read() -> None:
    assert _Case(settings_of("http://svc", tls=BackendTls())).maker._tls is None


def test_backends_have_their_targets_in_order_and_their_own_cells() -> None:
    one = BackendSettings("one", (parse_target("http://a:1"), parse_target("http://10.0.0.1:1")))
    two = BackendSettings("two", (parse_target("http://a:1"),))
    built, _, cells = all_built(one, two)
    assert list(built) == ["one", "two"]
    assert [target.label for target in built["one"].targets] == ["a:1", "10.0.0.1:1"]
    assert built["one"].targets[0].metrics is cells["one", "a:1"]
    assert built["two"].targets[0].metrics is cells["two", "a:1"]
    assert built["one"].targets[0].metrics is not built["two"].targets[0].metrics
    assert built["two"].retries is cells["two"]


@pytest.mark.parametrize(
    ("urls", "is_watched"),
    [
        (["http://svc"], True),
        (["http://localhost:1"], True),
        (["http://10.0.0.1", "http://svc"], True),
        (["http://10.0.0.1", "http://[::1]"], False),
        (["unix:/run/app.sock"], False),
        (["demo"], False),
    ],
)
def test_names_are_watched_where_there_are_any(urls: list[str], is_watched: bool) -> None:
    _, watches, _ = all_built(BackendSettings("b", tuple(map(parse_target, urls))))
    assert list(watches) == (["b"] if is_watched else [])


def test_issuer_dials_by_what_its_url_says_and_has_no_breaker() -> None:
    clock = _Reactor()
    backend = build_issuer("http://issuer.test:8080/keys?x=1", clock, TimerWheel(clock))
    (target,) = backend.targets
    assert (target.label, target.authority) == ("issuer.test:8080", b"issuer.test:8080")
    for _ in range(100):
        assert fail_once(target) is BreakerState.CLOSED
