"""What a process manager in systemd's manner hands to a service, and what it wants to be told.

Sockets that it has opened come as descriptors, described by variables (sd_listen_fds(3)); what it wants to know goes to
a datagram socket that another variable names (sd_notify(3)). Who listens on what, and when something is to be told, is
decided elsewhere.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

_log = Logger(__name__)

#: The first descriptor that is passed (SD_LISTEN_FDS_START).
FIRST_DESCRIPTOR: Final = 3
#: Far more than anybody listens on, and few enough to go through.
MAX_DESCRIPTORS: Final = 1024
#: Begins descriptions of endpoints that pick a passed socket themselves, by index or name.
ENDPOINT_PREFIX: Final = "systemd:"
#: How long a full socket of the manager is waited for.
PATIENCE_S: Final = 1.0
#: The most characters of a line for people: the manager reads 4 KiB of a datagram, and forgets longer ones.
MAX_STATUS_LENGTH: Final = 500
#: No more signs of life than one in this time, however impatient the manager is.
MIN_BEAT_S: Final = 0.01

_LISTEN_VARIABLES: Final = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")


def first_environment(proc: Path = Path("/proc/self")) -> dict[str, str]:
    """The variables that this process was started with.

    Twisted takes those of passed sockets out when it is imported, and then forgets the sockets if they have no names.
    """
    try:
        lines = (proc / "environ").read_bytes().split(b"\0")
    except OSError:
        return {}
    pairs = (os.fsdecode(line).partition("=") for line in lines)
    return {name: value for name, equals, value in pairs if equals}


def take_descriptors(
    environ: MutableMapping[str, str], pid: int, started_with: Mapping[str, str], first: int = FIRST_DESCRIPTOR
) -> tuple[int, ...]:
    """The sockets that were passed to this process, which its children will not have.

    The variables that tell of them are taken out of ``environ``, whomever they were meant for.

    Args:
        environ: variables of the process.
        pid: of the process.
        started_with: the variables at its start.
        first: descriptor that is passed.

    Raises:
        ValueError: they are meant for this process, and make no sense.
    """
    for name in _LISTEN_VARIABLES:
        environ.pop(name, None)
    text = started_with.get("LISTEN_FDS", "")
    if started_with.get("LISTEN_PID") != str(pid) or not text:
        return ()
    if not (text.isascii() and text.isdigit() and len(text) < 5 and int(text) <= MAX_DESCRIPTORS):
        raise ValueError(f"{text[:40]!r} is not accepted: expected a number of sockets, up to {MAX_DESCRIPTORS}")
    descriptors = tuple(range(first, first + int(text)))
    for descriptor in descriptors:
        try:
            os.set_inheritable(descriptor, False)
        except OSError as exc:
            raise ValueError(f"{text} sockets were promised, but there is no descriptor {descriptor}") from exc
    return descriptors


def listeners_from(descriptors: Sequence[int], descriptions: Sequence[str]) -> tuple[int, ...]:
    """The sockets to accept from instead of opening any.

    Args:
        descriptors: what was passed.
        descriptions: of the listeners that are configured, in order.

    Returns:
        One for each description, or nothing where nothing was passed, or where descriptions pick for themselves.

    Raises:
        ValueError: there are not as many as listeners.
    """
    if any(description.startswith(ENDPOINT_PREFIX) for description in descriptions):
        return ()
    if descriptors and len(descriptors) != len(descriptions):
        raise ValueError(
            f"{len(descriptors)} sockets were passed for {len(descriptions)} listeners: expected one for each endpoint of"
            " GATEWAY_LISTEN (or for GATEWAY_PORT), in their order, and then one for GATEWAY_REDIRECT_PORT where it is set"
        )
    return tuple(descriptors)


def take_watchdog_s(environ: MutableMapping[str, str], pid: int) -> float:
    """How long the manager waits for a sign of life before it ends the service (sd_watchdog_enabled(3)).

    The variables that tell of it are taken out of ``environ``, whomever they were meant for.

    Args:
        environ: variables of the process.
        pid: of the process.

    Returns:
        Seconds; 0 if it does not wait for any.

    Raises:
        ValueError: it waits, but not for a time.
    """
    text, whose = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
    if not text or whose not in {"", str(pid)}:
        return 0.0
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text)):
        raise ValueError(f"{text[:40]!r} is not accepted: expected a number of microseconds above zero")
    return int(text) / 1e6


def send_datagram(address: str, message: bytes, patience_s: float = PATIENCE_S) -> None:
    """Send to a UNIX socket.

    Args:
        address: a path, or ``@`` and an abstract name.
        message: to send.
        patience_s: for a socket that is full; 0 for none.

    Raises:
        OSError: it cannot be sent, or not soon.
        ValueError: there is no such address.
    """
    if not address.startswith(("/", "@")):
        raise ValueError(f"expected the path of a socket, or @ and a name, not {address!r}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.settimeout(patience_s)
        sender.sendto(message, f"\0{address[1:]}" if address[0] == "@" else address)


class Notifier:
    """Tells the process manager how the service is: that it is ready, that it reloads, that it lives, that it ends.

    That it cannot be told is a line of the log, and no more.

    Args:
        address: of the manager's socket; None or empty: there is no manager that wants to know.
        send: sends a datagram, as :func:`send_datagram` does.
        watchdog_s: how long the manager waits for a sign of life; 0 for no end.
        monotonic_ns: the clock that the manager compares with, CLOCK_MONOTONIC.
    """

    def __init__(
        self,
        address: str | None = None,
        send: Callable[[str, bytes, float], None] = send_datagram,
        watchdog_s: float = 0.0,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._address = address
        self._send = send
        self._watchdog_s = watchdog_s
        self._monotonic_ns = monotonic_ns
        self._is_ready = self._is_reloading = self._is_stopping = self._is_deaf = False
        self._beat: IDelayedCall | None = None

    @classmethod
    def taken_from(cls, environ: MutableMapping[str, str], pid: int) -> Notifier:
        """For the manager that the variables name, which are taken out: children are not to speak for the service.

        Raises:
            ValueError: they make no sense.
        """
        return cls(environ.pop("NOTIFY_SOCKET", None), watchdog_s=take_watchdog_s(environ, pid))

    def ready(self, status: str) -> None:
        """Traffic may come; ``status`` is a line for people. Once, and not after the end has begun."""
        if not self._is_ready and not self._is_stopping:
            self._is_ready = True
            self._tell("READY=1", status)

    def reloading(self) -> None:
        """The configuration is asked for again. Nothing before the service was ready: a start is all the manager knows."""
        if self._is_ready and not self._is_stopping:
            self._is_reloading = True
            self._tell(f"RELOADING=1\nMONOTONIC_USEC={self._monotonic_ns() // 1000}", "reloading")

    def reloaded(self, status: str) -> None:
        """All that was asked for is over, whatever came of it; ``status`` is a line for people."""
        if self._is_reloading and not self._is_stopping:
            self._is_reloading = False
            self._tell("READY=1", status)

    def stopping(self, status: str) -> None:
        """The end has begun; ``status`` is a line for people."""
        if not self._is_stopping:
            self._is_stopping = True
            self._tell("STOPPING=1", status)

    def live(self, clock: IReactorTime) -> None:
        """Give signs of life from now on, twice in the time that the manager waits for one."""
        if self._address and self._watchdog_s:
            # What comes next is settled first, so that nothing that fails is the last one.
            self._beat = clock.callLater(max(self._watchdog_s / 2, MIN_BEAT_S), self.live, clock)
            self._tell("WATCHDOG=1", patience_s=0.0)

    def end(self) -> None:
        """Give no more signs of life."""
        if self._beat is not None and self._beat.active():
            self._beat.cancel()

    def _tell(self, word: str, status: str = "", patience_s: float = PATIENCE_S) -> None:
        if not self._address:
            return
        line = " ".join(status.split())[:MAX_STATUS_LENGTH]
        message = f"{word}\nSTATUS={line}\n" if status else f"{word}\n"
        try:
            self._send(self._address, message.encode("utf-8", "replace"), patience_s)
        except (OSError, ValueError) as exc:
            if not (self._is_deaf and word == "WATCHDOG=1"):  # these are many
                _log.warn("cannot tell the process manager: {problem}", problem=str(exc), word=word.partition("\n")[0])
            self._is_deaf = True
        else:
            self._is_deaf = False
