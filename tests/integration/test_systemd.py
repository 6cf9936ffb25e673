"""A gateway under a process manager in systemd's manner: it accepts from sockets that were passed, and tells how it is."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import pytest
import trustme
from tests.integration.backend import Exchange, ScriptedBackend
from tests.integration.client import Client
from tests.integration.crew import Crew
from tests.integration.harness import PATIENCE_S, Gateway, NotStarted, free_port, routes, wait_until
from tests.integration.reloads import FAILED, ReloadingGateway, document, fixed
from tests.integration.secure import TlsClient, certificate_variables, client_context

HELLO = routes({"routes": [{"name": "all", "path": "/", "response": {"body": "hello"}}]})
GET = b"GET / HTTP/1.1\r\nHost: gateway.test\r\nConnection: close\r\n\r\n"
#: Does what a process manager does between fork and exec. It has no other way to know its number beforehand.
LAUNCHER = """
import fcntl, os, sys
count = int(sys.argv[1])
given = [int(argument) for argument in sys.argv[2 : 2 + count]]
high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 100) for descriptor in given]
for descriptor in given:
    os.close(descriptor)
for number, descriptor in enumerate(high):
    os.dup2(descriptor, 3 + number)
os.environ.setdefault("LISTEN_PID", str(os.getpid()))
os.execv(sys.argv[2 + count], sys.argv[2 + count :])
"""


class Managed(Gateway):
    """A gateway to which sockets are passed.

    Args:
        sockets: in order; they stay the test's, too.
    """

    def __init__(self, directory: Path, environment: Mapping[str, str], sockets: Sequence[socket.socket]) -> None:
        super().__init__(directory, {"LISTEN_FDS": str(len(sockets)), **environment})
        self.passed = [sock.fileno() for sock in sockets]

    def command(self) -> list[str]:
        numbers = [str(descriptor) for descriptor in self.passed]
        return [sys.executable, "-c", LAUNCHER, str(len(numbers)), *numbers, *super().command()]


@pytest.fixture
def opened() -> Iterator[list[socket.socket]]:
    """Three sockets that listen, as a process manager opens them."""
    with ExitStack() as stack:
        found = []
        for _ in range(3):
            sock = stack.enter_context(socket.socket())
            sock.bind(("127.0.0.1", 0))
            sock.listen(16)
            found.append(sock)
        yield found


def port_of(sock: socket.socket) -> int:
    number: int = sock.getsockname()[1]
    return number


def asked(port: int) -> tuple[int, bytes]:
    """Status and body."""
    with Client(port) as client:
        client.send(GET)
        response = client.read_response()
        return response.status, response.body


# --- sockets ---------------------------------------------------------------------------------------------------------


def test_traffic_is_accepted_from_the_socket_that_was_passed(tmp_path: Path, opened: list[socket.socket]) -> None:
    unused = free_port()
    with Managed(tmp_path, {**HELLO, "GATEWAY_PORT": str(unused)}, opened[:1]) as gateway:
        assert gateway.port == port_of(opened[0])
        assert asked(gateway.port) == (200, b"hello")
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", unused)) != 0


def test_who_comes_between_two_gateways_waits_and_is_served(tmp_path: Path, opened: list[socket.socket]) -> None:
    with Managed(tmp_path, HELLO, opened[:1]) as first:
        assert asked(first.port) == (200, b"hello")
    with Client(port_of(opened[0])) as waiting:  # nobody accepts now, but nobody refuses either
        waiting.send(GET)
        with Managed(tmp_path, HELLO, opened[:1]):
            assert waiting.read_response().body == b"hello"


def test_sockets_go_to_listeners_in_their_order_and_the_last_to_the_redirect(
    tmp_path: Path, opened: list[socket.socket], authority: trustme.CA
) -> None:
    environment = {
        **HELLO,
        **certificate_variables(tmp_path, authority),
        "GATEWAY_LISTEN": "tcp:1 tcp:2;plain",
        "GATEWAY_REDIRECT_PORT": "3",
    }
    context: ssl.SSLContext = client_context(authority)
    with Managed(tmp_path, environment, opened):
        with TlsClient(port_of(opened[0]), context) as client:
            client.send(GET)
            assert client.read_response().body == b"hello"
        assert asked(port_of(opened[1])) == (200, b"hello")
        with Client(port_of(opened[2])) as client:
            client.send(GET)
            response = client.read_response()
            assert (response.status, response.header("Location")) == (
                308,
                f"https://gateway.test:{port_of(opened[0])}/",
            )


def test_a_unix_socket_stays_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "gateway.sock"
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(str(path))
        path.chmod(0o600)
        opened.listen(16)
        with Managed(tmp_path, HELLO, [opened]), socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE_S)
            client.connect(str(path))
            client.sendall(GET)
            assert client.recv(15) == b"HTTP/1.1 200 OK"
        assert path.is_socket()
        assert path.stat().st_mode & 0o777 == 0o600


def test_another_number_of_sockets_than_of_listeners_is_refused(tmp_path: Path, opened: list[socket.socket]) -> None:
    with pytest.raises(NotStarted, match="status 78") as refused:
        Managed(tmp_path, HELLO, opened[:2]).start()
    assert "LISTEN_FDS: 2 sockets were passed for 1 listeners: expected one for each endpoint" in str(refused.value)
    assert "Traceback" not in str(refused.value)


def test_a_socket_that_does_not_listen_is_refused(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wrong:
        wrong.bind(("127.0.0.1", 0))
        with pytest.raises(NotStarted, match="status 1") as refused:
            Managed(tmp_path, HELLO, [wrong]).start()
    assert "is no stream socket that listens" in str(refused.value)


def test_sockets_for_another_process_are_left_alone(tmp_path: Path, opened: list[socket.socket]) -> None:
    with Managed(tmp_path, {**HELLO, "LISTEN_PID": "1"}, opened[:1]) as gateway:
        assert gateway.port != port_of(opened[0])
        assert asked(gateway.port) == (200, b"hello")


def test_an_endpoint_may_pick_its_socket_itself(tmp_path: Path, opened: list[socket.socket]) -> None:
    environment = {**HELLO, "GATEWAY_LISTEN": "systemd:domain=INET:name=b", "LISTEN_FDNAMES": "a:b"}
    with Managed(tmp_path, environment, opened[:2]) as gateway:
        assert gateway.port == port_of(opened[1])
        assert asked(gateway.port) == (200, b"hello")


# --- words -----------------------------------------------------------------------------------------------------------


class Manager:
    """The manager's end: what it was told, in order."""

    def __init__(self, directory: Path, *, is_abstract: bool = False) -> None:
        name = str(directory / "notify")
        self.address = f"@{name}" if is_abstract else name
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{name}" if is_abstract else name)
        self._socket.settimeout(PATIENCE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def next(self) -> list[str]:
        """What it is told next, line by line."""
        return self._socket.recv(4096).decode().splitlines()

    def is_told_nothing(self) -> bool:
        """Whether nothing has arrived that was not looked at."""
        self._socket.setblocking(False)
        try:
            self._socket.recv(4096)
        except BlockingIOError:
            return True
        return False


@pytest.mark.parametrize("is_abstract", [False, True])
def test_the_manager_is_told_when_it_is_ready_and_when_it_stops(tmp_path: Path, *, is_abstract: bool) -> None:
    with Manager(tmp_path, is_abstract=is_abstract) as manager:
        with Gateway(tmp_path, {**HELLO, "NOTIFY_SOCKET": manager.address}) as gateway:
            assert manager.next() == ["READY=1", "STATUS=1 routes, 0 backends"]
            assert gateway.admin("/health/ready").status == 200
        assert manager.next() == ["STOPPING=1", "STATUS=draining"]
        assert manager.is_told_nothing()


def test_ready_is_not_said_before_it_is_so(tmp_path: Path, backend: ScriptedBackend) -> None:
    def check(exchange: Exchange) -> None:
        asked_for.append(manager.is_told_nothing())
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    asked_for: list[bool] = []
    backend.script = check
    environment = {"GATEWAY_BACKEND_TARGET": backend.url, "GATEWAY_HEALTH_CHECK_PATH": "/up"}
    with Manager(tmp_path) as manager, Gateway(tmp_path, {**environment, "NOTIFY_SOCKET": manager.address}):
        assert asked_for[0]
        manager._socket.settimeout(PATIENCE_S)
        assert manager.next() == ["READY=1", "STATUS=1 routes, 1 backends"]


def test_stopping_is_said_when_the_drain_begins(tmp_path: Path) -> None:
    with Manager(tmp_path) as manager:
        environment = {**HELLO, "NOTIFY_SOCKET": manager.address, "GATEWAY_DRAIN_DELAY": "1h"}
        with Gateway(tmp_path, environment) as gateway:
            manager.next()
            os.kill(gateway.pid, signal.SIGTERM)
            assert manager.next()[0] == "STOPPING=1"
            assert asked(gateway.port) == (200, b"hello")  # and it goes on for as long as it was told to
            gateway.stop()
        assert manager.is_told_nothing()


def monotonic_of(told: list[str]) -> int:
    """Microseconds of the message that a reload has begun."""
    word, moment, _ = told
    name, _, text = moment.partition("=")
    assert (word, name) == ("RELOADING=1", "MONOTONIC_USEC")
    return int(text)


def test_a_reload_is_told_from_its_begin_to_its_end_whatever_comes_of_it(tmp_path: Path) -> None:
    with Manager(tmp_path) as manager:
        environment = {"NOTIFY_SOCKET": manager.address}
        with ReloadingGateway(tmp_path, document(fixed("a", "one")), environment) as gateway:
            assert manager.next()[0] == "READY=1"
            gateway.write(document(fixed("a", "two"), fixed("b", "new")))
            before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            gateway.hang_up()
            begun = manager.next()
            assert before <= monotonic_of(begun) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            assert manager.next() == ["READY=1", "STATUS=2 routes, 0 backends"]
            assert gateway.get("/a").body == b"two"  # it is over when it is said to be
            gateway.write("nonsense")
            gateway.hang_up()
            assert manager.next()[0] == "RELOADING=1"
            word, status = manager.next()
            assert (word, status.partition(": ")[0]) == ("READY=1", f"STATUS={FAILED}")
            assert gateway.get("/b").body == b"new"
        assert manager.next()[0] == "STOPPING=1"
        assert manager.is_told_nothing()


def test_reloads_that_are_asked_for_at_once_end_once(tmp_path: Path) -> None:
    with Manager(tmp_path) as manager:
        environment = {"NOTIFY_SOCKET": manager.address}
        with ReloadingGateway(tmp_path, document(fixed("a", "one")), environment) as gateway:
            manager.next()
            gateway.hang_up()
            assert manager.next()[0] == "RELOADING=1"
            gateway.write(document(fixed("a", "two")))
            gateway.hang_up()  # while the first one is under way
            told = [manager.next()]
            while told[-1][0] == "RELOADING=1":
                told.append(manager.next())
            assert len(told) > 1
            assert gateway.get("/a").body == b"two"
        assert manager.next()[0] == "STOPPING=1"
        assert manager.is_told_nothing()


def test_signs_of_life_are_given_from_the_start_through_the_drain(tmp_path: Path) -> None:
    with Manager(tmp_path) as manager:
        environment = {
            **HELLO,
            "NOTIFY_SOCKET": manager.address,
            "WATCHDOG_USEC": "100000",
            "GATEWAY_DRAIN_DELAY": "1h",
        }
        with Gateway(tmp_path, environment) as gateway:
            heard = [manager.next() for _ in range(6)]
            assert sorted(told[0] for told in heard) == ["READY=1"] + ["WATCHDOG=1"] * 5
            os.kill(gateway.pid, signal.SIGTERM)
            while manager.next()[0] != "STOPPING=1":
                pass
            assert [manager.next() for _ in range(2)] == [["WATCHDOG=1"]] * 2
            gateway.stop()


@pytest.mark.parametrize("variables", [{}, {"WATCHDOG_USEC": "20000", "WATCHDOG_PID": "1"}])
def test_signs_of_life_that_are_not_asked_of_this_process_are_not_given(
    tmp_path: Path, variables: dict[str, str]
) -> None:
    with Manager(tmp_path) as manager:
        with Gateway(tmp_path, {**HELLO, **variables, "NOTIFY_SOCKET": manager.address}) as gateway:
            assert manager.next()[0] == "READY=1"
            assert asked(gateway.port) == (200, b"hello")
        assert manager.next()[0] == "STOPPING=1"
        assert manager.is_told_nothing()


def test_a_watchdog_s_time_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotStarted, match="status 78") as refused:
        Gateway(tmp_path, {**HELLO, "WATCHDOG_USEC": "soon"}).start()
    assert "WATCHDOG_USEC: 'soon' is not accepted: expected a number of microseconds above zero" in str(refused.value)


