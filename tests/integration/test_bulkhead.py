"""A route at its limit, over real sockets: who is refused, who waits, and when a place is free again."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator

import pytest
from tests.integration.backend import OK, Exchange, Script, ScriptedBackend, answer, hang
from tests.integration.client import Client
from tests.integration.harness import Gateway, routes, wait_until
from tests.integration.problems import assert_problem

SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n"
BEGUN = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n"
LEAVE: list[Callable[[Client], None]] = [Client.close, Client.reset]
PATIENT = {"max_concurrent": 1, "max_queue": 3, "queue_timeout": "30s"}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, module_backend: ScriptedBackend) -> Iterator[Gateway]:
    document = {
        "backends": {"main": {"targets": [module_backend.url]}},
        "routes": [
            {"name": "one", "path": "/one", "backend": "main", "upgrades": ["echo"]},
            {"name": "two", "path": "/two", "backend": "main", "bulkhead": {"max_concurrent": 2}},
            {"name": "queue", "path": "/queue", "backend": "main", "bulkhead": PATIENT},
            {"name": "hasty", "path": "/hasty", "backend": "main", "bulkhead": {**PATIENT, "queue_timeout": "300ms"}},
            {
                "name": "short",
                "path": "/short",
                "backend": "main",
                "timeout": {"total": "300ms"},
                "bulkhead": PATIENT,
            },
            {"name": "fixed", "path": "/fixed", "response": {"status": 200, "body": "fixed"}},
        ],
    }
    environment = {**routes(document), "GATEWAY_BULKHEAD_MAX_CONCURRENT": "1"}
    with Gateway(tmp_path_factory.mktemp("gateway"), environment) as running:
        yield running


@pytest.fixture(autouse=True)
def _all_is_free_afterwards(gateway: Gateway, backend: ScriptedBackend) -> Iterator[None]:
    yield
    gateway.wait_until_free()


def get(path: str) -> bytes:
    return b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % path.encode()


class Held:
    """A script that answers when it is told to; one for any number of requests."""

    def __init__(self, data: bytes = OK) -> None:
        self._go_on = threading.Semaphore(0)
        self._data = data

    def __call__(self, exchange: Exchange) -> None:
        exchange.read_body()
        assert self._go_on.acquire(timeout=10)
        exchange.send(self._data)

    def answer_one(self) -> None:
        self._go_on.release()


def started(gateway: Gateway, backend: ScriptedBackend, path: str, script: Script) -> Client:
    """A client whose request is at the backend, which does what ``script`` says; others get ``OK``."""
    backend.script = script
    client = gateway.client()
    client.send(get(path))
    assert backend.received().target == path.encode()
    backend.script = answer()
    return client


def queued(gateway: Gateway, data: bytes) -> Client:
    """A client whose request waits for its turn."""
    before = gateway.in_use()["in_flight"]
    client = gateway.client()
    client.send(data)
    wait_until(lambda: gateway.in_use()["in_flight"] == before + 1, "it is there")
    return client


def assert_full(gateway: Gateway, path: str) -> None:
    response = gateway.get(path)
    line = assert_problem(gateway, response, 503, "BULKHEAD_FULL", proxy_error="connection_limit_reached")
    assert (line["backend"], line["target"], line["attempts"]) == (None, None, 0)


# --- full ----------------------------------------------------------------------------------------------------------------


def test_slow_route_at_its_limit_refuses_at_once_while_others_go_on(gateway: Gateway, backend: ScriptedBackend) -> None:
    before = gateway.metric("gateway_errors_total", route="two", reason="BULKHEAD_FULL")
    held = Held()
    backend.script = held
    with gateway.client() as first, gateway.client() as second:
        for client in (first, second):
            client.send(get("/two"))
            backend.received()
        for _ in range(3):
            assert_full(gateway, "/two")
        backend.script = answer()
        assert gateway.get("/one").status == 200
        assert gateway.get("/fixed").body == b"fixed"
        assert not [line for line in gateway.lines if line.get("path") == "/two" and line["status"] == 200]
        held.answer_one()
        held.answer_one()
        assert [client.read_response().status for client in (first, second)] == [200, 200]
    assert gateway.metric("gateway_errors_total", route="two", reason="BULKHEAD_FULL") == before + 3
    assert gateway.get("/two").status == 200


def test_refusal_leaves_the_connection_usable(gateway: Gateway, backend: ScriptedBackend) -> None:
    held = Held()
    with started(gateway, backend, "/one", held), gateway.client() as client:
        client.send(get("/one"))
        assert client.read_response().status == 503
        client.send(get("/fixed"))
        assert client.read_response().status == 200
        held.answer_one()


def test_upload_to_a_full_route_is_refused_before_it_is_sent(gateway: Gateway, backend: ScriptedBackend) -> None:
    held = Held()
    with started(gateway, backend, "/one", held), gateway.client() as client:
        client.send(b"POST /one HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n")
        response = client.read_response()
        assert (response.status, response.informational) == (503, [])
        held.answer_one()


# --- a place is free again when all is over ---------------------------------------------------------------------------------


def test_place_is_taken_while_the_body_streams_and_free_at_its_end(gateway: Gateway, backend: ScriptedBackend) -> None:
    def stream(exchange: Exchange) -> None:
        exchange.send(BEGUN)
        assert go_on.wait(10)
        exchange.send(b"0\r\n\r\n")

    go_on = threading.Event()
    with started(gateway, backend, "/one", stream) as client:
        head = client.read_head()
        assert client.read_chunk() == b"ab"
        assert_full(gateway, "/one")
        go_on.set()
        assert client.read_body(head)[0] == b""
        client.send(get("/one"))
        assert client.read_response().status == 200
    assert gateway.get("/one").status == 200


def begin_and_wait(exchange: Exchange) -> None:
    exchange.send(BEGUN)
    exchange.wait_until_left()


@pytest.mark.parametrize("leave", LEAVE)
def test_place_is_free_when_the_client_leaves_in_the_middle_of_the_answer(
    gateway: Gateway, backend: ScriptedBackend, leave: Callable[[Client], None]
) -> None:
    client = started(gateway, backend, "/one", begin_and_wait)
    client.read_head()
    assert_full(gateway, "/one")
    leave(client)
    gateway.wait_until_free()
    assert gateway.get("/one").status == 200


@pytest.mark.parametrize("leave", LEAVE)
def test_place_is_free_when_the_client_leaves_before_the_answer(
    gateway: Gateway, backend: ScriptedBackend, leave: Callable[[Client], None]
) -> None:
    client = started(gateway, backend, "/one", hang)
    assert_full(gateway, "/one")
    leave(client)
    gateway.wait_until_free()
    assert gateway.get("/one").status == 200


@pytest.mark.parametrize("sent", [b"", BEGUN])
def test_place_is_free_when_the_backend_dies(gateway: Gateway, backend: ScriptedBackend, sent: bytes) -> None:
    def die(exchange: Exchange) -> None:
        exchange.send(sent)
        assert go_on.wait(10)
        exchange.reset()

    go_on = threading.Event()
    with started(gateway, backend, "/one", die) as client:
        if sent:
            client.read_head()
        assert_full(gateway, "/one")
        go_on.set()
        if sent:
            assert client.is_cut()
        else:
            assert client.read_response().status in {200, 502}  # 200: it was sent once more
    gateway.wait_until_free()
    assert gateway.get("/one").status == 200


@pytest.mark.parametrize("leaves_first", ["client", "backend"])
def test_tunnel_holds_its_place_until_it_ends(gateway: Gateway, backend: ScriptedBackend, leaves_first: str) -> None:
    def switch(exchange: Exchange) -> None:
        exchange.send(SWITCH)
        if leaves_first == "client":
            exchange.wait_until_left()
        else:
            assert go_on.wait(10)
            exchange.close()

    go_on = threading.Event()
    backend.script = switch
    with gateway.client() as client:
        client.send(b"GET /one HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
        assert client.read_head().status == 101
        backend.script = answer()
        assert_full(gateway, "/one")
        if leaves_first == "backend":
            go_on.set()
            assert client.is_gone()
    gateway.wait_until_free()
    assert gateway.get("/one").status == 200


# --- the queue -------------------------------------------------------------------------------------------------------------


def test_queue_is_bounded_and_served_in_the_order_of_arrival(gateway: Gateway, backend: ScriptedBackend) -> None:
    held = Held()
    backend.script = held
    clients = [gateway.client()]
    clients[0].send(get("/queue/0"))
    assert backend.received().target == b"/queue/0"
    clients += [queued(gateway, get(f"/queue/{number}")) for number in (1, 2, 3)]
    assert_full(gateway, "/queue/4")
    assert not backend.has_received()
    for number, client in enumerate(clients):
        held.answer_one()
        assert client.read_response().status == 200
        if number < 3:
            assert backend.received().target == b"/queue/%d" % (number + 1)
        client.close()
    assert not backend.has_received()


@pytest.mark.parametrize("leave", LEAVE)
def test_client_that_leaves_the_queue_frees_its_place(
    gateway: Gateway, backend: ScriptedBackend, leave: Callable[[Client], None]
) -> None:
    held = Held()
    with started(gateway, backend, "/queue/first", held) as first:
        leaving = [queued(gateway, get("/queue/left")) for _ in range(3)]
        assert_full(gateway, "/queue/full")
        for client in leaving:
            leave(client)
        wait_until(lambda: gateway.in_use()["in_flight"] == 1, "they are gone")
        staying = queued(gateway, get("/queue/stays"))
        held.answer_one()
        assert first.read_response().status == 200
        assert staying.read_response().status == 200
        staying.close()
    assert backend.received().target == b"/queue/stays"
    line = gateway.access_line_at("/queue/left")
    assert (line["status"], line["reason"], line["attempts"]) == (499, "CLIENT_GONE", 0)


def test_client_that_leaves_in_the_middle_of_the_answer_lets_the_next_one_in(
    gateway: Gateway, backend: ScriptedBackend
) -> None:
    client = started(gateway, backend, "/queue", begin_and_wait)
    client.read_head()
    next_one = queued(gateway, get("/queue"))
    client.reset()
    assert next_one.read_response().body == b"ok"
    next_one.close()


def test_wait_in_the_queue_ends(gateway: Gateway, backend: ScriptedBackend) -> None:
    held = Held()
    with started(gateway, backend, "/hasty", held) as first:
        with gateway.client() as second:
            second.send(get("/hasty"))
            response = second.read_response()
        assert_problem(gateway, response, 503, "BULKHEAD_FULL", proxy_error="connection_limit_reached")
        held.answer_one()
        assert first.read_response().status == 200
    assert gateway.get("/hasty").status == 200


def test_total_time_ends_a_longer_wait(gateway: Gateway, backend: ScriptedBackend) -> None:
    def trickle(exchange: Exchange) -> None:  # the head came in time
        exchange.send(BEGUN)
        assert go_on.wait(10)
        exchange.send(b"0\r\n\r\n")

    go_on = threading.Event()
    with started(gateway, backend, "/short", trickle) as first:
        head = first.read_head()
        response = gateway.get("/short")
        assert_problem(gateway, response, 504, "DEADLINE_EXCEEDED", proxy_error="http_response_timeout")
        go_on.set()
        assert first.read_body(head)[0] == b"ab"


def test_upload_in_the_queue_is_sent_when_its_turn_comes(gateway: Gateway, backend: ScriptedBackend) -> None:
    held = Held()
    body = b"x" * 3_000_000
    with started(gateway, backend, "/queue", held):
        head = b"POST /queue HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n" % len(body)
        with queued(gateway, head) as client:
            client.socket.settimeout(0.3)
            with pytest.raises(TimeoutError):
                client.socket.recv(1)
            client.socket.settimeout(10)
            held.answer_one()
            assert client.read_head().status == 100
            client.send(body)
            assert client.read_response().status == 200
    assert backend.received().body == body


def test_client_that_vanishes_behind_its_unread_upload_is_noticed_when_its_turn_comes(
    gateway: Gateway, backend: ScriptedBackend
) -> None:
    held = Held()
    with started(gateway, backend, "/queue", held) as first:
        client = queued(gateway, b"POST /queue/gone HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc")
        client.reset()
        held.answer_one()
        assert first.read_response().status == 200
    line = gateway.access_line_at("/queue/gone")
    assert (line["status"], line["reason"]) == (499, "CLIENT_GONE")
    assert gateway.get("/queue").status == 200


def test_client_that_vanishes_behind_its_unread_upload_frees_its_place_at_the_end_of_its_wait(
    gateway: Gateway, backend: ScriptedBackend
) -> None:
    held = Held()
    with started(gateway, backend, "/hasty", held):
        client = queued(gateway, b"POST /hasty/gone HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc")
        client.reset()
        assert gateway.access_line_at("/hasty/gone")["reason"] == "BULKHEAD_FULL"
        held.answer_one()
    assert not backend.has_received()


def test_many_clients_at_once_all_get_an_answer_and_no_place_is_lost(
    gateway: Gateway, backend: ScriptedBackend
) -> None:
    def ask(number: int) -> None:
        with gateway.client() as client:
            for _ in range(20):
                client.send(get("/queue"))
                if number % 4 == 3:
                    client.reset()
                    return
                statuses.append(client.read_response().status)

    statuses: list[int] = []
    threads = [threading.Thread(target=ask, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(statuses) == 12 * 20
    assert set(statuses) <= {200, 503}
    assert 200 in statuses
    gateway.wait_until_free()
    assert json.loads(gateway.admin("/status").body)["in_flight"] == 0
    backend.renew()
    test_queue_is_bounded_and_served_in_the_order_of_arrival(gateway, backend)
