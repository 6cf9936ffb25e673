"""The whole gateway in memory and in virtual time: what is tested is what runs, but for the sockets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, Final, Self

import orjson
from prometheus_client.parser import text_string_to_metric_families

from txgateway.config import Configuration, load
from txgateway.listeners import server_limits
from txgateway.middleware.base import Middleware
from txgateway.request import GatewayRequest
from txgateway.telemetry.access_log import AccessLog
from txgateway.telemetry.metrics import RequestMetrics, TargetState
from txgateway.testing.backends import ScriptedBackend, ScriptedTarget
from txgateway.testing.calls import Answer, Call, as_bytes
from txgateway.testing.clients import EPOCH_S
from txgateway.testing.context import MiddlewareFactory, with_middlewares
from txgateway.testing.reactor import MemoryReactor
from txgateway.transport.http1_factory import Http1ServerFactory
from txgateway.transport.http1_server import Http1ServerConnection
from txgateway.transport.http2.server import Http2ServerConnection
from txgateway.transport.interfaces import RequestHead
from txgateway.transport.wheel import TimerWheel
from txgateway.tree import Surroundings, Tree
from txgateway.user_decorators import UserParts

#: What keeps watch on its own, as long as the gateway lives.
_WATCHERS: Final = ("txgateway.health.", "txgateway.proxy.names", "txgateway.auth.jwks", "twisted.internet.task")
_STANDING: Final = ("TimerWheel._tick", "AccessLog._write")
#: How long an answer may take, in virtual seconds.
LIMIT_S: Final = 3600.0

Headers = Sequence[tuple[str | bytes, str | bytes]] | Mapping[str, str]


class _Lines:
    """Takes the access log's lines."""

    dropped = 0

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []

    def put(self, lines: bytes) -> None:
        self.entries += [orjson.loads(line) for line in lines.splitlines()]


