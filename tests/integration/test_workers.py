"""A gateway of two processes is one gateway: to its clients, in its numbers, and when one of them dies."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
import trustme
from tests.integration.backend import OK, Exchange, ScriptedBackend, answer
from tests.integration.client import Client
from tests.integration.crew import Crew, is_alive, unix_client
from tests.integration.h2_client import H2Client
from tests.integration.h2_frames import h2_context
from tests.integration.harness import PATIENCE_S, Gateway, NotStarted, free_port, routes, wait_until
from tests.integration.secure import certificate_variables, client_context, get_over_tls

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
ANSWERS_ITSELF = routes({"routes": [{"name": "r", "path": "/", "response": {"status": 200, "body": "ok"}}]})


def ask(client: Client, request: bytes = GET) -> int:
    client.send(request)
    return client.read_response().status


# --- serving ----------------------------------------------------------------------------------------------------------


def test_each_of_two_processes_serves_and_the_supervisor_does_not(tmp_path: Path) -> None:
    with Crew(tmp_path, ANSWERS_ITSELF) as gateway:
        clients = gateway.clients(each=4)
        assert len(clients) == 2
        assert gateway.pid not in clients
        for some in clients.values():
            assert [ask(client) for client in some] == [200] * 4
        wait_until(lambda: all(row["connections"] >= 4 for row in gateway.rows()), "each worker tells its connections")
        rows = gateway.rows()
    assert [(row["index"], row["state"], row["restarts"]) for row in rows] == [(0, "ready", 0), (1, "ready", 0)]
    assert all(row["uptime_s"] > 0 for row in rows)
    assert {line["worker"] for line in gateway.lines if line["event"] == "ready"} == {0, 1}
    assert (
        len([line for line in gateway.lines if line["event"] == "listening"]) == 2
    )  # traffic and admin, not a worker's


def test_metrics_and_status_count_every_request_once(tmp_path: Path, backend: ScriptedBackend) -> None:
    with Crew(tmp_path, {"GATEWAY_BACKEND_TARGET": backend.url}) as gateway:
        backend.script = answer()
        clients = [gateway.client() for _ in range(16)]
        for client in clients * 5:
            assert ask(client) == 200
        assert gateway.metric("gateway_requests_total", route="default", method="GET", status="200") == 80
        assert gateway.metric("gateway_request_duration_seconds_count", route="default", method="GET") == 80
        assert gateway.metric("gateway_connections", protocol="h1") == 16
        assert gateway.metric("gateway_workers", state="ready") == 2
        assert gateway.metric("gateway_workers", state="starting") == 0
        assert gateway.metric("gateway_build_info", version="0.1.0") == 1
        assert gateway.metric("gateway_target_healthy", backend="default", target=f"127.0.0.1:{backend.port}") == 1
        status = gateway.status()
        assert status["state"] == "ready"
        assert status["connections"]["h1"] == status["totals"]["connections"] == 16
        assert status["totals"]["requests"] == status["routes"][0]["activity"]["requests"] == 80
        (target,) = status["backends"][0]["targets"]
        assert target["outcomes"]["ok"] == 80
        assert target["health"] == "healthy"
        openmetrics = gateway.admin("/metrics", "Accept: application/openmetrics-text").body.decode()
        assert openmetrics.endswith("# EOF\n")
        assert openmetrics.count("# TYPE gateway_requests counter\n") == 1
        history = gateway.admin("/status/history").json()
        assert history["samples"]
        assert gateway.admin("/config").json()["settings"]["GATEWAY_WORKERS"]["value"] in {2, "2"}
        assert gateway.admin("/").status == 200
        assert gateway.admin("/health/ready").json() == {"status": "ready", "sick_backends": []}
        for client in clients:
            client.close()


def test_limits_in_memory_hold_over_all_workers(tmp_path: Path) -> None:
    document = {"routes": [{"name": "r", "path": "/", "rate_limit": {"rate": "60/h", "key": "route"},
                            "response": {"status": 200}}]}  # fmt: skip
    with Crew(tmp_path, routes(document)) as gateway:
        statuses: dict[int, Counter[int]] = {}
        for pid, (client,) in gateway.clients(each=1).items():
            statuses[pid] = Counter(ask(client) for _ in range(60))
        total = gateway.metric("gateway_rate_limit_decisions_total", route="r", decision="allowed")
    # Some of each worker's thirty went to the connections before these.
    assert all(0 < count[200] < 30 for count in statuses.values()), statuses
    assert total == 60


def test_tls_and_http2_work_as_they_do_in_one_process(
    tmp_path: Path, backend: ScriptedBackend, authority: trustme.CA
) -> None:
    environment = {"GATEWAY_BACKEND_TARGET": backend.url, "GATEWAY_REDIRECT_PORT": "0",
                   **certificate_variables(tmp_path, authority)}  # fmt: skip
    with Crew(tmp_path, environment) as gateway:
        listening = {line["listener"]: line for line in gateway.lines if line["event"] == "listening"}
        assert {name: line["tls"] for name, line in listening.items()} == {
            "traffic": True, "redirect": False, "admin": False,
        }  # fmt: skip
        for _ in range(6):
            assert get_over_tls(gateway, client_context(authority)).status == 200
            with H2Client(gateway.port, h2_context(authority)) as client:
                stream = client.request("GET", "/")
                assert client.response(stream).status == 200
        with Client(listening["redirect"]["port"]) as plain:
            assert ask(plain) == 308


def test_unix_listeners_keep_their_mode_until_the_end(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with Crew(
        tmp_path, {**ANSWERS_ITSELF, "GATEWAY_LISTEN": f"unix:{path}:mode=600 tcp:0:interface=127.0.0.1"}
    ) as gateway:
        assert path.stat().st_mode & 0o777 == 0o600
        for _ in range(8):
            with unix_client(path) as client:
                assert ask(client) == 200
        os.kill(gateway.pids()[0], signal.SIGTERM)  # one worker ends: the path is not its own
        wait_until(lambda: gateway.rows()[0]["restarts"] == 1, "it is started again")
        gateway.wait_until_ready()
        assert path.stat().st_mode & 0o777 == 0o600
        with unix_client(path) as client:
            assert ask(client) == 200
    assert not path.exists()


# --- deaths -----------------------------------------------------------------------------------------------------------


def test_killed_worker_takes_its_own_connections_and_comes_back(tmp_path: Path) -> None:
    with Crew(tmp_path, ANSWERS_ITSELF) as gateway:
        clients = gateway.clients(each=4)
        victim, survivor = clients
        answered: Counter[int] = Counter()
        lost: Counter[int] = Counter()
        is_over = threading.Event()

        def load(pid: int, client: Client) -> None:
            while not is_over.is_set():
                try:
                    assert ask(client) == 200
                except Exception:  # noqa: BLE001 -- whatever way it ends
                    lost[pid] += 1
                    return
                answered[pid] += 1

        threads = [threading.Thread(target=load, args=(pid, client)) for pid in clients for client in clients[pid]]
        for thread in threads:
            thread.start()
        wait_until(lambda: min(answered[victim], answered[survivor]) > 50, "all are at work")
        os.kill(victim, signal.SIGKILL)
        for _ in range(20):
            with gateway.client() as client:  # whoever comes meanwhile is served by the other one
                assert ask(client) == 200
        before = answered[survivor]
        wait_until(lambda: answered[survivor] > before + 50, "the other one goes on")
        wait_until(lambda: gateway.rows()[0]["restarts"] == 1, "it is started again")
        gateway.wait_until_ready()
        is_over.set()
        for thread in threads:
            thread.join(PATIENCE_S)
        assert lost == {victim: 4}
        assert victim not in gateway.pids()
        gateway.clients(each=2)
        assert gateway.metric("gateway_worker_restarts_total") == 1
    (line,) = [line for line in gateway.lines if line["event"] == "worker ended"]
    assert (line["how"], line["index"], line["starts_again_in_s"]) == ("signal 9 (Killed)", 0, 0.5)


def test_counters_outlive_their_process(tmp_path: Path) -> None:
    with Crew(tmp_path, ANSWERS_ITSELF) as gateway:
        clients = gateway.clients(each=1)
        for _ in range(20):
            for (client,) in clients.values():
                assert ask(client) == 200
        before = gateway.metric("gateway_requests_total", route="r", method="GET", status="200")
        assert before >= 42
        assert gateway.status()["totals"]["requests"] == before
        os.kill(next(iter(clients)), signal.SIGKILL)
        wait_until(lambda: gateway.rows()[0]["restarts"] == 1, "it is started again")
        gateway.wait_until_ready()
        assert gateway.metric("gateway_requests_total", route="r", method="GET", status="200") == before
        status = gateway.status()
        assert status["totals"]["requests"] == status["routes"][0]["activity"]["requests"] == before
        assert gateway.metric("gateway_connections", protocol="h1") == 1  # of the other one: gauges do not
        assert gateway.get("/").status == 200
        assert gateway.metric("gateway_requests_total", route="r", method="GET", status="200") == before + 1


def test_worker_that_ends_in_order_leaves_its_last_numbers(tmp_path: Path) -> None:
    with Crew(tmp_path, ANSWERS_ITSELF) as gateway:
        clients = gateway.clients(each=1)
        counts = {pid: [ask(client) for _ in range(30)] for pid, (client,) in clients.items()}
        assert all(count == [200] * 30 for count in counts.values())
        os.kill(next(iter(clients)), signal.SIGTERM)  # at once: nobody has asked it for its numbers
        wait_until(lambda: gateway.rows()[0]["restarts"] == 1, "it is started again")
        assert gateway.metric("gateway_requests_total", route="r", method="GET", status="200") >= 62


def test_worker_that_does_not_answer_is_left_out_and_counted(tmp_path: Path) -> None:
    with Crew(tmp_path, ANSWERS_ITSELF) as gateway:
        clients = gateway.clients(each=2)
        before = gateway.metric("gateway_requests_total", route="r", method="GET", status="200")
        frozen = next(iter(clients))
        os.kill(frozen, signal.SIGSTOP)
        try:
            assert gateway.metric("gateway_requests_total", route="r", method="GET", status="200") == before
            assert gateway.metric("gateway_connections", protocol="h1") == 2
            assert gateway.metric("gateway_worker_unanswered_total") >= 1
            assert gateway.status()["totals"]["requests"] == before
        finally:
            os.kill(frozen, signal.SIGCONT)
        wait_until(lambda: gateway.metric("gateway_connections", protocol="h1") == 4, "it answers again")


def test_workers_end_when_their_supervisor_is_killed(tmp_path: Path, backend: ScriptedBackend) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def held(exchange: Exchange) -> None:
        begun.set()
        assert go_on.wait(PATIENCE_S)
        exchange.send(OK)

    backend.script = held
    gateway = Crew(tmp_path, {"GATEWAY_BACKEND_TARGET": backend.url})
    gateway.start()
    pids = gateway.pids()
    with gateway.client() as client:
        client.send(GET)
        assert begun.wait(PATIENCE_S)
        os.kill(gateway.pid, signal.SIGKILL)
        gateway.wait_for_line(event="supervisor gone")
        go_on.set()
        assert client.read_response().status == 200
    wait_until(lambda: not any(is_alive(pid) for pid in pids), "the workers are gone")
    assert gateway.stop(is_checked=False) == -signal.SIGKILL


# --- the end ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_requests_under_way_are_finished_before_the_end(
    tmp_path: Path, backend: ScriptedBackend, number: signal.Signals
) -> None:
    go_on = threading.Event()
    begun = threading.Semaphore(0)

    def held(exchange: Exchange) -> None:
        if exchange.request.target == b"/held":
            begun.release()
            assert go_on.wait(PATIENCE_S)
        exchange.send(OK)

    backend.script = held
    with Crew(tmp_path, {"GATEWAY_BACKEND_TARGET": backend.url}) as gateway:
        clients = [client for (client,) in gateway.clients(each=1).values()]
        for client in clients:
            client.send(b"GET /held HTTP/1.1\r\nHost: a\r\n\r\n")
            assert begun.acquire(timeout=PATIENCE_S)
        os.kill(gateway.pid, number)
        wait_until(lambda: gateway.admin("/health/ready").status == 503, "readiness says no")
        assert gateway.admin("/health/ready").json()["status"] == "draining"
        assert gateway.admin("/health/live").status == 200
        wait_until(lambda: _is_refused(gateway.port), "the listener is closed")
        assert set(gateway.states()) == {"draining"}
        go_on.set()
        for client in clients:
            response = client.read_response()
            assert (response.status, response.header("Connection")) == (200, "close")
        assert gateway.stop() == 0
    assert not [line for line in gateway.lines if line["level"] == "ERROR"]


def _is_refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return True
    return False


def test_delay_is_kept_and_the_second_signal_ends_it(tmp_path: Path, backend: ScriptedBackend) -> None:
    environment = {"GATEWAY_BACKEND_TARGET": backend.url, "GATEWAY_DRAIN_DELAY": "1h"}
    with Crew(tmp_path, environment) as gateway:
        os.kill(gateway.pid, signal.SIGTERM)
        wait_until(lambda: gateway.admin("/health/ready").status == 503, "readiness says no")
        assert gateway.get("/").status == 200
        os.kill(gateway.pid, signal.SIGTERM)
        assert gateway.stop() == 0


@pytest.mark.parametrize("supervisor_first", [True, False])
def test_signal_to_all_processes_of_a_service_is_one_signal(
    tmp_path: Path, backend: ScriptedBackend, supervisor_first: bool
) -> None:
    """As systemd sends it, and as the supervisor passes it on besides."""
    backend.script = answer()
    environment = {"GATEWAY_BACKEND_TARGET": backend.url, "GATEWAY_DRAIN_DELAY": "1h"}
    with Crew(tmp_path, environment) as gateway:
        pids = gateway.pids()
        if supervisor_first:
            os.kill(gateway.pid, signal.SIGTERM)
            wait_until(lambda: set(gateway.states()) == {"draining"}, "it has passed the signal on")
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
        if not supervisor_first:
            os.kill(gateway.pid, signal.SIGTERM)
        wait_until(lambda: gateway.admin("/health/ready").status == 503, "readiness says no")
        wait_until(lambda: set(gateway.states()) == {"draining"}, "all drain")
        assert gateway.get("/").status == 200
        assert gateway.pids() == pids
        assert all(os.getpgid(pid) == pid for pid in pids)  # nor does the terminal's reach them twice
        os.kill(gateway.pid, signal.SIGTERM)
        assert gateway.stop() == 0


# --- starts that fail -------------------------------------------------------------------------------------------------

#: A resource's module that does what a test wants in workers only: their parent is a twistd.
_MODULE = """
import os
from pathlib import Path
from twisted.web.static import Data