def test_a_manager_that_does_not_listen_keeps_nothing_from_working(tmp_path: Path) -> None:
    with Gateway(tmp_path, {**HELLO, "NOTIFY_SOCKET": str(tmp_path / "nobody")}) as gateway:
        line = gateway.wait_for_line(word="READY=1")
        assert line["level"] == "WARN"
        assert asked(gateway.port) == (200, b"hello")


# --- with workers ----------------------------------------------------------------------------------------------------


def test_workers_accept_from_what_their_supervisor_was_given_and_it_alone_speaks(
    tmp_path: Path, opened: list[socket.socket]
) -> None:
    with Manager(tmp_path) as manager:
        environment = {**HELLO, "GATEWAY_WORKERS": "2", "NOTIFY_SOCKET": manager.address}
        gateway = Managed(tmp_path, environment, opened[:1])
        gateway.start_patience_s = 3 * PATIENCE_S  # three processes start, one after the other
        with gateway:
            assert manager.next()[0] == "READY=1"
            assert asked(port_of(opened[0])) == (200, b"hello")
            wait_until(lambda: len(gateway.status()["workers"]) == 2, "two workers")
            for worker in gateway.status()["workers"]:
                variables = Path(f"/proc/{worker['pid']}/environ").read_bytes().split(b"\0")
                assert not [one for one in variables if one.startswith((b"LISTEN_", b"NOTIFY_", b"WATCHDOG_"))]
        assert manager.next() == ["STOPPING=1", "STATUS=draining"]
        assert manager.is_told_nothing()


