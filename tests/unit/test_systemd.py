"""Sockets that a process manager passed, and what it is told."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.helpers.logs import logged_events
from twisted.internet.task import Clock

from txgateway.systemd import (
    MIN_BEAT_S,
    PATIENCE_S,
    Notifier,
    first_environment,
    listeners_from,
    send_datagram,
    take_descriptors,
    take_watchdog_s,
)

PID = 4711


@pytest.fixture
def passed() -> Iterator[int]:
    """A descriptor that the process's children would have."""
    with socket.socket() as sock:
        sock.set_inheritable(True)
        yield sock.fileno()


def variables(**changes: str) -> dict[str, str]:
    """What a process manager sets for one socket, but for ``changes``."""
    return {"LISTEN_PID": str(PID), "LISTEN_FDS": "1", "PATH": "/bin", **changes}


def test_sockets_and_variables_are_kept_from_children(passed: int) -> None:
    environ = variables(LISTEN_FDNAMES="traffic", LISTEN_PIDFDID="7")
    assert take_descriptors(environ, PID, variables(), passed) == (passed,)
    assert not os.get_inheritable(passed)
    assert environ == {"PATH": "/bin"}


def test_sockets_of_another_process_are_left_alone_and_its_variables_are_not_passed_on(passed: int) -> None:
    environ = variables()
    assert take_descriptors(environ, PID + 1, variables(), passed) == ()
    assert os.get_inheritable(passed)
    assert environ == {"PATH": "/bin"}


@pytest.mark.parametrize(
    "started_with",
    [
        {},
        {"LISTEN_FDS": "1"},
        {"LISTEN_PID": str(PID)},
        variables(LISTEN_FDS="0"),
        variables(LISTEN_FDS=""),
        variables(LISTEN_PID=""),
    ],
)
def test_without_sockets_there_are_none(started_with: dict[str, str]) -> None:
    assert take_descriptors({}, PID, started_with) == ()


@pytest.mark.parametrize("number", ["x", "-1", "1 ", "1.5", "\u0661", "1025", "9" * 6000])
def test_a_number_of_sockets_that_is_none_is_refused(number: str) -> None:
    environ = variables(LISTEN_FDS=number)
    with pytest.raises(ValueError, match="expected a number of sockets, up to 1024"):
        take_descriptors(environ, PID, dict(environ))
    assert environ == {"PATH": "/bin"}


def test_sockets_that_did_not_arrive_are_refused() -> None:
    with pytest.raises(ValueError, match="1 sockets were promised, but there is no descriptor 100000"):
        take_descriptors({}, PID, variables(), 100_000)


def test_the_variables_of_the_start_are_read_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "environ").write_bytes(b"LISTEN_FDS=1\0EMPTY=\0A=b=c\0ODD=\xff\0nothing\0")
    assert first_environment(tmp_path) == {"LISTEN_FDS": "1", "EMPTY": "", "A": "b=c", "ODD": "\udcff"}
    assert first_environment(tmp_path / "none") == {}


def test_each_listener_gets_the_socket_of_its_place() -> None:
    assert listeners_from((), ("tcp:80", "tcp:81")) == ()
    assert listeners_from((3, 4), ("tcp:80", "tcp:81")) == (3, 4)


@pytest.mark.parametrize("descriptors", [(3,), (3, 4, 5)])
def test_another_number_than_that_of_the_listeners_is_refused(descriptors: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"^{len(descriptors)} sockets were passed for 2 listeners: expected one for"):
        listeners_from(descriptors, ("tcp:80", "tcp:81"))


def test_descriptions_that_pick_a_socket_themselves_are_let() -> None:
    assert listeners_from((3, 4), ("systemd:domain=INET:index=1",)) == ()


class Manager:
    """What was sent to whom."""

    def __init__(self, error: Exception | None = None) -> None:
        self.told: list[tuple[str, str]] = []
        self.patience: list[float] = []
        self.error = error

    def __call__(self, address: str, message: bytes, patience_s: float) -> None:
        self.told.append((address, message.decode()))
        self.patience.append(patience_s)
        if self.error is not None:
            raise self.error


