"""One Resource decorator a file; :mod:`txgateway.pipeline` alone knows their order.

Here is what a middleware from outside needs: subclass :class:`Middleware`, raise a :class:`GatewayError`.
"""

from twisted.web.server import NOT_DONE_YET

from txgateway.errors import CLIENT_GONE, BadRequest, GatewayError, ScopeMissing
from txgateway.middleware.base import Inner, Middleware
from txgateway.middleware.context import Context
from txgateway.own_headers import OwnHeaders, claim_value
from txgateway.request import GatewayRequest
from txgateway.transport.interfaces import HeaderList

__all__ = [
    "CLIENT_GONE",
    "NOT_DONE_YET",
    "BadRequest",
    "Context",
    "GatewayError",
    "GatewayRequest",
    "HeaderList",
    "Inner",
    "Middleware",
    "OwnHeaders",
    "ScopeMissing",
    "claim_value",
]
