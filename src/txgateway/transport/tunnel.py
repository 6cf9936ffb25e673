"""Opaque bytes between a client and a target after an upgrade, with backpressure and an idle limit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from txgateway.transport.websocket import CLOSE_GOING_AWAY, FrameBoundaries
from txgateway.transport.wheel import TimerWheel


class ClientEnd(Protocol):
    """What a tunnel needs of the client's connection."""

    write_blocked: bool

    def tunnel_write(self, data: bytes) -> None: ...
    def tunnel_pause(self) -> None: ...
    def tunnel_resume(self) -> None: ...
    def tunnel_close(self) -> None: ...
    def reset(self) -> None: ...


class TargetEnd(Protocol):
    """What a tunnel needs of the target's connection."""

    def write_raw(self, data: bytes) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def close_tunnel(self) -> None: ...
    def abort(self) -> None: ...


class ByteTunnel:
    """Passes bytes both ways until either end closes or nothing has passed for a while.

    Args:
        client: its end.
        target: its end.
        idle_s: without a byte either way.
        wheel: for the idle limit.
        ended: called once, with a reason if the tunnel was cut and None if an end closed it.
        is_websocket: the bytes are frames, among which the client can be told that we are going away.

    Attributes:
        bytes_in: from the client.
        bytes_out: to the client.
    """

    __slots__ = (
        "_client", "_ended", "_frames", "_idle_s", "_is_leaving", "_over", "_target", "_wheel", "bytes_in", "bytes_out",
        "deadline",
    )  # fmt: skip

    def __init__(
        self,
        client: ClientEnd,
        target: TargetEnd,
        idle_s: float,
        wheel: TimerWheel,
        ended: Callable[[str | None], None],
        *,
        is_websocket: bool = False,
    ) -> None:
        self._client = client
        self._target = target
        self._idle_s = idle_s
        self._wheel = wheel
        self._ended = ended
        self._over = False
        self._frames = FrameBoundaries() if is_websocket else None
        self._is_leaving = False
        self.bytes_in = 0
        self.bytes_out = 0
        wheel.watch(self)
        self.deadline = wheel.after(idle_s)

    def from_client(self, data: bytes) -> None:
        """The client sent ``data``."""
        self.bytes_in += len(data)
        self.deadline = self._wheel.after(self._idle_s)
        self._target.write_raw(data)

    def from_target(self, data: bytes) -> None:
        """The target sent ``data``."""
        if self._frames is not None:
            if self._is_leaving and self._frames.is_between:
                return  # nothing may follow a Close
            end = self._frames.pass_over(data)
            if self._is_leaving and end >= 0:
                data = data[:end] + CLOSE_GOING_AWAY
                self._frames = FrameBoundaries()
        self.bytes_out += len(data)
        self.deadline = self._wheel.after(self._idle_s)
        self._client.tunnel_write(data)

    def going_away(self) -> None:
        """Tell the client to leave, between two frames, if it can be told; what it answers goes to the target."""
        if self._frames is None or self._is_leaving or self._over:
            return
        self._is_leaving = True
        if self._frames.is_between:
            self.bytes_out += len(CLOSE_GOING_AWAY)
            self._client.tunnel_write(CLOSE_GOING_AWAY)

    def client_blocked(self) -> None:
        """The client takes no more for now."""
        self._target.pause_reading()

    def client_drained(self) -> None:
        """The client takes more."""
        self._target.resume_reading()

    def target_blocked(self) -> None:
        """The target takes no more for now."""
        self._client.tunnel_pause()

    def target_drained(self) -> None:
        """The target takes more."""
        self._client.tunnel_resume()

    def client_lost(self) -> None:
        """The client's connection is gone; the target still gets what was written."""
        if not self._over:
            self._target.close_tunnel()
            self._finish(None)

    def target_lost(self) -> None:
        """The target's connection is gone; the client still gets what was written."""
        if not self._over:
            self._client.tunnel_close()
            self._finish(None)

    def cut(self, reason: str) -> None:
        """Close both ends at once."""
        if not self._over:
            self._client.reset()
            self._target.abort()
            self._finish(reason)

    def on_deadline(self, now: float) -> None:
        """Nothing has passed for too long."""
        self.cut("UPSTREAM_TIMEOUT")

    def _finish(self, reason: str | None) -> None:
        self._over = True
        self._wheel.forget(self)
        self._ended(reason)