if b"twistd" in Path(f"/proc/{os.getppid()}/cmdline").read_bytes():
    %s

made = Data(b"ok", "text/plain")
"""


def _mounted(directory: Path, act: str) -> dict[str, str]:
    (directory / "mounted.py").write_text(_MODULE % act, encoding="utf-8")
    document = {"routes": [{"name": "r", "path": "/", "resource": "mounted:made"}]}
    return {**routes(document), "PYTHONPATH": str(directory), "GATEWAY_WORKERS": "2"}


@pytest.mark.parametrize(
    ("act", "status"), [("raise SystemExit(1)", 1), ("raise ImportError('no')", 78), ("os._exit(78)", 78)]
)
def test_first_start_that_is_hopeless_ends_all(tmp_path: Path, act: str, status: int) -> None:
    gateway = Gateway(tmp_path, _mounted(tmp_path, act))
    with pytest.raises(NotStarted, match=f"ended with status {status}"):
        gateway.start()
    assert not [line for line in gateway.lines if line.get("starts_again_in_s")]
    (line,) = [line for line in gateway.lines if line["event"] == "giving up"]
    assert f"status {status}" in line["message"]


def test_crash_loop_ends_all(tmp_path: Path) -> None:
    act = "import threading; threading.Timer(0.3, os._exit, [3]).start()"
    gateway = Gateway(tmp_path, _mounted(tmp_path, act))
    with suppress(NotStarted):  # a worker may be ready before it dies
        gateway.start()
    gateway.wait_for_line(event="giving up")
    assert gateway._process.wait(PATIENCE_S) == 1
    gateway.stop(is_checked=False)
    ended = [line["how"] for line in gateway.lines if line["event"] == "worker ended"]
    assert ended[:4] == ["status 3"] * 4


def test_port_in_use_ends_the_start_with_status_1(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        environment = {**ANSWERS_ITSELF, "GATEWAY_WORKERS": "2", "GATEWAY_PORT": str(taken.getsockname()[1])}
        with pytest.raises(NotStarted, match="ended with status 1"):
            Gateway(tmp_path, environment).start()


# --- what they share --------------------------------------------------------------------------------------------------


def test_targets_are_checked_by_one_worker_and_the_next_one_goes_on(tmp_path: Path, backend: ScriptedBackend) -> None:
    is_well = threading.Event()
    is_well.set()
    checks: list[int] = []

    def script(exchange: Exchange) -> None:
        if exchange.request.target == b"/check":
            checks.append(exchange.request.connection)
            exchange.send(OK if is_well.is_set() else OK.replace(b"200 OK", b"500 No"))
        else:
            exchange.send(OK)

    backend.script = script
    environment = {
        "GATEWAY_BACKEND_TARGET": backend.url, "GATEWAY_HEALTH_CHECK_PATH": "/check",
        "GATEWAY_HEALTH_CHECK_INTERVAL": "200ms", "GATEWAY_HEALTH_CHECK_FALL": "2", "GATEWAY_HEALTH_CHECK_RISE": "2",
    }  # fmt: skip
    with Crew(tmp_path, environment) as gateway:
        clients = gateway.clients(each=1)
        count, uptime_s = len(checks), gateway.status()["uptime_s"]
        wait_until(lambda: len(checks) >= count + 10, "ten checks")
        took_s = gateway.status()["uptime_s"] - uptime_s
        assert took_s > 10 * 0.2 * 0.75, "twice as many checks as one worker makes"
        is_well.clear()
        for (client,) in clients.values():
            wait_until(lambda client=client: ask(client) == 503, "each worker knows")  # type: ignore[misc]
        wait_until(lambda: gateway.admin("/health/ready").status == 503, "readiness says no")
        assert gateway.admin("/health/ready").json()["status"] == "no healthy target"
        (target,) = gateway.status()["backends"][0]["targets"]
        assert target["health"] == "unhealthy"
        pids = gateway.pids()
        first = gateway.wait_for_line(event="leading")["worker"]
        leader, follower = pids[first], pids[1 - first]
        os.kill(leader, signal.SIGKILL)
        gateway.wait_for_line(event="leading", worker=1 - first)
        (still,) = clients[follower]
        assert ask(still) == 503
        wait_until(lambda: gateway.rows()[first]["restarts"] == 1, "it is started again")
        wait_until(lambda: gateway.states().count("ready") == 2, "it is ready again")
        (newcomer,) = [some[0] for pid, some in gateway.clients(each=1).items() if pid != follower]
        assert ask(newcomer) == 503  # without a check of its own
        is_well.set()
        for client in (still, newcomer):
            wait_until(lambda client=client: ask(client) == 200, "each worker knows")  # type: ignore[misc]
        wait_until(lambda: gateway.admin("/health/ready").status == 200, "readiness says yes")
    told = [(line["worker"], line["state"]) for line in gateway.lines if line["event"] == "target health"]
    assert told == [(first, "unhealthy"), (1 - first, "healthy")]
    assert [line["worker"] for line in gateway.lines if line["event"] == "leading"] == [first, 1 - first]


def test_configuration_is_loaded_again_by_all(tmp_path: Path) -> None:
    path = tmp_path / "routes.json"

    def write(text: str) -> None:
        document = {"routes": [{"name": "r", "path": "/", "response": {"status": 200, "body": text}}]}
        path.write_text(json.dumps(document), encoding="utf-8")

    write("old")
    with Crew(tmp_path, {"GATEWAY_ROUTES_FILE": str(path)}) as gateway:
        clients = [client for (client,) in gateway.clients(each=1).values()]
        write("new")
        os.kill(gateway.pid, signal.SIGHUP)
        for index in range(2):
            gateway.wait_for_line(event="reloaded", worker=index)
        for client in clients:
            client.send(GET)
            assert client.read_response().body == b"new"


def test_log_file_is_opened_again_by_all(tmp_path: Path) -> None:
    log, moved = tmp_path / "log", tmp_path / "moved"
    port = free_port()
    environment = {**ANSWERS_ITSELF, "GATEWAY_PORT": str(port)}
    with Crew(tmp_path, environment, options=(f"--logfile={log}",)) as gateway:
        wait_until(lambda: not _is_refused(gateway.admin_port), "the admin port is there")
        gateway.wait_until_ready()
        gateway.port = port
        clients = [client for (client,) in gateway.clients(each=1).values()]
        log.rename(moved)
        os.kill(gateway.pid, signal.SIGUSR1)

        def is_in_new_file() -> bool:
            for client in clients:
                assert ask(client) == 200
            return log.exists() and log.read_text(encoding="utf-8").count('"event":"request"') >= 2

        wait_until(is_in_new_file, "all write to the new file")
        for client in clients:
            client.close()
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    assert {line.get("worker") for line in lines if line.get("message") == "Server Shut Down."} == {None, 0, 1}


def test_no_line_is_torn_under_load(tmp_path: Path) -> None:
    """Lines of a few hundred bytes beside such as no pipe takes at once; the harness looks at every line."""
    paths = ["/" + "x" * 10, "/" + "y" * 7000]
    with Crew(tmp_path, ANSWERS_ITSELF) as gateway:
        clients = [client for some in gateway.clients(each=3).values() for client in some]

        def load(client: Client, number: int) -> None:
            for count in range(150):
                path = paths[(count + number) % 2]
                assert ask(client, f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode() * 1) == 200

        threads = [threading.Thread(target=load, args=item) for item in zip(clients, range(6), strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(3 * PATIENCE_S)
        assert gateway.status()["log_lines_dropped"] == 0
    found = Counter(line["path"][:2] for line in gateway.lines if line["event"] == "request")
    assert (found["/x"], found["/y"]) == (450, 450)
