"""What gRPC clients are told when a call fails on its way: grpcio's own client, and targets that break off."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.integration.grpc_peer import GrpcServer, call
from tests.integration.h2_backend import H2Backend
from tests.integration.h2_client import H2Client
from tests.integration.h2_exchange import H2Exchange, hang, reset_with
from tests.integration.h2_frames import INTERNAL_ERROR, NO_ERROR
from tests.integration.harness import ONE_ATTEMPT, Gateway, free_port
from tests.integration.tokens import SECRET, key

Status = grpc.StatusCode
CONTENT_TYPE = ("content-type", "application/grpc")
MESSAGE = b"\x00\x00\x00\x00\x05first"
WITH_TOKENS = {"GATEWAY_JWT_SECRET": SECRET, "GATEWAY_JWT_ALGORITHMS": "HS512"}


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture(scope="module")
def server() -> Iterator[GrpcServer]:
    with GrpcServer() as server:
        yield server


def gateway_to(stack: ExitStack, directory: Path, target: str, **settings: str) -> tuple[Gateway, grpc.Channel]:
    gateway = stack.enter_context(Gateway(directory, {"GATEWAY_BACKEND_TARGET": target, **ONE_ATTEMPT, **settings}))
    return gateway, stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{gateway.port}"))


def outcome(
    channel: grpc.Channel, kind: str, message: Any = b"x", **options: Any
) -> tuple[grpc.StatusCode, str | None]:
    """How a call ends that must not succeed."""
    with pytest.raises(grpc.RpcError) as caught:
        answer = call(channel, kind, message, **options)
        list(answer)
    return caught.value.code(), caught.value.details()


# --- refused by the gateway ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "options", "expected"),
    [
        pytest.param({"GATEWAY_SANITIZE_ENCODED_SLASH": "reject"}, {"method": "a%2Fb"}, (Status.INTERNAL, "BAD_PATH"), id="400"),
        pytest.param(WITH_TOKENS, {}, (Status.UNAUTHENTICATED, "TOKEN_MISSING"), id="401"),
        pytest.param({"GATEWAY_DENY_IPS": "127.0.0.0/8"}, {}, (Status.PERMISSION_DENIED, "IP_DENIED"), id="403"),
        pytest.param({"GATEWAY_ALLOWED_METHODS": "GET"}, {}, (Status.UNKNOWN, "METHOD_NOT_ALLOWED"), id="405"),
        pytest.param({"GATEWAY_MAX_BODY_BYTES": "5"}, {}, (Status.RESOURCE_EXHAUSTED, "BODY_TOO_LARGE"), id="413"),
        pytest.param({"GATEWAY_ALLOWED_CONTENT_TYPES": "text/plain"}, {}, (Status.UNKNOWN, "CONTENT_TYPE_NOT_ALLOWED"), id="415"),
    ],
)  # fmt: skip
def test_refusals_are_statuses_for_every_kind_of_call(
    stack: ExitStack,
    tmp_path: Path,
    server: GrpcServer,
    settings: dict[str, str],
    options: dict[str, str],
    expected: Any,
) -> None:
    server.renew()
    gateway, channel = gateway_to(stack, tmp_path, f"h2c://127.0.0.1:{server.port}", **settings)
    for kind in ("unary", "server"):
        assert outcome(channel, kind, **options) == expected
    for kind in ("client", "bidi"):  # which go on sending after they are refused
        assert outcome(channel, kind, iter([b"x" * 40_000] * 20), **options) == expected
    gateway.wait_until_free()


def test_missing_scope_is_permission_denied(stack: ExitStack, tmp_path: Path, server: GrpcServer) -> None:
    settings = {**WITH_TOKENS, "GATEWAY_JWT_REQUIRED_SCOPES": "call"}
    _, channel = gateway_to(stack, tmp_path, f"h2c://127.0.0.1:{server.port}", **settings)
    metadata = (("authorization", "Bearer " + key("HS512").token()),)
    assert outcome(channel, "unary", metadata=metadata) == (Status.PERMISSION_DENIED, "SCOPE_MISSING")
    metadata = (("authorization", "Bearer " + key("HS512").token(scope="call")),)
    assert call(channel, "unary", b"abc", metadata=metadata) == b"cba"


def test_rate_limit_is_resource_exhausted_and_says_when(stack: ExitStack, tmp_path: Path, server: GrpcServer) -> None:
    settings = {"GATEWAY_RATE_LIMIT": "1/m", "GATEWAY_CORS_ALLOW_ORIGINS": "https://a.test"}
    _, channel = gateway_to(stack, tmp_path, f"h2c://127.0.0.1:{server.port}", **settings)
    assert call(channel, "unary", b"abc", metadata=(("origin", "https://a.test"),)) == b"cba"
    with pytest.raises(grpc.RpcError) as caught:
        call(channel, "unary", b"abc", metadata=(("origin", "https://a.test"),))
    error: Any = caught.value
    assert (error.code(), error.details()) == (Status.RESOURCE_EXHAUSTED, "RATE_LIMITED")
    fields = dict(error.trailing_metadata())
    assert 0 < int(fields["retry-after"]) <= 60
    assert fields["access-control-allow-origin"] == "https://a.test"
    assert fields["x-content-type-options"] == "nosniff"


def test_message_that_is_too_much_ends_a_conversation_under_way(
    stack: ExitStack, tmp_path: Path, server: GrpcServer
) -> None:
    server.renew()
    _, channel = gateway_to(stack, tmp_path, f"h2c://127.0.0.1:{server.port}", GATEWAY_MAX_BODY_BYTES="1000")
    answers = call(channel, "bidi", iter([b"a" * 400] * 10))
    with pytest.raises(grpc.RpcError):
        list(answers)
    assert (answers.code(), answers.details()) == (Status.RESOURCE_EXHAUSTED, "BODY_TOO_LARGE")


@pytest.mark.parametrize(
    ("content_type", "is_grpc"),
    [
        ("application/grpc", True), ("application/grpc+proto", True), ("application/grpc;charset=utf-8", True),
        ("Application/gRPC", True), ("application/grpc-web", False), ("application/grpc-web+proto", False),
        ("application/grpc-web-text", False), ("application/grpcx", False),
    ],
)  # fmt: skip
def test_only_grpc_itself_is_told_by_a_status(refusing: Gateway, content_type: str, is_grpc: bool) -> None:
    with H2Client(refusing.port) as client:
        response = client.get("/test.Service/unary", ("content-type", content_type), method="POST")
    if is_grpc:
        assert (response.status, response.body) == (200, b"")
        assert response.header("content-type") == "application/grpc"
        assert (response.header("grpc-status"), response.header("grpc-message")) == ("7", "IP_DENIED")
    else:
        assert (response.status, response.header("content-type")) == (403, "application/problem+json")


@pytest.fixture(scope="module")
def refusing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    settings = {"GATEWAY_BACKEND_TARGET": f"h2c://127.0.0.1:{free_port()}", "GATEWAY_DENY_IPS": "127.0.0.0/8"}
    with Gateway(tmp_path_factory.mktemp("refusing"), settings) as gateway:
        yield gateway


# --- broken off by the target -------------------------------------------------------------------------------------


def begin(exchange: H2Exchange, data: bytes) -> None:
    exchange.read_body()
    exchange.send_head(200, CONTENT_TYPE)
    exchange.send_data(data)


def in_a_message(exchange: H2Exchange) -> None:
    begin(exchange, MESSAGE[:7])
    exchange.reset(INTERNAL_ERROR)


def after_a_message(exchange: H2Exchange) -> None:
    begin(exchange, MESSAGE)
    exchange.reset(INTERNAL_ERROR)


def in_good_order(exchange: H2Exchange) -> None:
    begin(exchange, MESSAGE)
    exchange.reset(NO_ERROR)


def without_a_word(exchange: H2Exchange) -> None:
    begin(exchange, MESSAGE)
    exchange.session.reset()


def silently(exchange: H2Exchange) -> None:
    begin(exchange, MESSAGE)
    exchange.wait_until_left()


@pytest.mark.parametrize(
    ("handler", "expected"),
    [
        (reset_with(INTERNAL_ERROR), (Status.UNAVAILABLE, "UPSTREAM_RESET")),
        (hang, (Status.DEADLINE_EXCEEDED, "UPSTREAM_TIMEOUT")),
        (in_a_message, (Status.UNAVAILABLE, "UPSTREAM_RESET")),
        (after_a_message, (Status.UNAVAILABLE, "UPSTREAM_RESET")),
        (in_good_order, (Status.UNAVAILABLE, "UPSTREAM_RESET")),
        (without_a_word, (Status.UNAVAILABLE, "UPSTREAM_RESET")),
        (silently, (Status.DEADLINE_EXCEEDED, "UPSTREAM_TIMEOUT")),
    ],
)
@pytest.mark.parametrize("kind", ["unary", "server", "client", "bidi"])
def test_call_that_the_target_breaks_off_has_not_succeeded(
    breaking: tuple[H2Backend, Gateway, grpc.Channel], kind: str, handler: Callable[[H2Exchange], None], expected: Any
) -> None:
    backend, gateway, channel = breaking
    backend.handler = handler
    assert outcome(channel, kind, b"x" if kind in ("unary", "server") else iter([b"x"])) == expected
    gateway.wait_until_free()


@pytest.fixture(scope="module")
def breaking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[H2Backend, Gateway, grpc.Channel]]:
    with ExitStack() as stack:
        backend = stack.enter_context(H2Backend())
        directory = tmp_path_factory.mktemp("breaking")
        gateway, channel = gateway_to(stack, directory, backend.url, GATEWAY_TIMEOUT_IDLE="300ms")
        yield backend, gateway, channel


def test_what_came_before_the_break_is_delivered(stack: ExitStack, tmp_path: Path) -> None:
    backend = stack.enter_context(H2Backend())
    backend.handler = after_a_message
    gateway, channel = gateway_to(stack, tmp_path, backend.url)
    answers = call(channel, "server", b"x")
    assert next(answers) == b"first"
    with pytest.raises(grpc.RpcError):
        next(answers)
    assert answers.code() is Status.UNAVAILABLE
    line = gateway.access_line_at("/test.Service/server")
    assert (line["status"], line["reason"]) == (200, "UPSTREAM_RESET")


def test_message_that_was_delivered_is_never_asked_for_again(stack: ExitStack, tmp_path: Path) -> None:
    backend = stack.enter_context(H2Backend())
    backend.handler = after_a_message
    settings = {
        "GATEWAY_RETRY_MAX_ATTEMPTS": "3",
        "GATEWAY_RETRY_ON": "connect,reset,timeout,refused_stream,grpc-unavailable",
        "GATEWAY_RETRY_METHODS": "POST",
    }
    gateway, channel = gateway_to(stack, tmp_path, backend.url, **settings)
    assert outcome(channel, "server") == (Status.UNAVAILABLE, "UPSTREAM_RESET")
    assert gateway.access_line_at("/test.Service/server")["attempts"] == 1


@pytest.mark.parametrize(("methods", "attempts"), [("POST", 2), ("GET", 1)])
def test_call_that_breaks_off_unanswered_is_repeated_if_posts_are(
    stack: ExitStack, tmp_path: Path, methods: str, attempts: int
) -> None:
    handlers = iter([reset_with(INTERNAL_ERROR)])

    def flaky(exchange: H2Exchange) -> None:
        handler = next(handlers, None)
        if handler is not None:
            handler(exchange)
            return
        begin(exchange, MESSAGE)
        exchange.send_trailers(("grpc-status", "0"))

    backend = stack.enter_context(H2Backend())
    backend.handler = flaky
    settings = {"GATEWAY_RETRY_MAX_ATTEMPTS": "2", "GATEWAY_RETRY_ON": "reset", "GATEWAY_RETRY_METHODS": methods}
    gateway, channel = gateway_to(stack, tmp_path, backend.url, **settings)
    if attempts == 2:
        assert call(channel, "unary", b"x") == b"first"
    else:
        assert outcome(channel, "unary") == (Status.UNAVAILABLE, "UPSTREAM_RESET")
    assert gateway.access_line_at("/test.Service/unary")["attempts"] == attempts


def test_other_answers_are_what_they_are(stack: ExitStack, tmp_path: Path) -> None:
    """One of a proxy behind the gateway, which knows no gRPC."""

    def busy(exchange: H2Exchange) -> None:
        exchange.read_body()
        exchange.answer(b"busy", 503, ("content-type", "text/html"))

    backend = stack.enter_context(H2Backend())
    backend.handler = busy
    _, channel = gateway_to(stack, tmp_path, backend.url)
    code, details = outcome(channel, "unary")
    assert code is Status.UNAVAILABLE
    assert "503" in str(details)


def test_other_answer_that_is_cut_ends_without_a_status(stack: ExitStack, tmp_path: Path) -> None:
    """Its end would look like one in good order."""

    def break_off(exchange: H2Exchange) -> None:
        exchange.read_body()
        exchange.send_head(503, ("content-type", "text/html"))
        exchange.send_data(b"bu")
        exchange.reset(INTERNAL_ERROR)

    backend = stack.enter_context(H2Backend())
    backend.handler = break_off
    gateway, _ = gateway_to(stack, tmp_path, backend.url)
    with H2Client(gateway.port) as client:
        stream = client.request("POST", "/test.Service/unary", CONTENT_TYPE)
        assert client.head(stream).status == 503
        assert client.reset_code(stream) == INTERNAL_ERROR