def test_the_manager_is_told_once_of_each() -> None:
    manager = Manager()
    notifier = Notifier("/run/notify", manager)
    for _ in range(2):
        notifier.ready("two\nlines")
    assert manager.told == [("/run/notify", "READY=1\nSTATUS=two lines\n")]
    for _ in range(2):
        notifier.stopping("draining")
    assert manager.told[1:] == [("/run/notify", "STOPPING=1\nSTATUS=draining\n")]


def test_who_has_begun_to_stop_is_not_ready_any_more() -> None:
    manager = Manager()
    notifier = Notifier("/run/notify", manager)
    notifier.stopping("draining")
    notifier.ready("late")
    assert [message[:10] for _, message in manager.told] == ["STOPPING=1"]


@pytest.mark.parametrize("address", [None, ""])
def test_without_a_manager_nothing_is_sent(address: str | None) -> None:
    manager = Manager()
    notifier = Notifier(address, manager)
    notifier.ready("now")
    notifier.stopping("now")
    assert not manager.told


@pytest.mark.parametrize("error", [OSError("gone"), ValueError("no address")])
def test_a_manager_that_cannot_be_told_is_a_line_of_the_log(error: Exception) -> None:
    notifier = Notifier("/run/notify", Manager(error))
    with logged_events() as events:
        notifier.ready("now")
    assert [(event["word"], event["problem"]) for event in events] == [("READY=1", str(error))]


def test_the_variable_is_taken_so_that_children_do_not_have_it() -> None:
    environ = {"NOTIFY_SOCKET": "/run/notify", "PATH": "/bin"}
    Notifier.taken_from(environ, PID)
    assert environ == {"PATH": "/bin"}
    Notifier.taken_from(environ, PID).ready("to nobody")


def words(manager: Manager) -> list[str]:
    """The first line of each message."""
    return [message.partition("\n")[0] for _, message in manager.told]


def test_a_reload_is_told_with_the_time_of_its_begin_and_with_its_end() -> None:
    manager = Manager()
    now_ns = iter([1_234_567_999, 2_000_000_000])
    notifier = Notifier("/run/notify", manager, monotonic_ns=lambda: next(now_ns))
    notifier.ready("now")
    notifier.reloading()
    notifier.reloading()  # asked again before it was over
    notifier.reloaded("3 routes")
    notifier.reloaded("of which nobody was told")
    assert [message for _, message in manager.told[1:]] == [
        "RELOADING=1\nMONOTONIC_USEC=1234567\nSTATUS=reloading\n",
        "RELOADING=1\nMONOTONIC_USEC=2000000\nSTATUS=reloading\n",
        "READY=1\nSTATUS=3 routes\n",
    ]


def test_a_reload_before_the_service_is_ready_does_not_make_it_look_ready() -> None:
    manager = Manager()
    notifier = Notifier("/run/notify", manager)
    notifier.reloading()
    notifier.reloaded("too early")
    assert not manager.told
    notifier.reloading()
    notifier.ready("now")
    notifier.reloaded("the manager knows of none")
    assert words(manager) == ["READY=1"]


def test_who_has_begun_to_stop_tells_of_no_reload() -> None:
    manager = Manager()
    notifier = Notifier("/run/notify", manager)
    notifier.ready("now")
    notifier.reloading()
    notifier.stopping("draining")
    notifier.reloaded("late")
    notifier.reloading()
    assert words(manager) == ["READY=1", "RELOADING=1", "STOPPING=1"]


def test_a_line_for_people_fits_into_what_the_manager_reads() -> None:
    manager = Manager()
    Notifier("/run/notify", manager).ready("\N{SNOWMAN}" * 5000)
    assert len(manager.told[0][1].encode()) < 4096


