"""The end of a proxied route: hands each request to a :class:`Forwarding`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen
from twisted.web.resource import IResource
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

from txgateway.proxy.backend import Backend
from txgateway.proxy.forwarding import Forwarding
from txgateway.transport.wheel import TimerWheel

if TYPE_CHECKING:
    from txgateway.request import GatewayRequest


@frozen
class ProxySettings:
    """What a route says about proxying; durations in seconds, 0 for none."""

    total_s: float = 30.0
    idle_s: float = 300.0
    body_timeout_s: float = 30.0
    preserve_host: bool = False
    upgrades: frozenset[bytes] = frozenset()


@implementer(IResource)
class ReverseProxyResource:
    """Answers with what a target of the backend answers.

    Position: the innermost of a route.
    Refuses: every UPSTREAM_ reason, POOL_EXHAUSTED, DEADLINE_EXCEEDED, REQUEST_TIMEOUT.
    On cancel: the exchange with the target is given up and its connection closed.
    """

    isLeaf = True

    def __init__(self, backend: Backend, settings: ProxySettings, wheel: TimerWheel) -> None:
        self.backend = backend
        self.settings = settings
        self.wheel = wheel

    def render(self, request: GatewayRequest) -> int:
        Forwarding(request, self.backend, self.settings, self.wheel).start()
        return NOT_DONE_YET

    def getChildWithDefault(self, name: bytes, request: GatewayRequest) -> ReverseProxyResource:  # noqa: ARG002
        return self

    def putChild(self, path: bytes, child: object) -> None:
        raise TypeError("a reverse proxy has no children")
