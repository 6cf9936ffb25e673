"""One connection to Redis that comes back by itself, and whether it can be relied on.

A link is ready once the script has succeeded on it twice, the second time within a command's deadline, and no longer
when anything is wrong: the connection is lost, a reply is late, an error, or nonsense. Then it is closed, whatever
waits on it fails, and after a pause of at most a second another connection has to pass the trials. This is the
circuit breaker and the watchdog in one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING, Any, Final, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

if TYPE_CHECKING:
    from txgateway.ratelimit.redis_protocol import RedisProtocol

__all__ = ["ATTEMPT_TIMEOUT_S", "Command", "Link"]

#: For a connection, the log-in and the first trial together.
ATTEMPT_TIMEOUT_S: Final = 1.0
_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 1.0
#: A link that was ready for so long was not a mistake: its next pause is a short one again.
_GOOD_SERVICE_S: Final = 10.0
#: Commands that may wait for replies; with one deadline for each, more than this is not load but a fault.
_MAX_WAITING: Final = 20_000
#: Characters of a server's error that are told.
_MAX_SHOWN: Final = 200


class Command(Protocol):
    """A call of the script.

    Attributes:
        deadline_at: clock time at which it has failed.
        in_full: send the script itself, not its digest.
        reply_length: how many numbers the script returns.
    """

    deadline_at: float
    in_full: bool

    @property
    def reply_length(self) -> int: ...

    def wire(self) -> bytes:
        """The command as it is sent."""

    def succeed(self, reply: list[int]) -> None:
        """The script's reply."""

    def fail(self) -> None:
        """There will be none."""


class Observer(Protocol):
    """Whom a link tells about itself; ``why`` is None when it has become ready."""

    def link_changed(self, why: str | None) -> None: ...
    def trial(self, *, in_full: bool) -> Command: ...