class GatewayHarness:
    """A gateway in memory.

    The configuration is loaded, judged and built as ever; targets are scripted, time is virtual, and the same calls
    always have the same outcome, but for the ids of requests. Not here: TLS and HTTP/2 of targets, Redis, tracing.

    Args:
        routes: a routes document.
        routes_file: the path of one, instead.
        environment: further variables. Without any routing there is one backend, ``default``.
        middlewares: by name, what makes each of them; they stand in every route where users' middlewares do, right above
            the bulkhead: those that the document names, then these, the first outermost.

    Attributes:
        clock: virtual time, and the gateway's reactor.
        configuration: as loaded, with the further middlewares.
        tree: what runs.
        backends: by name, with the scripts that they go by.

    Raises:
        ConfigurationError: the configuration is not right.
        ValueError: it needs something that is not here, or has a middleware of the same name.
        MiddlewareFailed: what makes one of the middlewares raised something.
    """

    def __init__(
        self,
        routes: Mapping[str, Any] | None = None,
        *,
        routes_file: str | Path | None = None,
        environment: Mapping[str, str] | None = None,
        middlewares: Mapping[str, MiddlewareFactory] | None = None,
    ) -> None:
        loaded = load(_environment(routes, routes_file, environment or {}))
        self.configuration = with_middlewares(loaded, middlewares or {})
        if self.configuration.settings.redis_url is not None:
            raise ValueError("limits are kept in memory here: leave GATEWAY_REDIS_URL out")
        self.clock = MemoryReactor()
        self.backends = self._scripted(self.configuration)
        self._wheel = TimerWheel(self.clock)
        self._lines = _Lines()
        self._access_log = AccessLog(self._lines, self.epoch_s, self.clock, "json")  # type: ignore[arg-type]
        self.metrics = RequestMetrics(self._target_states, epoch_s=self.epoch_s)
        self._user_parts = UserParts(self.metrics.middlewares, self._access_log)
        self.tree = Tree(self.configuration, self._surroundings())
        self._requests: list[GatewayRequest] = []
        self._calls: list[Call] = []
        self._factory = self._listener()
        self.tree.start()
        self.clock.let_pass(0)
        self._standing = self._delayed()
        self._decorators = self._looks()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """All clients leave, and the gateway stops."""
        self.send_clients_home()
        self.tree.stop()
        self._wheel.stop()

    def send_clients_home(self) -> None:
        """All clients that are still there break their connections off."""
        for call in self._calls:
            if not call.client.transport.closed:
                call.client.leave()

    # --- clients --------------------------------------------------------------------------------------------------

    def ask(
        self,
        method: str | bytes = "GET",
        path: str | bytes = "/",
        headers: Headers = (),
        body: bytes | Sequence[bytes] | None = None,
        *,
        peer: str = "127.0.0.1",
        limit_s: float = LIMIT_S,
    ) -> Answer:
        """Make a request, and let time pass until it is answered.

        Args:
            headers: ``Host`` and the framing are added, where they are missing.
            body: bytes, or chunks.
            peer: the client's address.
            limit_s: virtual seconds.

        Raises:
            AssertionError: there is no whole answer by then, or the connection was broken off before.
        """
        is_whole = body is None or isinstance(body, bytes)
        length = None if body is None else len(body) if is_whole else -1
        call = self.start(method, path, headers, length=length, peer=peer)
        for piece in () if body is None else [body] if isinstance(body, bytes) else body:
            call.send(piece)
        call.end()
        return self.wait_for(call, limit_s)

    def start(
        self,
        method: str | bytes = "GET",
        path: str | bytes = "/",
        headers: Headers = (),
        *,
        length: int | None = None,
        peer: str = "127.0.0.1",
    ) -> Call:
        """Begin a request, to be gone on with step by step.

        Args:
            length: of the body; None for none, -1 for chunks.
        """
        pairs = headers.items() if isinstance(headers, Mapping) else headers
        fields = [(as_bytes(name), as_bytes(value)) for name, value in pairs]
        call = Call(self.clock, self._factory, self._log_of, as_bytes(method), as_bytes(path), fields, length, peer)
        self._calls.append(call)
        return call.begin()

    def wait_for(self, call: Call, limit_s: float = LIMIT_S) -> Answer:
        """Let time pass until the call has its answer; the client closes the connection then.

        Raises:
            AssertionError: there is no whole answer in time, or there never will be.
        """
        until = self.clock.seconds() + limit_s
        while not call.is_over:
            next_s = self.clock.next_s()
            if next_s is None or self.clock.seconds() + next_s > until:
                raise AssertionError(f"no answer within {limit_s} s of virtual time: {call.request!r}, {call.log}")
            self.clock.advance(next_s)
        answer = call.answer
        if answer is None:
            raise AssertionError(f"the connection was broken off before a whole answer: {call.partial}, {call.log}")
        if not call.client.transport.closed:
            call.client.end()
        return answer

    # --- time and what was told -----------------------------------------------------------------------------------

    def advance(self, seconds: float) -> None:
        """Let virtual time pass."""
        self.clock.let_pass(seconds)

    def epoch_s(self) -> float:
        """The wall clock."""
        return EPOCH_S + self.clock.seconds()

    @property
    def log(self) -> list[dict[str, Any]]:
        """The access log so far."""
        self._access_log.flush()
        return self._lines.entries

    def metric(self, name: str, **labels: str) -> float:
        """The sum of all samples of this name that have these labels.

        Raises:
            KeyError: there is no metric of this name.
        """
        text = b"".join(self.metrics.exposition(b"text/plain")[1]).decode("utf-8")
        samples = [
            sample
            for family in text_string_to_metric_families(text)
            if name.startswith(family.name)
            for sample in family.samples
        ]
        if not any(sample.name == name for sample in samples):
            raise KeyError(name)
        return sum(
            sample.value for sample in samples if sample.name == name and labels.items() <= sample.labels.items()
        )

    def assert_quiet(self) -> None:
        """Nothing is left over of any request: in flight, lent, waiting, held, or timed.

        Raises:
            AssertionError: with all that is.
        """
        self.clock.turn()
        left = list(self._left_over())
        if left:
            raise AssertionError("not quiet:\n" + "\n".join(f"- {one}" for one in left))

    # --- inside ---------------------------------------------------------------------------------------------------

    def _target_states(self) -> Iterator[TargetState]:
        return self.tree.upstreams.target_states()

    def _left_over(self) -> Iterator[str]:
        self._requests = [request for request in self._requests if not request.ended]
        yield from (f"in flight: {request!r} on route {request.route_name}" for request in self._requests)
        for backend in self.tree.upstreams.backends.values():
            for target in backend.targets:
                if target.pool.active or target.pool.pending:
                    yield f"{target.address}: {target.pool.active} connections lent, {target.pool.pending} requests wait"
        lasting = (Http1ServerConnection, Http2ServerConnection, Middleware)
        yield from (f"deadline of {item!r}" for item in self._wheel._fine if not isinstance(item, lasting))
        for name, look in self._looks().items():
            if look != self._decorators[name]:
                yield f"{name}: {look}, which was {self._decorators[name]}"
        yield from (f"timer: {name} ({number})" for name, number in (self._delayed() - self._standing).items())

    def _delayed(self) -> Counter[str]:
        calls: Any = self.clock.getDelayedCalls()
        names = (_name(call.func) for call in calls if not _watches(call.func))
        return Counter(name for name in names if name not in _STANDING)

    def _looks(self) -> dict[str, str]:
        """How the decorators that show their state look."""
        found = {}
        for entry in self.tree.pipeline.routes.entries.values():
            decorator: Any = entry.resource
            while decorator is not None:
                for one in (decorator, getattr(decorator, "middleware", None)):
                    if one is not None and _shows_itself(one):
                        found[f"{type(one).__name__} of route {entry.name}"] = repr(one)
                decorator = getattr(decorator, "inner", None)
        return found

    def _surroundings(self) -> Surroundings:
        return Surroundings(
            reactor=self.clock,
            epoch_s=self.epoch_s,
            wheel=self._wheel,
            chance=Random(1),
            metrics=self.metrics,
            access_log=self._access_log,
            probes={},
            tracing=None,
            demo_port=1,
            https_port=int,
            user_parts=self._user_parts,
        )

    def _listener(self) -> Http1ServerFactory:
        settings, pipeline = self.configuration.settings, self.tree.pipeline
        return Http1ServerFactory(
            self._made,
            pipeline.dispatch,
            pipeline.refuse,
            server_limits(settings),
            settings.max_connections,
            self._wheel,
            self.clock,
            self.epoch_s,
            self.metrics,
        )

    def _made(self, channel: Any, head: RequestHead) -> GatewayRequest:
        request = GatewayRequest(channel, head)
        self._requests.append(request)
        for call in self._calls:
            if call.client.connection is channel:
                call.request = request
        return request

    def _log_of(self, request: GatewayRequest) -> Mapping[str, Any] | None:
        return next((entry for entry in self.log if entry["request_id"] == request.request_id), None)

    def _scripted(self, configuration: Configuration) -> dict[str, ScriptedBackend]:
        backends = {}
        for name, settings in configuration.backends.items():
            backend = backends[name] = ScriptedBackend(name)
            for target in settings.targets:
                if target.scheme not in {"http", "unix"} and not target.is_demo:
                    raise ValueError(f"scripted targets speak HTTP/1.1 without TLS, and not {target.scheme}")
                place = target.path if target.scheme == "unix" else f"{target.host}:{target.port}".lower()
                far_end = ScriptedTarget(place, backend, self.clock)
                backend.targets[target.label] = far_end
                self.clock.far_ends.setdefault("127.0.0.1:1" if target.is_demo else place, far_end)
        return backends


def _environment(
    routes: Mapping[str, Any] | None, routes_file: str | Path | None, environment: Mapping[str, str]
) -> dict[str, str]:
    if routes is not None:
        return {"GATEWAY_ROUTES": orjson.dumps(routes).decode(), **environment}
    if routes_file is not None:
        return {"GATEWAY_ROUTES_FILE": str(routes_file), **environment}
    has_routing = any(name.startswith(("GATEWAY_ROUTES", "GATEWAY_BACKEND_TARGET")) for name in environment)
    return dict(environment) if has_routing else {"GATEWAY_BACKEND_TARGET": "http://backend.test", **environment}


def _name(call: Callable[..., Any]) -> str:
    inner = getattr(call, "func", call)
    return getattr(inner, "__qualname__", type(inner).__qualname__)


def _shows_itself(one: Any) -> bool:
    plain: Any = object.__repr__
    return type(one).__repr__ is not plain


def _watches(call: Callable[..., Any]) -> bool:
    inner = getattr(call, "func", call)
    return (getattr(inner, "__module__", None) or type(inner).__module__).startswith(_WATCHERS)