def test_a_reload_of_workers_is_over_when_it_is_over_for_all(tmp_path: Path) -> None:
    with Manager(tmp_path) as manager:
        path = tmp_path / "routes.json"
        path.write_text(json.dumps(document(fixed("a", "one"))), encoding="utf-8")
        environment = {"GATEWAY_ROUTES_FILE": str(path), "NOTIFY_SOCKET": manager.address}
        with Crew(tmp_path, environment) as gateway:
            assert manager.next()[0] == "READY=1"
            clients = [client for (client,) in gateway.clients(each=1).values()]
            path.write_text(json.dumps(document(fixed("a", "two"))), encoding="utf-8")
            os.kill(gateway.pid, signal.SIGHUP)
            monotonic_of(manager.next())
            assert manager.next() == ["READY=1", "STATUS=1 routes, 0 backends"]
            for client in clients:
                client.send(b"GET /a HTTP/1.1\r\nHost: gateway.test\r\n\r\n")
                assert client.read_response().body == b"two"
            path.write_text("nonsense", encoding="utf-8")
            os.kill(gateway.pid, signal.SIGHUP)
            monotonic_of(manager.next())
            word, status = manager.next()  # both workers say the same, which is said once
            assert (word, status.count(FAILED)) == ("READY=1", 1)
        assert manager.next()[0] == "STOPPING=1"
        assert manager.is_told_nothing()


def test_the_supervisor_alone_gives_signs_of_life(tmp_path: Path) -> None:
    with Manager(tmp_path) as manager:
        environment = {**HELLO, "NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "100000"}
        with Crew(tmp_path, environment) as gateway:
            while manager.next() != ["WATCHDOG=1"]:
                pass
            for pid in gateway.pids():
                variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                assert not [one for one in variables if one.startswith((b"NOTIFY_", b"WATCHDOG_"))]
