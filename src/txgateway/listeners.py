"""Which listeners the settings ask for, and how one is opened."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IListeningPort

from txgateway.config import Settings
from txgateway.config.syntax import PLAIN_SUFFIX, PROXY_PREFIX
from txgateway.transport.interfaces import ServerLimits

BACKLOG = 1024


def traffic_descriptions(settings: Settings) -> tuple[str, ...]:
    """Descriptions of the endpoints for clients, in order, with what we add to Twisted's."""
    return settings.listen or (tcp(settings.host, settings.port),)


def all_descriptions(settings: Settings) -> list[str]:
    """What Twisted is to bind for clients, in the order in which inherited descriptors are: traffic, then redirects."""
    found = [
        description.removesuffix(PLAIN_SUFFIX).removeprefix(PROXY_PREFIX)
        for description in traffic_descriptions(settings)
    ]
    if settings.redirect_port is not None:
        found.append(tcp(settings.host, settings.redirect_port))
    return found


def server_limits(settings: Settings) -> ServerLimits:
    """Limits of the listeners for clients."""
    return ServerLimits(
        max_header_bytes=settings.max_header_bytes,
        max_header_count=settings.max_header_count,
        max_uri_bytes=settings.max_uri_bytes,
        header_timeout_s=settings.header_timeout_s,
        keepalive_timeout_s=settings.keepalive_timeout_s,
    )


def tcp(host: str, port: int) -> str:
    """The description of a TCP endpoint."""
    if ":" in host:
        return f"tcp6:{port}:interface={host.replace(':', chr(92) + ':')}"
    return f"tcp:{port}:interface={host}"


def bind(reactor: Any, description: str, factory: Any) -> IListeningPort:
    """Open a listener.

    Raises:
        CannotListenError: the system refuses.
        OSError: the same.
        ValueError: the description is wrong.
    """
    if description.startswith(("tcp:", "tcp6:")) and "backlog=" not in description:
        description += f":backlog={BACKLOG}"
    port: IListeningPort = result_of(serverFromString(reactor, description).listen(factory))
    return port


def place_of(port: IListeningPort) -> dict[str, object]:
    """Where it listens, as fields of a log line."""
    address = port.getHost()
    name = getattr(address, "name", None)
    return {
        "host": getattr(address, "host", None),
        "port": getattr(address, "port", None),
        "path": name.decode("utf-8", "replace") if isinstance(name, bytes) else name,
    }


def result_of(deferred: Deferred[Any]) -> Any:
    """The result of a Deferred that has fired already, as those of listening do."""
    results: list[Any] = []
    deferred.addBoth(results.append)
    result = results[0]
    raise_exception = getattr(result, "raiseException", None)
    if raise_exception is not None:
        raise_exception()
    return result