class Link:
    """A connection and its successors.

    Args:
        clock: the reactor's.
        endpoint: where to.
        timeout_s: for a command.
        observer: told of each change, and asked for the command that is tried first.
        random: spreads the pauses.

    Attributes:
        is_ready: commands may be sent.
    """

    def __init__(
        self,
        clock: IReactorTime,
        endpoint: IStreamClientEndpoint,
        timeout_s: float,
        observer: Observer,
        random: Random,
    ) -> None:
        self.is_ready = False
        self._clock = clock
        self._endpoint = endpoint
        self._timeout_s = timeout_s
        self._observer = observer
        self._random = random
        self._factory: Factory | None = None
        self._protocol: RedisProtocol | None = None
        self._attempt: Deferred[Any] | None = None
        self._timer: IDelayedCall | None = None  # for the pause, then for the attempt, then for the oldest command
        self._waiting: deque[Command] = deque()
        self._pause_s = _FIRST_PAUSE_S
        self._ready_at = 0.0
        self._passed_first = False

    def start(self, factory: Factory) -> None:
        """Connect, again and again; ``factory`` makes protocols whose owner is this link."""
        self._factory = factory
        self._connect()

    def close(self) -> Deferred[None]:
        """Close for good; what waits fails.

        Returns:
            fires when the connection is gone.
        """
        gone: Deferred[None] = Deferred()
        self._factory = None
        if self._protocol is None:
            gone.callback(None)
        else:
            self._protocol.whenDisconnected().addCallback(lambda _: gone.callback(None))
        self.failed("closed")
        return gone

    def send(self, commands: Sequence[Command]) -> None:
        """Write commands, all at once; only while ready."""
        if self._protocol is None or len(self._waiting) + len(commands) > _MAX_WAITING:
            for command in commands:
                command.fail()
            return
        deadline_at = self._clock.seconds() + self._timeout_s
        for command in commands:
            command.deadline_at = deadline_at
        self._waiting.extend(commands)
        self._protocol.transport.write(b"".join([command.wire() for command in commands]))
        if self._timer is None:
            self._timer = self._clock.callLater(self._timeout_s, self._look)

    # --- what the protocol tells ---

    def logged_in(self, protocol: RedisProtocol) -> None:
        """The connection can take commands: try whether it does what it shall."""
        self._protocol = protocol
        self._passed_first = False
        self._try(protocol)

    def replied(self, reply: Any) -> None:
        """The oldest command has its reply."""
        if not self._waiting:
            self.failed("a reply to nothing")
            return
        command = self._waiting[0]
        if type(reply) is list and len(reply) == command.reply_length and all(type(n) is int for n in reply):
            self._waiting.popleft()
            if not self.is_ready:
                self._passed()
            command.succeed(reply)
        elif str(reply).startswith("NOSCRIPT") and not command.in_full and self._protocol is not None:
            # Scripts were flushed. Replies come in order, so this one now waits behind all that were sent since.
            self._waiting.popleft()
            self._waiting.append(command)
            command.in_full = True
            self._protocol.transport.write(command.wire())
        else:
            self.failed(f"error: {reply}"[:_MAX_SHOWN] if isinstance(reply, Exception) else "a reply of another kind")

    def failed(self, why: str) -> None:
        """Something is wrong: give this connection up, and try again after a pause."""
        if self.is_ready and self._clock.seconds() - self._ready_at >= _GOOD_SERVICE_S:
            self._pause_s = _FIRST_PAUSE_S
        self.is_ready = False
        self._stop_timer()
        attempt, self._attempt = self._attempt, None
        protocol, self._protocol = self._protocol, None
        if attempt is not None:
            attempt.cancel()
        if protocol is not None:
            protocol.abandon()
        waiting, self._waiting = self._waiting, deque()
        if self._factory is not None:
            self._timer = self._clock.callLater(self._pause_s * self._random.uniform(0.5, 1.0), self._connect)
            self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
        self._observer.link_changed(why)
        for command in waiting:
            command.fail()

    # --- attempts ---

    def _connect(self) -> None:
        assert self._factory is not None
        self._timer = self._clock.callLater(ATTEMPT_TIMEOUT_S, self.failed, "no connection in time")
        attempt = self._endpoint.connect(self._factory)
        self._attempt = attempt
        attempt.addCallbacks(self._connected, self._not_connected, errbackArgs=(attempt,))

    def _connected(self, protocol: RedisProtocol) -> None:
        self._attempt = None
        # Known from here on, so that it is closed if the log-in takes too long.
        if protocol.owner is self:
            self._protocol = protocol

    def _not_connected(self, failure: Failure, attempt: Deferred[Any]) -> None:
        if self._attempt is attempt:
            self._attempt = None
            self.failed(f"cannot connect: {failure.getErrorMessage()}")

    def _try(self, protocol: RedisProtocol) -> None:
        trial = self._observer.trial(in_full=not self._passed_first)
        self._waiting.append(trial)
        protocol.transport.write(trial.wire())

    def _passed(self) -> None:
        self._stop_timer()
        if not self._passed_first and self._protocol is not None:
            # The first trial may have waited for a handshake; the second one tells how quick the server is.
            self._passed_first = True
            self._timer = self._clock.callLater(self._timeout_s, self.failed, "too slow")
            self._try(self._protocol)
        else:
            self.is_ready = True
            self._ready_at = self._clock.seconds()
            self._observer.link_changed(None)

    # --- deadlines: one timer for all commands ---

    def _look(self) -> None:
        self._timer = None
        if not self._waiting:
            return
        now = self._clock.seconds()
        due_at = min(command.deadline_at for command in self._waiting)
        if due_at > now:
            self._timer = self._clock.callLater(due_at - now, self._look)
        else:
            # If it was this process that was late, the reply is in the socket: read that first.
            self._timer = self._clock.callLater(0, self._judge, now)

    def _judge(self, looked_at: float) -> None:
        self._timer = None
        if any(command.deadline_at <= looked_at for command in self._waiting):
            self.failed(f"no reply within {self._timeout_s * 1000:g} ms")
        else:
            self._look()

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()
