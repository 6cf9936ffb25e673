"""gRPC through the gateway, between grpcio's own client and server."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from time import monotonic
from types import MappingProxyType
from typing import Any

import grpc
import pytest
import trustme
from tests.integration.grpc_peer import PATIENCE_S, GrpcServer, call, fed
from tests.integration.h2_backend import H2Backend
from tests.integration.h2_exchange import H2Exchange
from tests.integration.harness import Gateway, free_port


class World:
    """A server, a gateway in front of it, and a channel to that."""

    def __init__(self, server: GrpcServer, gateway: Gateway, channel: grpc.Channel) -> None:
        self.server = server
        self.gateway = gateway
        self.channel = channel

    def call(self, kind: str, message: Any, **options: Any) -> Any:
        return call(self.channel, kind, message, **options)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def plain_world(
    stack: ExitStack,
    directory: Path,
    server: GrpcServer | None = None,
    settings: Mapping[str, str] = MappingProxyType({}),
) -> World:
    server = stack.enter_context(server or GrpcServer())
    environment = {"GATEWAY_BACKEND_TARGET": f"h2c://127.0.0.1:{server.port}", **settings}
    gateway = stack.enter_context(Gateway(directory, environment))
    channel = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{gateway.port}"))
    return World(server, gateway, channel)


def tls_world(stack: ExitStack, directory: Path, authority: trustme.CA) -> World:
    ca_file = directory / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    pair = authority.issue_cert("localhost", "127.0.0.1")
    chain, key = pair.cert_chain_pems[0].bytes(), pair.private_key_pem.bytes()
    (directory / "cert.pem").write_bytes(chain)
    (directory / "key.pem").write_bytes(key)
    server = stack.enter_context(GrpcServer(grpc.ssl_server_credentials([(key, chain)])))
    document = (
        f'[backends.grpc]\ntargets = ["https://localhost:{server.port}"]\ntls.ca_file = "{ca_file}"\n'
        '[[routes]]\nname = "grpc"\npath = "/"\nbackend = "grpc"\n'
    )
    (directory / "routes.toml").write_text(document, encoding="utf-8")
    environment = {
        "GATEWAY_ROUTES_FILE": str(directory / "routes.toml"),
        "GATEWAY_TLS_CERT_FILE": str(directory / "cert.pem"),
        "GATEWAY_TLS_KEY_FILE": str(directory / "key.pem"),
    }
    gateway = stack.enter_context(Gateway(directory, environment))
    credentials = grpc.ssl_channel_credentials(authority.cert_pem.bytes())
    channel = stack.enter_context(grpc.secure_channel(f"localhost:{gateway.port}", credentials))
    return World(server, gateway, channel)


@pytest.fixture(scope="module", params=["plain", "tls"])
def shared_world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, authority: trustme.CA
) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("grpc")
    with ExitStack() as stack:
        if request.param == "plain":
            yield plain_world(stack, directory)
        else:
            yield tls_world(stack, directory, authority)


@pytest.fixture
def world(shared_world: World) -> World:
    shared_world.server.renew()
    return shared_world


def failure(future: Any) -> tuple[grpc.StatusCode, str | None]:
    with pytest.raises(grpc.RpcError) as caught:
        list(future) if hasattr(future, "__iter__") else future
    return caught.value.code(), caught.value.details()


def test_four_kinds_of_calls(world: World) -> None:
    assert world.call("unary", b"abc") == b"cba"
    assert list(world.call("server", b"x")) == [b"x0", b"x1", b"x2", b"x3", b"x4"]
    assert world.call("client", iter([b"a", b"b", b"c"])) == b"a+b+c"
    assert list(world.call("bidi", iter([b"a", b"b"]))) == [b"A", b"B"]


def test_messages_larger_than_every_window_pass_both_ways(world: World) -> None:
    message = bytes(range(256)) * 8192  # 2 MiB, of the 4 MiB that grpcio takes
    assert world.call("unary", message) == message[::-1]
    assert list(world.call("bidi", iter([message, message]))) == [message.upper(), message.upper()]


def test_messages_of_a_conversation_pass_one_by_one(world: World) -> None:
    may_go_on = threading.Semaphore(0)
    answers = world.call("bidi", fed(iter([b"one", b"two", b"three"]), may_go_on))
    for expected in (b"ONE", b"TWO", b"THREE"):
        may_go_on.release()
        assert next(answers) == expected  # else the next is never sent
    assert list(answers) == []
    assert answers.code() is grpc.StatusCode.OK


def test_a_thousand_calls_at_once_pass_on_one_channel(world: World) -> None:
    unary: Any = world.channel.unary_unary("/test.Service/unary")
    calls = [unary.future(b"%d" % n, timeout=30) for n in range(1000)]
    assert [answer.result(30) for answer in calls] == [(b"%d" % n)[::-1] for n in range(1000)]
    assert len(world.server.peers) < 20


def test_conversations_do_not_wait_for_each_other(world: World) -> None:
    """As many as the server has threads for."""
    signals = [threading.Semaphore(0) for _ in range(30)]
    conversations = [world.call("bidi", fed(iter([b"a", b"b", b"c"]), signal)) for signal in signals]
    for expected in (b"A", b"B", b"C"):
        for signal in reversed(signals):
            signal.release()
        assert [next(answers) for answers in conversations] == [expected] * 30
    assert [list(answers) for answers in conversations] == [[]] * 30


def test_server_that_renews_its_connections_loses_no_call(stack: ExitStack, tmp_path: Path) -> None:
    server = GrpcServer(max_connection_age_ms=200, max_connection_age_grace_ms=10_000)
    world = plain_world(stack, tmp_path, server)
    until = monotonic() + PATIENCE_S
    unary: Any = world.channel.unary_unary("/test.Service/unary")
    while len(server.peers) < 4 and monotonic() < until:
        calls = [unary.future(b"abc", timeout=PATIENCE_S) for _ in range(20)]
        assert [answer.result() for answer in calls] == [b"cba"] * 20
        assert list(world.call("bidi", iter([b"a", b"b"]))) == [b"A", b"B"]
    assert len(server.peers) >= 4


def test_metadata_and_status_pass_untouched(world: World) -> None:
    def refuse(message: bytes, context: grpc.ServicerContext) -> bytes:
        context.send_initial_metadata((("x-first", "1"), ("x-raw-bin", b"\x00\xff")))
        context.set_trailing_metadata((("x-last", "2"),))
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not yet: ä")

    world.server.methods["unary"] = refuse
    with pytest.raises(grpc.RpcError) as caught:
        world.call("unary", b"x", metadata=(("x-tenant", "t1"), ("x-token-bin", b"\x01\x02")))
    error: Any = caught.value
    assert (error.code(), error.details()) == (grpc.StatusCode.FAILED_PRECONDITION, "not yet: ä")
    assert {"x-first": "1", "x-raw-bin": b"\x00\xff"}.items() <= dict(error.initial_metadata()).items()
    assert ("x-last", "2") in error.trailing_metadata()
    assert {"x-tenant": "t1", "x-token-bin": b"\x01\x02"}.items() <= world.server.metadata.items()
    assert world.server.metadata["x-request-id"]


def test_trailers_only_stay_that(world: World) -> None:
    def refuse(message: bytes, context: grpc.ServicerContext) -> bytes:
        context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")

    world.server.methods["unary"] = refuse
    assert failure_of(world, "unary") == (grpc.StatusCode.NOT_FOUND, "no such thing")
    assert failure_of(world, "absent")[0] is grpc.StatusCode.UNIMPLEMENTED


def failure_of(world: World, method: str) -> tuple[grpc.StatusCode, str | None]:
    with pytest.raises(grpc.RpcError) as caught:
        call(world.channel, "unary", b"x", method=method)
    return caught.value.code(), caught.value.details()


def test_cancelled_call_is_cancelled_at_the_server(world: World) -> None:
    begun = threading.Event()

    def endless(message: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        begun.set()
        yield b"first"
        while context.is_active():
            world.server.cancelled.wait(0.05)

    world.server.methods["server"] = endless
    answers = world.call("server", b"x")
    assert next(answers) == b"first"
    answers.cancel()
    assert begun.is_set()
    assert world.server.cancelled.wait(PATIENCE_S)
    world.gateway.wait_until_free()


def test_deadline_ends_a_call_whose_answer_has_begun(stack: ExitStack, tmp_path: Path) -> None:
    """Between ends that do not look at the clock themselves, as grpcio's server would."""

    def endless(exchange: H2Exchange) -> None:
        exchange.read_body()
        exchange.send_head(200, ("content-type", "application/grpc"))
        exchange.send_data(b"\x00\x00\x00\x00\x05first")
        exchange.wait_until_left()

    backend = stack.enter_context(H2Backend())
    backend.handler = endless
    settings = {"GATEWAY_BACKEND_TARGET": backend.url, "GATEWAY_TIMEOUT_IDLE": "10s"}  # or it is stuck
    gateway = stack.enter_context(Gateway(tmp_path, settings))
    channel = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{gateway.port}"))
    answers = call(channel, "server", b"x", timeout=None, metadata=(("grpc-timeout", "300m"),))
    assert next(answers) == b"first"
    assert failure(answers) == (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED")
    assert gateway.access_line_at("/test.Service/server")["reason"] == "DEADLINE_EXCEEDED"
    gateway.wait_until_free()


def test_errors_of_the_gateway_are_statuses(stack: ExitStack, tmp_path: Path) -> None:
    settings = {"GATEWAY_BACKEND_TARGET": f"h2c://127.0.0.1:{free_port()}", "GATEWAY_RETRY_MAX_ATTEMPTS": "1"}
    gateway = stack.enter_context(Gateway(tmp_path, settings))
    channel = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{gateway.port}"))
    with pytest.raises(grpc.RpcError) as caught:
        call(channel, "unary", b"x")
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert caught.value.details() in {"UPSTREAM_CONNECT_FAILED", "NO_HEALTHY_TARGET"}


def test_unavailable_is_tried_again_where_it_is_asked_for(stack: ExitStack, tmp_path: Path) -> None:
    world = plain_world(
        stack, tmp_path, settings={"GATEWAY_RETRY_ON": "grpc-unavailable", "GATEWAY_RETRY_BACKOFF": "1ms"}
    )
    failures = iter([True, True, False])

    def flaky(message: bytes, context: grpc.ServicerContext) -> bytes:
        if next(failures):
            context.abort(grpc.StatusCode.UNAVAILABLE, "busy")
        return message

    world.server.methods["unary"] = flaky
    assert world.call("unary", b"x") == b"x"
    assert world.server.calls["unary"] == 3
    assert world.gateway.access_line_at("/test.Service/unary")["attempts"] == 3


def test_unavailable_is_passed_on_otherwise(stack: ExitStack, tmp_path: Path) -> None:
    world = plain_world(stack, tmp_path)

    def busy(message: bytes, context: grpc.ServicerContext) -> bytes:
        context.abort(grpc.StatusCode.UNAVAILABLE, "busy")

    world.server.methods["unary"] = busy
    assert failure_of(world, "unary") == (grpc.StatusCode.UNAVAILABLE, "busy")
    assert world.server.calls["unary"] == 1
