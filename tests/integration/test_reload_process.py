"""Reloads as the process sees them: the child, signals that come in heaps, memory, certificates."""

from __future__ import annotations

import os
import signal
import ssl
import threading
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import trustme
from tests.integration.backend import Exchange, ScriptedBackend
from tests.integration.harness import Line, wait_until
from tests.integration.reloads import FAILED, ReloadingGateway, document, fixed, route
from tests.integration.secure import HOST, TlsClient, certificate_variables, client_context, write_pair

MIB = 2**20


def children_of(pid: int) -> list[str]:
    """States of its children, by /proc: ``Z`` for a zombie."""
    states = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text(encoding="latin-1").rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if fields[1] == str(pid):
            states.append(fields[0])
    return states


def is_running(pid: int) -> bool:
    """Whether it is there, and no zombie whose parent is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="latin-1").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def child_pid(gateway: ReloadingGateway) -> int:
    """The child's number, once there is one and it runs a program of its own."""
    found: list[int] = []

    def look() -> bool:
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                parent = path.read_text(encoding="latin-1").rpartition(")")[2].split()[1]
                command = (path.parent / "cmdline").read_bytes()
            except OSError:
                continue
            if parent == str(gateway.pid) and b"txgateway.reloading" in command:
                found.append(int(path.parent.name))
        return bool(found)

    wait_until(look, "there is a child")
    return found[0]


def test_many_signals_at_once_end_with_the_last_state(tmp_path: Path) -> None:
    with ReloadingGateway(tmp_path, document(fixed("a", "0"))) as gateway:
        for number in range(1, 51):
            gateway.write(document(fixed("a", str(number))))
            gateway.hang_up()
        wait_until(lambda: gateway.get("/a").body == b"50", "the last one is in force")
        wait_until(lambda: not children_of(gateway.pid), "nothing runs any more")

        def told(event: str) -> int:
            return sum(line["event"] == event for line in gateway.lines)

        # The child's end is not yet that of the reload.
        wait_until(lambda: told("reloading") == told("reloaded"), "each that was begun has ended")
        assert told("reloading") <= 10


def test_change_during_a_reload_is_not_lost(tmp_path: Path) -> None:
    with ReloadingGateway(tmp_path, document(fixed("a", "one"))) as gateway:
        gateway.write(document(fixed("a", "two")))
        gateway.hang_up()
        child_pid(gateway)
        gateway.write(document(fixed("a", "three")))
        gateway.hang_up()
        wait_until(lambda: gateway.get("/a").body == b"three", "the last one is in force")


def test_child_that_is_killed_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "ours.py").write_text("import time\ntime.sleep(60)\n")
    environment = {"PYTHONPATH": str(tmp_path)}
    with ReloadingGateway(tmp_path, document(fixed("a", "one")), environment) as gateway:
        gateway.write(document(route("m", resource="ours:site")))
        gateway.hang_up()
        os.kill(child_pid(gateway), signal.SIGKILL)
        assert "signal 9" in gateway.wait_for_line(event=FAILED)["problem"]
        assert gateway.metric("gateway_config_reload_success") == 0
        assert gateway.get("/a").body == b"one"
        wait_until(lambda: not children_of(gateway.pid), "it is gone")
        gateway.reload(document(fixed("a", "two")))
        assert gateway.get("/a").body == b"two"


def test_child_that_fails_is_told_by_its_last_words(tmp_path: Path) -> None:
    (tmp_path / "ours.py").write_text(
        "import os, sys\nsys.stderr.write('out of luck\\n')\nsys.stderr.flush()\nos._exit(3)\n"
    )
    with ReloadingGateway(tmp_path, document(fixed("a", "one")), {"PYTHONPATH": str(tmp_path)}) as gateway:
        line = gateway.fail_to_reload(document(route("m", resource="ours:site")))
        assert line["problem"].endswith("out of luck")


def test_stop_while_a_child_hangs(tmp_path: Path) -> None:
    (tmp_path / "ours.py").write_text("import time\ntime.sleep(60)\n")
    with ReloadingGateway(tmp_path, document(fixed("a", "one")), {"PYTHONPATH": str(tmp_path)}) as gateway:
        gateway.write(document(route("m", resource="ours:site")))
        gateway.hang_up()
        pid = child_pid(gateway)
        gateway.stop()
        assert not is_running(pid)
        assert not any(line["event"] == FAILED for line in gateway.lines)


