"""What a process manager in systemd's manner hands to a service, and what it wants to be told.

Sockets that it has opened come as descriptors, described by variables (sd_listen_fds(3)); what it wants to know goes to
a datagram socket that another variable names (sd_notify(3)). Who listens on what, and when something is to be told, is
decided elsewhere.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Final

from twisted.logger import Logger

_log = Logger()

#: The first descriptor that is passed (SD_LISTEN_FDS_START).
FIRST_DESCRIPTOR: Final = 3
#: Far more than anybody listens on, and few enough to go through.
MAX_DESCRIPTORS: Final = 1024
#: Begins descriptions of endpoints that pick a passed socket themselves, by index or name.
ENDPOINT_PREFIX: Final = "systemd:"
#: How long a full socket of the manager is waited for.
PATIENCE_S: Final = 1.0

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


def send_datagram(address: str, message: bytes) -> None:
    """Send to a UNIX socket.

    Args:
        address: a path, or ``@`` and an abstract name.

    Raises:
        OSError: it cannot be sent, or not soon.
        ValueError: there is no such address.
    """
    if not address.startswith(("/", "@")):
        raise ValueError(f"expected the path of a socket, or @ and a name, not {address!r}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.settimeout(PATIENCE_S)
        sender.sendto(message, f"\0{address[1:]}" if address[0] == "@" else address)


class Notifier:
    """Tells the process manager how the service is: once that it is ready, once that it ends, and nothing after that.

    That it cannot be told is a line of the log, and no more.

    Args:
        address: of the manager's socket; None or empty: there is no manager that wants to know.
        send: sends a datagram, as :func:`send_datagram` does.
    """

    def __init__(self, address: str | None = None, send: Callable[[str, bytes], None] = send_datagram) -> None:
        self._address = address
        self._send = send
        self._is_ready = self._is_stopping = False

    @classmethod
    def taken_from(cls, environ: MutableMapping[str, str]) -> Notifier:
        """For the manager that the variables name, which are taken out: children are not to speak for the service."""
        return cls(environ.pop("NOTIFY_SOCKET", None))

    def ready(self, status: str) -> None:
        """Traffic may come; ``status`` is a line for people."""
        if not self._is_ready and not self._is_stopping:
            self._is_ready = True
            self._tell("READY=1", status)

    def stopping(self, status: str) -> None:
        """The end has begun; ``status`` is a line for people."""
        if not self._is_stopping:
            self._is_stopping = True
            self._tell("STOPPING=1", status)

    def _tell(self, word: str, status: str) -> None:
        if not self._address:
            return
        message = f"{word}\nSTATUS={' '.join(status.split())}\n"
        try:
            self._send(self._address, message.encode())
        except (OSError, ValueError) as exc:
            _log.warn("cannot tell the process manager: {problem}", problem=str(exc), word=word)
