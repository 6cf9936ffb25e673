"""Hostile clients and hostile backends at once: the gateway goes on, mixes nothing up, and is left with nothing."""

from __future__ import annotations

import random
import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
from tests.integration.backend import OK, Exchange, ScriptedBackend
from tests.integration.harness import ONE_ATTEMPT, Gateway
from tests.integration.problems import assert_problem

CLIENTS = 8
REQUESTS = 40
#: So many descriptors the gateway has while it is short of them.
FEW_DESCRIPTORS = 40

REQUEST_SEEDS = (
    b"GET /a?b HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    b"POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nA: b\r\n\r\n",
    b"HEAD /h HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    b"GET /o HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"PUT /e HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
    b"CONNECT /t HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET http://h/x HTTP/1.1\r\nHost: a\r\n\r\n",
)
RESPONSE_SEEDS = (
    OK,
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nX-T: 1\r\n\r\n",
    b"HTTP/1.1 103 Early\r\nLink: a\r\n\r\n" + OK,
    b"HTTP/1.0 200 OK\r\n\r\nto the end",
    b"HTTP/1.1 304 Not Modified\r\nETag: a\r\n\r\n",
    b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nraw",
)
TOKENS = (
    b"\r\n", b"\n", b"\r", b" ", b"\t", b"\x00", b":", b",", b";", b"0", b"5", b"\xff", b"%00", b"..", b"\r\n\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Connection: close\r\n",
    b"Connection: upgrade\r\nUpgrade: websocket\r\n", b"Expect: 100-continue\r\n", b"Host: b\r\n", b"0\r\n\r\n",
)  # fmt: skip


def mutated(chance: random.Random, message: bytes) -> bytes:
    """``message`` with up to three insertions, deletions and exchanges of bytes."""
    for _ in range(chance.choice((0, 1, 1, 2, 3))):
        at = chance.randrange(len(message))
        match chance.randrange(3):
            case 0:
                message = message[:at] + chance.choice(TOKENS) + message[at:]
            case 1:
                message = message[:at] + message[at + chance.randrange(1, 6) :] or b"G"
            case _:
                message = message[:at] + bytes((chance.randrange(256),)) + message[at + 1 :]
    return message


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, module_backend: ScriptedBackend) -> Iterator[Gateway]:
    environment = {
        **ONE_ATTEMPT,
        "GATEWAY_BACKEND_TARGET": module_backend.url,
        "GATEWAY_HEADER_TIMEOUT": "300ms",
        "GATEWAY_BODY_TIMEOUT": "300ms",
        "GATEWAY_TIMEOUT_TOTAL": "300ms",
        "GATEWAY_TIMEOUT_IDLE": "300ms",
        "GATEWAY_KEEPALIVE_TIMEOUT": "1s",
    }
    with Gateway(tmp_path_factory.mktemp("gateway"), environment) as running:
        yield running


def assert_serves(gateway: Gateway) -> None:
    assert gateway.get("/still-there").status == 200


def misbehave(exchange: Exchange) -> None:
    """Answer badly, at times; what is bad about it depends on the request's own id."""
    chance = random.Random(exchange.request.header("X-Request-ID"))
    answer = mutated(chance, chance.choice(RESPONSE_SEEDS))
    exchange.send(answer[: chance.randrange(len(answer) + 1)] if chance.random() < 0.2 else answer)
    ending = chance.random()
    if ending < 0.2:
        exchange.close()
    elif ending < 0.3:
        exchange.reset()
    else:
        exchange.read_body()


def attack(gateway: Gateway, seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(REQUESTS):
        with gateway.client() as client:
            message = b"".join(mutated(chance, chance.choice(REQUEST_SEEDS)) for _ in range(chance.choice((1, 1, 2))))
            cut = chance.randrange(len(message) + 1)
            try:
                client.send(message[:cut])
                client.send(message[cut:])
                if chance.random() < 0.2:
                    client.reset()
                else:
                    client.read_some()
            except ConnectionError:
                pass


def together(run: Callable[[int], None]) -> None:
    """Run it for each client in a thread, told its number; a fault in one is a fault of the test."""
    faults: list[BaseException] = []

    def one(number: int) -> None:
        try:
            run(number)
        except BaseException as exc:  # noqa: BLE001 -- handed to the test's own thread
            faults.append(exc)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults, faults


def test_mutated_messages_on_both_sides_leave_nothing_behind(gateway: Gateway, backend: ScriptedBackend) -> None:
    # The backend's reading is strict: a malformed request that reached it fails the test.
    backend.script = misbehave
    together(partial(attack, gateway))
    gateway.wait_until_free()
    backend.renew()
    assert_serves(gateway)
    assert "Traceback" not in gateway.output_text
    ids = [line["request_id"] for line in gateway.lines if line.get("event") == "request"]
    assert len(ids) == len(set(ids)) > CLIENTS * REQUESTS / 2


def test_clients_get_their_own_answers_while_others_leave(gateway: Gateway, backend: ScriptedBackend) -> None:
    def tell(exchange: Exchange) -> None:
        exchange.read_body()
        told = exchange.request.target * 2000
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(told), told))

    def ask(number: int) -> None:
        for turn in range(REQUESTS):
            target = b"/%d-%d" % (number, turn)
            with gateway.client() as client:
                client.send(b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % target)
                if turn % 3 == 0:
                    client.reset()
                elif turn % 3 == 1:
                    assert client.read_some().startswith(b"HTTP/1.1 200")
                else:
                    assert client.read_response().body == target * 2000

    backend.script = tell
    together(ask)
    gateway.wait_until_free()


@pytest.mark.parametrize(
    ("begin", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\n", 408),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc", 408),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;", 408),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA:", 408),
        (b"", 0),
        (b"\r\n", 0),
    ],
    ids=["head", "body", "chunk-size", "trailers", "nothing", "empty-line"],
)
def test_crowd_that_never_finishes_is_sent_away(
    gateway: Gateway, backend: ScriptedBackend, begin: bytes, status: int
) -> None:
    with ExitStack() as stack:
        crowd = [stack.enter_context(gateway.client()) for _ in range(30)]
        for client in crowd:
            client.send(begin)
        assert_serves(gateway)
        for client in crowd:
            if status:
                assert client.read_response().status == status
            assert client.is_at_end()
    gateway.wait_until_free()


def test_shortage_of_descriptors_passes(tmp_path: Path, backend: ScriptedBackend) -> None:
    with Gateway(tmp_path, {"GATEWAY_BACKEND_TARGET": backend.url}) as gateway:
        limits = resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE, (FEW_DESCRIPTORS, limits[1]))
        with ExitStack() as stack:
            crowd = [stack.enter_context(gateway.client()) for _ in range(2 * FEW_DESCRIPTORS)]
            assert crowd[-1].is_gone()
            # Whoever is in is still answered, though there is no descriptor for a connection to the backend.
            crowd[0].send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            response = crowd[0].read_response()
            assert_problem(gateway, response, 503, "POOL_EXHAUSTED", proxy_error="connection_limit_reached")
        gateway.wait_for_metric("gateway_connections", 0, protocol="h1")
        assert_serves(gateway)
