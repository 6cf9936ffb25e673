"""The attempts at one request: each at a target, until one succeeds, or none may follow.

Where the bytes of a request and of its answer go is :mod:`txgateway.proxy.forwarding`'s business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.logger import Logger
from twisted.python.failure import Failure

from txgateway.errors import (
    DeadlineExceeded,
    GatewayError,
    InternalError,
    MethodNotImplemented,
    UpstreamError,
    UpstreamRefused,
    UpstreamTimeout,
)
from txgateway.problem import is_grpc
from txgateway.proxy import grpc
from txgateway.proxy.retries import Retries
from txgateway.proxy.target import Outcome

if TYPE_CHECKING:
    from txgateway.proxy.replay import SentBody
    from txgateway.proxy.reverse_proxy import ReverseProxyResource
    from txgateway.proxy.target import Target
    from txgateway.request import GatewayRequest
    from txgateway.transport.interfaces import ClientConnection

_log = Logger(__name__)

#: Methods whose repetition does no harm (RFC 9110 section 9.2.2).
IDEMPOTENT = frozenset((b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"TRACE"))


class Attempts:
    """Tries to get one request answered.

    It is the pool's ``Waiter`` and an item of the wheel. Every attempt is settled with its target exactly once, as
    soon as its outcome is known.
    """

    __slots__ = (
        "_backend",
        "_blocked_by_target",
        "_connection",
        "_headers",
        "_is_committed",
        "_is_probe",
        "_is_waiting",
        "_replayed",
        "_request",
        "_retries",
        "_route",
        "_sent",
        "_sent_at",
        "_settings",
        "_target",
        "_total_deadline",
        "_try_deadline",
        "_unsent",
        "_upgrade",
        "_wheel",
        "deadline",
    )

    def __init__(self, request: GatewayRequest, route: ReverseProxyResource) -> None:
        self._request = request
        self._route = route
        self._backend = route.backend
        self._settings = route.settings
        self._wheel = route.wheel
        self._target: Target | None = None  # of the attempt under way
        self._connection: ClientConnection | None = None
        self._retries: Retries | None = None
        self._sent: SentBody | None = None
        self._is_waiting = False
        self._replayed = False
        self._is_committed = False
        self._blocked_by_target = False
        self._unsent = 0

    def start(self) -> None:
        """Pick a target and send the request, now or when the pool has a connection.

        Raises:
            GatewayError: there is none to be had.
        """
        request, settings = self._request, self._settings
        now = request.channel.seconds()
        request.backend_name = self._backend.name
        self._backend.budget.request(now)
        request.on_finish(self._finished)
        self._upgrade = request.upgrade if request.upgrade and request.upgrade.lower() in settings.upgrades else b""
        if request.upgrade and not self._upgrade and request.clientproto == b"HTTP/2":
            raise MethodNotImplemented  # an extended CONNECT cannot be taken for an ordinary request
        self._total_deadline = request.started_at + self._route.total_s
        self._attempt(now)
        request.producer = self
        if not request.ended:
            self._wheel.watch(self)

    # --- attempts -------------------------------------------------------------------------------------------------

    def _attempt(self, now: float) -> None:
        request, retries = self._request, self._retries
        target = self._backend.pick(request) if retries is None else self._backend.pick(request, retries.tried)
        self._target = target
        if retries is not None:
            retries.tried.append(target)
            if grpc.TIMEOUT in request.fields:
                grpc.shorten_timeout(request, now)
        self._is_probe = target.begin(now)
        self._sent_at = now
        if not request.body_complete:  # the total time begins with the body's end
            self._total_deadline = now + self._route.total_s
        request.target_label = target.label
        if request.trace is not None and request.trace.is_sampled:
            request.trace.begin_attempt(target, now)
        request.upstream_s = None
        self._try_deadline = now + self._route.per_try_s
        patience = min(self._total_deadline, self._try_deadline)
        self.deadline = min(patience, now + self._settings.idle_s)
        self._headers = self._route.fields.of(request, target, self._upgrade, patience - now)
        self._acquire(target, fresh=False)

    def _acquire(self, target: Target, *, fresh: bool) -> None:
        self._request.attempts += 1
        connection = target.pool.acquire(self, fresh=fresh, tunnel=self._upgrade != b"")
        if connection is None:
            self._is_waiting = True
        else:
            self.on_connection(connection)

    @property
    def needs_http2(self) -> bool:
        """A gRPC call does: for its trailers, and for two streams at once."""
        return is_grpc(self._request.header(b"content-type"))

    def on_connection(self, connection: ClientConnection) -> None:
        """The pool lends a connection: send the request."""
        raise NotImplementedError

    def on_deadline(self, now: float) -> None:
        """The wheel: somebody's time is up."""
        raise NotImplementedError

    def on_unavailable(self, error: GatewayError) -> None:
        """The pool has none to lend."""
        self._is_waiting = False
        self._failed(error)

    def on_failed(self, error: UpstreamError) -> None:
        """The exchange failed; one that the target has not looked at gets one more chance, on a fresh connection."""
        self._connection = None
        target = self._target
        if (
            not self._replayed
            and target is not None
            and not error.response_started
            and (isinstance(error, UpstreamRefused) or self._is_stale(error))
            and (self._sent is None or self._sent.is_whole)
        ):
            self._replayed = True
            self._hold_body()
            try:
                self._acquire(target, fresh=True)
            except GatewayError as unavailable:
                self._failed(unavailable)
            return
        self._failed(error)

    def _is_stale(self, error: UpstreamError) -> bool:
        """Whether the target had most likely closed the connection before it got the request."""
        return error.on_reused_connection and self._request.method in IDEMPOTENT

    def _failed(self, error: GatewayError) -> None:
        """The attempt came to nothing: once more, or the error is the client's."""
        request = self._request
        if isinstance(error, UpstreamError):
            now = request.channel.seconds()
            target = self._target
            self._settle(_outcome(error), now, now - self._sent_at, is_fault=True, reason=error.reason)
            if not error.bytes_written:
                self._backend.on_connect_failed()
            if target is not None and not request.responded:
                was_sent = error.bytes_written or self._replayed  # if not this time, then the time before
                is_repeated = self._route.retry.repeats_error(error, request.method, was_sent)
                if is_repeated and self._try_again(target, now):
                    return
        request.fail(error)

    def _try_again(self, target: Target, now: float, at_least_s: float = 0.0) -> bool:
        """Arrange for another attempt, unless there cannot or may not be one.

        Args:
            target: of the attempt that has just been settled.
            at_least_s: how long it asked to wait.
        """
        request, sent = self._request, self._sent
        if self._is_committed:
            return False
        retries = self._retries
        if retries is None:
            retries = self._retries = Retries(self._route, target)
        if sent is not None and not sent.is_whole:
            if not retries.is_spent:
                retries.refuse_body(request)
            return False
        deadline = self._total_deadline if request.body_complete else now + self._route.total_s
        deadline = min(deadline, now + self._settings.idle_s)
        delay = retries.plan(now, deadline, at_least_s)
        if delay is None:
            return False
        self._abandon()
        self._hold_body()
        self.deadline = deadline
        retries.wait(delay, self._attempt_again, self._attempt_failed)
        return True

    def _hold_body(self) -> None:
        """Nobody takes the body until the next connection is there."""
        self._blocked_by_target = False
        self._request.pause_body()

    def _attempt_again(self) -> None:
        try:
            self._attempt(self._request.channel.seconds())
        except GatewayError as error:
            self._request.fail(error)

    def _attempt_failed(self, failure: Failure) -> None:
        _log.failure("attempt failed", failure, request_id=self._request.request_id)
        self._request.fail(InternalError())

    def _settle(
        self,
        outcome: Outcome,
        now: float,
        seconds: float,
        *,
        is_fault: bool,
        reason: str | None = None,
        is_unwanted: bool = False,
    ) -> None:
        """The attempt is over, as far as its target is concerned; harmless if that was said before.

        Args:
            reason: stable code of what it failed of, or why it was given up.
            is_unwanted: the answer is one to try again after, whether or not the target is to blame.
        """
        target, self._target = self._target, None
        if target is None:
            return
        target.settle(outcome, now, seconds, is_fault=is_fault, is_probe=self._is_probe)
        self._is_probe = False
        request = self._request
        if request.trace is not None and request.trace.is_sampled:
            request.trace.end_attempt(request, now, reason)
        if self._retries is not None and outcome is not Outcome.CANCELLED:
            self._retries.ended(is_success=outcome is Outcome.OK and not is_unwanted)

    def _end_probe(self, now: float) -> None:
        """The target has answered, which is all that its breaker wants to know: the body may be long."""
        self._is_probe = False
        if self._target is not None:
            self._target.breaker.succeeded(now, is_probe=True)

    def _abandon(self) -> None:
        """Give up the connection, or the wait for one."""
        if self._is_waiting and self._target is not None:
            self._target.pool.cancel(self)
        self._is_waiting = False
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.cancel()

    def _finished(self, request: GatewayRequest) -> None:
        self._wheel.forget(self)
        if self._retries is not None:
            self._retries.cancel()
        self._abandon()
        if self._target is None:
            return
        error, reason, now = request.error, request.reason, request.ended_at
        if reason is None:
            seconds = now - self._sent_at if request.upstream_s is None else request.upstream_s
            self._settle(Outcome.OK, now, seconds, is_fault=False)
        elif isinstance(error, UpstreamError):
            self._settle(_outcome(error), now, now - self._sent_at, is_fault=True, reason=reason)
        elif isinstance(error, DeadlineExceeded):
            self._settle(Outcome.TIMEOUT, now, now - self._sent_at, is_fault=False, reason=reason)
        else:
            self._settle(Outcome.CANCELLED, now, now - self._sent_at, is_fault=False, reason=reason)


def _outcome(error: UpstreamError) -> Outcome:
    return Outcome.TIMEOUT if isinstance(error, UpstreamTimeout) else Outcome.ERROR
