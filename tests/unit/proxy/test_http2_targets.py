"""Which targets may speak HTTP/2, how their connections are made for that, and where both kinds of dials lead."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from tests.unit.proxy.watched import Case
from twisted.internet.task import Clock

from txgateway.config import Backend as BackendSettings
from txgateway.config.targets import target as parse_target
from txgateway.proxy.backend import Backend
from txgateway.proxy.build import TargetMaker
from txgateway.proxy.multiplexed_pool import MultiplexedPool
from txgateway.proxy.pool import ConnectionPool
from txgateway.proxy.target import Target
from txgateway.telemetry.metrics import TargetMetrics
from txgateway.transport.http1_client import Http1ClientConnection
from txgateway.transport.http2.client import Http2ClientConnection
from txgateway.transport.wheel import TimerWheel


def made(*urls: str) -> list[Target]:
    settings = BackendSettings("b", tuple(map(parse_target, urls)))
    clock = Clock()
    maker = TargetMaker(settings, clock, TimerWheel(clock), 0, Random(1), lambda _: TargetMetrics())
    return [maker.make(target) for target in settings.targets]


def spoken(dialer: Any, negotiated: bytes | None) -> tuple[type, bytes]:
    """What speaks over a connection, and the scheme that it names."""
    protocol = dialer._made(negotiated)
    return type(protocol), getattr(protocol, "scheme", b"")


@pytest.mark.parametrize("url", ["http://10.0.0.1:81", "unix:/run/a.sock"])
def test_http_is_http1(url: str) -> None:
    (target,) = made(url)
    assert type(target.pool) is ConnectionPool
    assert target.tunnel_dialer is None
    assert spoken(target.dialer, None) == (Http1ClientConnection, b"")


def test_h2c_is_http2() -> None:
    (target,) = made("h2c://10.0.0.1")
    assert (type(target.pool), target.scheme, target.authority) == (MultiplexedPool, "h2c", b"10.0.0.1")
    assert target.tunnel_dialer is None
    assert spoken(target.dialer, None) == (Http2ClientConnection, b"http")
    assert target.pool._dialer is target.dialer


def test_https_is_what_is_agreed_on() -> None:
    (target,) = made("https://10.0.0.1")
    pool: Any = target.pool
    assert type(pool) is MultiplexedPool
    assert spoken(target.dialer, b"h2") == (Http2ClientConnection, b"https")
    assert spoken(target.dialer, b"http/1.1") == (Http1ClientConnection, b"")
    assert spoken(target.dialer, None) == (Http1ClientConnection, b"")
    assert pool._dialer is target.dialer
    assert spoken(target.tunnel_dialer, b"h2") == (Http1ClientConnection, b"")  # which it does not offer
    assert type(pool._http1) is ConnectionPool
    assert pool._http1._dialer is target.tunnel_dialer


@pytest.mark.parametrize(
    ("urls", "may_refuse"),
    [
        (["http://a"], False),
        (["unix:/a"], False),
        (["h2c://a"], True),
        (["https://a"], True),
        (["http://a", "h2c://b"], True),
    ],
)
def test_backend_knows_whether_a_target_may_refuse(urls: list[str], may_refuse: bool) -> None:
    settings = BackendSettings("b", tuple(map(parse_target, urls)))
    backend = Backend(settings, made(*urls), Clock().seconds, Random(1))
    assert backend.may_refuse == may_refuse


# --- names ------------------------------------------------------------------------------------------------------------------


def dials(case: Case) -> list[tuple[list[str], list[str]]]:
    """What both dialers of each target try."""
    both: list[tuple[Any, Any]] = [(target.dialer, target.tunnel_dialer) for target in case.targets]
    return [(list(one.addresses), list(other.addresses)) for one, other in both]


def test_name_leads_both_kinds_of_dials() -> None:
    case = Case("https://svc:9000")
    assert dials(case) == [([], [])]
    case.answer("10.0.0.1", "10.0.0.2")
    assert dials(case) == [(["10.0.0.1"], ["10.0.0.1"]), (["10.0.0.2"], ["10.0.0.2"])]


def test_order_of_addresses_changes_for_both_kinds_of_dials() -> None:
    case = Case("https://svc:9000")
    case.answer("10.0.0.1", "fd00::1")
    before = case.targets
    assert dials(case) == [(["10.0.0.1", "fd00::1"],) * 2]
    case.answer("fd00::1", "10.0.0.1")
    assert case.targets == before
    assert dials(case) == [(["fd00::1", "10.0.0.1"],) * 2]


def test_name_of_an_h2c_target_leads_its_dials() -> None:
    case = Case("h2c://svc:9000")
    case.answer("10.0.0.1", "fd00::1")
    (target,) = case.targets
    assert case.dials == [["10.0.0.1", "fd00::1"]]
    assert target.tunnel_dialer is None
