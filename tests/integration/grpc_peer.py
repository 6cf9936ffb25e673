"""A gRPC server and clients of grpcio's own, with messages of plain bytes: no code is generated."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import grpc

PATIENCE_S = 10.0
SERVICE = "test.Service"


class GrpcServer(grpc.GenericRpcHandler):
    """A server whose methods a test may replace, as a context manager.

    Attributes:
        calls: how often each method was called.
        metadata: of the last call, lowered name to value.
        peers: the connections that calls have come on.
        cancelled: set when a call that was under way is over without being answered.
        methods: by name; ``unary`` and ``client`` get and return bytes, the other two return pieces.
    """

    def __init__(self, credentials: grpc.ServerCredentials | None = None, **options: int) -> None:
        self.renew()
        self._server = grpc.server(ThreadPoolExecutor(32), options=[(f"grpc.{key}", options[key]) for key in options])
        self._server.add_generic_rpc_handlers((self,))
        if credentials is None:
            self.port = self._server.add_insecure_port("127.0.0.1:0")
        else:
            self.port = self._server.add_secure_port("127.0.0.1:0", credentials)

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(None).wait(PATIENCE_S)

    def renew(self) -> None:
        """Forget what was called, and answer as at first."""
        self.calls: dict[str, int] = {}
        self.metadata: dict[str, str | bytes] = {}
        self.peers: set[str] = set()
        self.cancelled = threading.Event()
        self.methods: dict[str, Callable[[Any, grpc.ServicerContext], Any]] = {
            "unary": lambda message, _: message[::-1],
            "server": lambda message, _: (message + b"%d" % number for number in range(5)),
            "client": lambda messages, _: b"+".join(messages),
            "bidi": lambda messages, _: (message.upper() for message in messages),
        }

    def service(self, details: Any) -> Any:
        """grpcio: who handles a call."""
        name = details.method.removeprefix(f"/{SERVICE}/")
        method = self.methods.get(name)
        if method is None:
            return None
        self.calls[name] = self.calls.get(name, 0) + 1
        self.metadata = {field.key: field.value for field in details.invocation_metadata}

        def handle(message: Any, context: grpc.ServicerContext) -> Any:
            context.add_callback(self.cancelled.set)
            self.peers.add(context.peer())
            return method(message, context)

        makers: dict[str, Callable[[Any], Any]] = {
            "unary": grpc.unary_unary_rpc_method_handler,
            "server": grpc.unary_stream_rpc_method_handler,
            "client": grpc.stream_unary_rpc_method_handler,
            "bidi": grpc.stream_stream_rpc_method_handler,
        }
        return makers[name](handle)


def call(channel: grpc.Channel, kind: str, message: Any, method: str = "", **options: Any) -> Any:
    """Call the method of the same name as its kind, unless given: ``unary``, ``server``, ``client`` or ``bidi``."""
    makers: dict[str, Callable[[str], Any]] = {
        "unary": channel.unary_unary,
        "server": channel.unary_stream,
        "client": channel.stream_unary,
        "bidi": channel.stream_stream,
    }
    options.setdefault("timeout", PATIENCE_S)
    return makers[kind](f"/{SERVICE}/{method or kind}")(message, **options)


def fed(pieces: Iterator[bytes], may_go_on: threading.Semaphore) -> Iterator[bytes]:
    """The pieces, each when the test lets it."""
    for piece in pieces:
        assert may_go_on.acquire(timeout=PATIENCE_S), "the test gave no signal"
        yield piece
