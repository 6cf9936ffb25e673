"""Dials that fail for want of something of our own; the others are tried over sockets in tests/integration."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from tests.helpers.resolver import ManualResolver
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from zope.interface import implementer

from txgateway.errors import GatewayError, PoolExhausted, UpstreamConnectFailed
from txgateway.transport.dial import MAX_ADDRESSES, SHORTAGE_LOG_S, Dialer, TcpAddress, UnixAddress
from txgateway.transport.http1_client import Http1ClientConnection
from txgateway.transport.wheel import TimerWheel


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    """Within the block, no file or socket can be opened."""
    lowest_free = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest_free)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def warnings_logged() -> Iterator[list[str]]:
    lines: list[str] = []

    @implementer(ILogObserver)
    def observe(event: LogEvent) -> None:
        if event["log_level"].name == "warn":
            lines.append(event["log_format"].format(**event))

    globalLogPublisher.addObserver(observe)
    try:
        yield lines
    finally:
        globalLogPublisher.removeObserver(observe)


class _Receiver:
    def __init__(self) -> None:
        self.errors: list[GatewayError] = []

    def dialed(self, protocol: Any) -> None:
        raise AssertionError("nobody listens there")

    def dial_failed(self, error: GatewayError) -> None:
        self.errors.append(error)


class _Reactor(Clock):
    """Time, and names."""

    def __init__(self) -> None:
        super().__init__()
        self.nameResolver = ManualResolver()


class _Case:
    def __init__(self, address: TcpAddress | UnixAddress, addresses: Sequence[str] = ()) -> None:
        self.clock = _Reactor()
        self.wheel = TimerWheel(self.clock)
        self.dialer = Dialer(self.clock, self.wheel, address, 3.0, Http1ClientConnection, addresses=addresses)

    def begin(self) -> Any:
        """A dial that has not heard of anything yet."""
        with no_descriptor_left():
            return self.dialer.dial(_Receiver())

    def dial(self) -> _Receiver:
        receiver = _Receiver()
        with no_descriptor_left():
            self.dialer.dial(receiver)
            assert receiver.errors == []  # told later, always
            self.clock.advance(0)
        assert not self.wheel._fine
        return receiver


ADDRESSES = [TcpAddress("127.0.0.1", 9), TcpAddress("::1", 9), UnixAddress("/nowhere/socket")]


@pytest.mark.parametrize("address", ADDRESSES, ids=str)
def test_want_of_descriptors_is_not_the_targets_fault(address: TcpAddress | UnixAddress) -> None:
    case = _Case(address)
    with warnings_logged() as lines:
        receivers = [case.dial(), case.dial()]
    for receiver in receivers:
        assert [type(error) for error in receiver.errors] == [PoolExhausted]
        assert not receiver.errors[0].counts_against_target
    assert len(lines) == 1
    assert lines[0].startswith(f"cannot open a socket to {address}: ")
    case.clock.advance(SHORTAGE_LOG_S)
    with warnings_logged() as lines:
        case.dial()
    assert len(lines) == 1


def under_way() -> tuple[_Receiver, Any]:
    """A dial that has not heard of anything yet."""
    receiver = _Receiver()
    with no_descriptor_left():
        return receiver, _Case(TcpAddress("127.0.0.1", 9)).dialer.dial(receiver)


def test_want_of_descriptors_ends_the_dial_whatever_other_addresses_there_are() -> None:
    receiver, dial = under_way()
    dial._addresses.append(("127.0.0.2", 9))
    dial.connect_failed(errno.EMFILE, "too many open files")
    assert [type(error) for error in receiver.errors] == [PoolExhausted]


def test_dial_that_is_given_up_tells_nothing_of_a_shortage() -> None:
    case = _Case(UnixAddress("/nowhere/socket"))
    receiver = _Receiver()
    with no_descriptor_left():
        dial = case.dialer.dial(receiver)
    dial.cancel()
    case.clock.advance(0)
    assert receiver.errors == []


def test_any_other_failure_is_the_targets_fault() -> None:
    receiver, dial = under_way()
    dial.connect_failed(errno.ECONNREFUSED, "refused")
    assert [type(error) for error in receiver.errors] == [UpstreamConnectFailed]
    assert receiver.errors[0].counts_against_target


# --- addresses that are known -----------------------------------------------------------------------------------------


def under_way_to(dial: Any) -> tuple[str, int]:
    """Where its connection goes."""
    where = dial._connector.getDestination()
    return where.host, where.port


def test_name_is_resolved_by_each_dial_unless_its_addresses_are_known() -> None:
    case = _Case(TcpAddress("svc", 9))
    case.begin()
    assert case.clock.nameResolver.asked == ["svc"]
    case.dialer.addresses = ["127.0.0.2"]
    dial = case.begin()
    assert under_way_to(dial) == ("127.0.0.2", 9)
    case.dialer.addresses = ()
    case.clock.nameResolver.answer("svc")
    case.begin()
    assert case.clock.nameResolver.asked == ["svc", "svc"]


def test_known_addresses_are_tried_in_turn_at_the_targets_port() -> None:
    case = _Case(TcpAddress("svc", 9), ("127.0.0.2", "127.0.0.3"))
    dial = case.begin()
    assert under_way_to(dial) == ("127.0.0.2", 9)
    assert dial._addresses == [("127.0.0.3", 9)]
    with no_descriptor_left():
        dial.connect_failed(errno.ECONNREFUSED, "refused")
    assert under_way_to(dial) == ("127.0.0.3", 9)
    assert case.dialer.addresses == ("127.0.0.2", "127.0.0.3")  # all of them, for the next dial
    assert case.clock.nameResolver.asked == []


def test_known_addresses_come_before_a_literal() -> None:
    assert under_way_to(_Case(TcpAddress("127.0.0.1", 9), ["127.0.0.2"]).begin()) == ("127.0.0.2", 9)


def test_known_addresses_are_bounded_like_resolved_ones() -> None:
    dial = _Case(TcpAddress("svc", 9), ["127.0.0.2"] * (MAX_ADDRESSES + 5)).begin()
    assert len(dial._addresses) == MAX_ADDRESSES - 1


def test_socket_file_has_no_addresses() -> None:
    case = _Case(UnixAddress("/nowhere/socket"), ["127.0.0.2"])
    receiver = case.dial()
    assert [type(error) for error in receiver.errors] == [PoolExhausted]
    assert case.dialer.addresses == ["127.0.0.2"]