def test_signs_of_life_come_twice_in_the_time_until_the_very_end() -> None:
    manager, clock = Manager(), Clock()
    notifier = Notifier("/run/notify", manager, 10.0)
    notifier.live(clock)
    assert manager.told == [("/run/notify", "WATCHDOG=1\n")]
    clock.pump([1.0] * 14)
    assert len(manager.told) == 3
    notifier.stopping("draining")
    clock.pump([1.0] * 5)
    assert words(manager) == ["WATCHDOG=1"] * 3 + ["STOPPING=1", "WATCHDOG=1"]
    assert manager.patience == [0.0] * 3 + [PATIENCE_S, 0.0]  # nobody's request waits for a sign of life
    notifier.end()
    assert not clock.getDelayedCalls()


@pytest.mark.parametrize(("address", "watchdog_s"), [(None, 10.0), ("/run/notify", 0.0)])
def test_signs_of_life_that_nobody_waits_for_are_not_given(address: str | None, watchdog_s: float) -> None:
    manager, clock = Manager(), Clock()
    notifier = Notifier(address, manager, watchdog_s)
    notifier.live(clock)
    assert not clock.getDelayedCalls()
    notifier.end()
    assert not manager.told


def test_an_impatient_manager_keeps_nobody_busy() -> None:
    manager, clock = Manager(), Clock()
    Notifier("/run/notify", manager, 1e-6).live(clock)
    clock.pump([MIN_BEAT_S / 4] * 8)
    assert len(manager.told) == 3


def test_signs_of_life_go_on_when_one_cannot_be_given_and_the_log_says_so_once() -> None:
    manager, clock = Manager(OSError("full")), Clock()
    notifier = Notifier("/run/notify", manager, 10.0)
    with logged_events() as events:
        notifier.live(clock)
        clock.pump([5.0] * 3)
        notifier.ready("now")
        manager.error = None
        clock.advance(5.0)
        manager.error = OSError("full again")
        clock.pump([5.0] * 2)
    assert len(manager.told) == 8
    assert [(event["word"], event["problem"]) for event in events] == [
        ("WATCHDOG=1", "full"),
        ("READY=1", "full"),
        ("WATCHDOG=1", "full again"),
    ]


@pytest.mark.parametrize(
    ("variables", "expected_s"),
    [
        ({}, 0.0),
        ({"WATCHDOG_PID": str(PID)}, 0.0),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": str(PID)}, 1.5),
        ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": str(PID + 1)}, 0.0),
        ({"WATCHDOG_USEC": "nonsense", "WATCHDOG_PID": str(PID + 1)}, 0.0),
    ],
)
def test_the_watchdog_s_time_is_taken_if_it_is_for_this_process(variables: dict[str, str], expected_s: float) -> None:
    environ = {**variables, "PATH": "/bin"}
    assert take_watchdog_s(environ, PID) == expected_s
    assert environ == {"PATH": "/bin"}


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "x", "\u0661", "9" * 20])
def test_a_watchdog_s_time_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a number of microseconds above zero"):
        take_watchdog_s({"WATCHDOG_USEC": text}, PID)


@pytest.mark.parametrize("is_abstract", [False, True])
def test_datagrams_go_to_paths_and_to_abstract_names(tmp_path: Path, is_abstract: bool) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(f"\0{path}" if is_abstract else path)
        send_datagram(f"@{path}" if is_abstract else path, b"READY=1")
        receiver.setblocking(False)
        assert receiver.recv(100) == b"READY=1"


def test_a_socket_that_is_full_is_not_waited_for_where_there_is_no_patience(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(path)
        with pytest.raises(BlockingIOError):
            for _ in range(100_000):
                send_datagram(path, b"WATCHDOG=1", 0.0)


def test_other_addresses_are_refused() -> None:
    with pytest.raises(ValueError, match="expected the path of a socket"):
        send_datagram("vsock:2:1234", b"READY=1")


def test_nobody_at_the_address_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        send_datagram(str(tmp_path / "nobody"), b"READY=1")