def test_signal_during_the_drain_is_ignored(tmp_path: Path, backend: ScriptedBackend) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def held(exchange: Exchange) -> None:
        begun.set()
        assert go_on.wait(10)
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    backend.script = held
    before = document(route("a", "b"), b=[backend.url])
    with ReloadingGateway(tmp_path, before, {"GATEWAY_DRAIN_TIMEOUT": "10s"}) as gateway:
        with gateway.client() as client:
            client.send(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n")
            assert begun.wait(10)
            os.kill(gateway.pid, signal.SIGTERM)
            wait_until(lambda: gateway.admin("/health/ready").status == 503, "the drain has begun")
            gateway.write(document(fixed("x", "x")))
            for _ in range(3):
                gateway.hang_up()
            assert gateway.admin("/health/live").status == 200
            assert children_of(gateway.pid) == []
            go_on.set()
            assert client.read_response().body == b"ok"
        assert gateway.stop() == 0
        assert not any(line["event"] == "reloading" for line in gateway.lines)


def many(generation: int, count: int = 1000) -> dict[str, Any]:
    """Routes that are others in each generation."""
    routes = [
        route(f"r{number}", "b", timeout={"total": f"{generation + 1}s"}, rate_limit={"rate": f"{generation + 5}/s"})
        for number in range(count)
    ]
    return document(*routes, b={"targets": ["http://127.0.0.1:9"], "panic_percent": generation % 50})


def test_memory_does_not_grow_and_no_process_is_left(tmp_path: Path) -> None:
    with ReloadingGateway(tmp_path, many(0)) as gateway:
        for generation in range(1, 4):
            gateway.reload(many(generation))
        before = gateway.resident_bytes()
        for generation in range(4, 24):
            gateway.reload(many(generation))
        grown = gateway.resident_bytes() - before
        assert grown < 16 * MIB, f"{grown / MIB:.1f} MiB"
        wait_until(lambda: children_of(gateway.pid) == [], "no child and no zombie")
        assert len(list(Path(f"/proc/{gateway.pid}/fd").iterdir())) < 40


def moment(line: Line) -> float:
    return datetime.fromisoformat(line["ts"]).timestamp()


def test_changed_certificate_is_shown_at_once(tmp_path: Path, authority: trustme.CA) -> None:
    """And not when the files are looked at anyway, every five seconds."""
    environment = certificate_variables(tmp_path, authority)
    get = b"GET /a HTTP/1.1\r\nHost: gateway.test\r\n\r\n"
    with (
        ReloadingGateway(tmp_path, document(fixed("a", "one")), environment) as gateway,
        TlsClient(gateway.port, client_context(authority)) as kept,
    ):
        late_s = []
        for _ in range(4):
            other = trustme.CA()
            write_pair(tmp_path, "gateway", other.issue_cert(HOST))
            after = len(gateway.lines)
            reloaded = gateway.reload()
            late_s.append(moment(gateway.wait_for_line(after, event="certificate loaded")) - moment(reloaded))
            with TlsClient(gateway.port, client_context(other)) as client:
                client.send(get)
                assert client.read_response().body == b"one"
        assert sorted(late_s)[1] < 1, late_s
        with pytest.raises(ssl.SSLError):
            TlsClient(gateway.port, client_context(authority))
        kept.send(get)
        assert kept.read_response().body == b"one"


def test_broken_certificate_keeps_the_old_one_and_the_old_routes(tmp_path: Path, authority: trustme.CA) -> None:
    environment = certificate_variables(tmp_path, authority)
    with ReloadingGateway(tmp_path, document(fixed("a", "one")), environment) as gateway:
        (tmp_path / "gateway.crt").write_text("nothing")
        assert "GATEWAY_TLS_CERT_FILE" in gateway.fail_to_reload(document(fixed("a", "two")))["problem"]
        with TlsClient(gateway.port, client_context(authority)) as client:
            client.send(b"GET /a HTTP/1.1\r\nHost: gateway.test\r\n\r\n")
            assert client.read_response().body == b"one"


def test_changed_authority_of_a_backend_is_asked_from_then_on(tmp_path: Path, authority: trustme.CA) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    with ScriptedBackend(tls=context) as backend:
        secure = {"targets": [backend.url], "tls": {"ca_file": str(ca_file)}}
        before = document(route("a", "b", retry={"max_attempts": 1}), b=secure)
        with ReloadingGateway(tmp_path, before) as gateway:
            assert gateway.get("/a").status == 200
            ca_file.unlink()
            trustme.CA().cert_pem.write_to_path(str(ca_file))
            gateway.reload()
            assert gateway.get("/a").status in {502, 503}
            ca_file.unlink()
            authority.cert_pem.write_to_path(str(ca_file))
            gateway.reload()
            assert gateway.get("/a").status == 200
